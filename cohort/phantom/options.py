"""What a phantom cohort can be asked for. Imports no library."""

PRESETS = ("clear", "dhcp", "null", "diffuse")
FIELDS_OF_VIEW = ("fixed", "varied")
MODALITIES = ("T2w", "T1w", "FA", "MD")
DEFAULT_MISSING = 0.15  # of the sessions, for T1w and for diffusion
DEFAULT_VOXEL_SIZE = 1.25  # mm
SCANNERS = ("a", "b", "c")
