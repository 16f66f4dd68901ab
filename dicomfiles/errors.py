"""The error of this room."""

from preprocessing import VolumeError


class SeriesError(VolumeError):
    """A delivery does not give one T2w volume. The message is one sentence: what was found, where, and what to do."""
