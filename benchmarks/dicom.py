"""From a full-size DICOM study to its probability: a folder, a zip, and compressed slices."""

import shutil
from pathlib import Path

from hospital.synthetic import write_study

from .contestants import interleave
from .report import Measurement, spread
from .setting import GB, Setting, best

SECONDS = 3  # the target, on two cores


def study(folder: str, way: str):
    """A turn takes the path of a study; the answer is its probability of injury with both views.

    Args:
        folder: of the model.
        way: the precision of the network.
    """
    import torch

    from dicomfiles import read
    from machine.cores import available_cores
    from machine.memory import keep_freed_memory
    from screening.fast import prepare
    from screening.loading import load_model

    torch.set_num_threads(available_cores())
    keep_freed_memory()
    model, processor = load_model(folder)
    model = prepare(model, way)

    @torch.inference_mode()
    def turn(path):
        pixel_values = processor(read(path).image, return_tensors="pt").pixel_values
        return model.predict_proba(pixel_values)[0, 1].item()

    return turn


def measure_study(setting: Setting) -> list[Measurement]:
    """9. A DICOM study of one full-size scan: headers, choice, checks, pixels, preprocessing, network with both views.

    Imports and the model are loaded before. The first turn does not count.
    """
    section = "9. DICOM study to TTA probability"
    try:
        import gdcm  # noqa: F401
        import pydicom  # noqa: F401
    except ImportError as error:
        return [Measurement(section, "a folder of slices", note=f"not installed: {error.name}")]
    plain = setting.folder / "study"
    slices = write_study(setting.scans[0], plain)
    kinds = {"a folder of slices": plain, "a zip": Path(shutil.make_archive(str(plain), "zip", plain))}
    kinds["a folder of JPEG lossless slices"] = compress(plain, setting.folder / "compressed")
    turns = [str(path) for _ in range(setting.turns) for path in kinds.values()]
    series = interleave("study", {"dicom": {"folder": str(setting.model), "way": best()}}, turns)["dicom"]
    rows = []
    for number, what in enumerate(kinds):
        seconds = spread(series.seconds[number :: len(kinds)])
        note = f"{slices} slices, {best()}, at most {series.peak_bytes / GB:.2f} GB"
        rows.append(Measurement(section, what, seconds, None, f"< {SECONDS} s", seconds[0] < SECONDS, note))
    return rows


def compress(source: Path, target: Path) -> Path:
    """Copy a study with its slices in JPEG lossless (.70)."""
    import gdcm

    target.mkdir()
    syntax = gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1)
    for path in source.iterdir():
        reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
        reader.SetFileName(str(path))
        reader.Read()
        change.SetTransferSyntax(syntax)
        change.SetInput(reader.GetImage())
        change.Change()
        writer.SetFileName(str(target / path.name))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        if not writer.Write():
            raise RuntimeError(f"gdcm could not compress {path}")
    return target
