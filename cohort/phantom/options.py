"""What a phantom cohort can be asked for. Imports no library."""

PRESETS = ("clear", "dhcp", "null")
FIELDS_OF_VIEW = ("fixed", "varied")
DEFAULT_VOXEL_SIZE = 1.25  # mm
SCANNERS = ("a", "b", "c")
