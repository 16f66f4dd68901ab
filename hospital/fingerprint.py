"""Whether a file that comes again is the same image: by its pixels and where they lie, not by how they are encoded."""

import hashlib
from pathlib import Path

from dicomfiles.delivery import File, Opened
from dicomfiles.headers import Frame, Headers
from dicomfiles.pixels import SYNTAXES, frames_of, silence_gdcm


def fingerprint(path: Path) -> str:
    """What an MR image shows: a hash of decoded pixels, and of position, orientation, spacing and scale of each slice.

    An archive may change other headers, or the encoding: the fingerprint stays the same.

    Returns:
        32 letters; none if the file is no MR image that can be decoded without loss.
    """
    found = hashlib.sha256()
    try:
        with Opened() as opened:
            header = Headers(opened).read(File(str(path), path.stat().st_size))
            if header is None or header.instance is None:
                return ""
            if SYNTAXES[header.instance.syntax] == "gdcm":
                silence_gdcm()
            for frame, pixels in zip(header.instance.frames, frames_of(header.instance, opened), strict=True):
                found.update(f"{pixels.dtype} {pixels.shape} {place(frame)}".encode())
                found.update(pixels.tobytes())
    except Exception:  # damaged bytes can make a decoder raise anything
        return ""
    return found.hexdigest()[:32]


def place(frame: Frame) -> list[float]:
    """Where a slice lies and how it is scaled, without the last digits, which archives may round."""
    numbers = [round(value, 3) for value in (*frame.position, *frame.orientation, *frame.spacing)]
    numbers += [float(f"{value:.6g}") for value in (frame.slope, frame.intercept)]
    return [value + 0.0 for value in numbers]  # no -0.0
