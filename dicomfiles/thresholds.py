"""Every limit of this room. The rules for T2w were tried on synthetic deliveries, not on files of real scanners."""

# ------------------------------------------------------------------------------------------- what counts as T2-weighted

MIN_REPETITION_TIME = 1000.0  # ms; below, a spin echo is T1-weighted
MIN_ECHO_TIME = 60.0  # ms; below, it is T1- or proton-density-weighted
MAX_INVERSION_TIME = 400.0  # ms; from here on fluid is suppressed (FLAIR). Fat suppression (STIR) has about 150
MAX_AGE = 365.0  # days; the method is for newborns

# values of ImageType, FrameType and ComplexImageComponent that exclude a frame, and what to call it
EXCLUDED_TYPES = {
    "LOCALIZER": "a localizer",
    "MOSAIC": "a mosaic",
    "MIP": "a projection",
    "MNIP": "a projection",
    "MAX_IP": "a projection",
    "MIN_IP": "a projection",
    "PROJECTION IMAGE": "a projection",
    "MPR": "reformatted",
    "REFORMATTED": "reformatted",
    "RESAMPLED": "reformatted",
    "P": "a phase image",
    "PHASE": "a phase image",
    "PHASE MAP": "a phase image",
    "R": "a real part",
    "REAL": "a real part",
    "I": "an imaginary part",
    "IMAGINARY": "an imaginary part",
    "DIFFUSION": "diffusion-weighted",
    "ADC": "diffusion-weighted",
    "TRACEW": "diffusion-weighted",
    "FA": "diffusion-weighted",
    "ASL": "a perfusion image",
    "PERFUSION": "a perfusion image",
    "SUBTRACTION": "a subtraction",
    "SCREEN SAVE": "a screenshot",
}
# BodyPartExamined with one of these words excludes a series
OTHER_BODY_PARTS = ("SPINE", "ABDOMEN", "PELVIS", "CHEST", "HEART", "BREAST", "LIVER", "KNEE", "HIP", "LEG", "FOOT")

# ------------------------------------------------------------------------------------------------------ what is a stack

MIN_SLICES = 8
SAME_SPACING = 1e-3  # mm, between the pixel spacings of a series
SAME_DIRECTION = 1e-3  # between the direction cosines of a series, and of their lengths from 1
RIGHT_ANGLE = 1e-2  # the largest cosine of the angle between rows and columns
GAP_SHARE, GAP_LENGTH = 0.02, 0.03  # of the mean gap, mm: a gap between slices may differ by the larger one
SAME_POSITION = 0.01  # mm; slices closer than this are at one position
HEAD_SHARE = 0.15  # of the range of intensities: brighter voxels count as head
CUT_SHARE = 0.7  # of the largest section of the head: an end slice with more suggests that slices are missing
MAX_DRIFT = 0.1  # pixels; how far slices may be displaced sideways

# ------------------------------------------------------------------------------------------ what a delivery may contain

MAX_FILES = 20_000
MAX_EDGE = 2048  # rows or columns of a slice
MAX_VOLUME = 1_500_000_000  # bytes of the decoded volume, at four bytes a voxel
MAX_FILE = 1_500_000_000  # bytes of one file
MAX_UNPACKED = 4_000_000_000  # bytes of all files in a zip
MAX_RATIO, RATIO_FROM = 100, 64_000_000  # a zip of more than so many bytes may be compressed by at most this factor
MAX_DIRECTORY = 4_000_000  # bytes of the list of files in a zip: 20,000 with names of 150 letters
HEADER_BYTES = (1 << 16, 1 << 20, 1 << 24)  # of a file, read until its header is complete
MAX_ITEMS = 100_000  # of the sequences in a header; each takes about a kilobyte
MAX_FRAMES = 200_000  # of all images
MAX_HEADERS = 1 << 28  # bytes of all headers that are longer than the first of these
