"""Convert a trained model to one file for ONNX Runtime or OpenVINO, and check it against PyTorch.

    python -m publishing.convert runs/phantom-clear-demo/fold-4/model --format onnx
    python -m publishing.convert FOLDER|HUB_ID --format openvino --dtype bfloat16 --output gloresnet.xml
    python -m publishing.convert FOLDER --format openvino --dtype int8 --calibration scans/*.nii.gz

The converted model takes standardised `pixel_values` (B, C, S, S, S) float32 and, with several modalities, `presence`
(B, C) bool. It returns `views` (V, B, 2), the
probabilities of the volume and of its mirror image, and `probabilities` (B, 2), their mean. Softmax and temperature are
included. A model with a local stream also takes `local_patches`, `local_valid` and, if it has weights for them,
`local_shares` from the processor, and returns `global_views`, `p_local`, `p_shares` and `candidates`. The file also
holds the labels, threshold, provenance and processor settings, so `predict.py --model FILE` needs nothing else.
OpenVINO writes the weights to a `.bin` file next to the `.xml` file.

Exit status: 0 converted, 1 the conversion failed or differs too much from PyTorch (no file is kept), 2 wrong call,
130 interrupted.
"""

if __name__ == "__main__":  # first, so that Ctrl-C and SIGTERM are handled during the slow imports
    from machine.interruption import begin_program

    begin_program("publishing.convert")

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from machine.programs import WRONG_CALL, end_if_missing
from screening.formats import PACKAGES, SUFFIXES, is_converted_file

NAME = "publishing.convert"
TOLERANCES = {"float32": 1e-4, "bfloat16": 5e-3, "int8": 2e-2}  # in probability
MIN_CALIBRATION = 8  # scans; half of them set the ranges of the activations, half show whether these hold
CALIBRATING = slice(None, None, 2)  # of the calibration scans, those that set the ranges; the check covers all


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m publishing.convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("folder", metavar="FOLDER|HUB_ID", help="a model you trust: its code is executed")
    add("--format", required=True, choices=list(SUFFIXES))
    add("--dtype", choices=list(TOLERANCES), default="float32", help="bfloat16 and int8 need OpenVINO")
    add(
        "--calibration",
        nargs="+",
        metavar="SCAN",
        help=f"scans like those to be screened; int8 needs {MIN_CALIBRATION} or more",
    )
    add("--output", type=Path, metavar="FILE", help="default: FOLDER.onnx or .xml, with the dtype in its name")
    args = parser.parse_args(argv)
    if args.output and (args.output.suffix != SUFFIXES[args.format] or args.output.is_dir()):
        parser.error(f"--output {args.output} must be a {SUFFIXES[args.format]} file for --format {args.format}")
    if (args.dtype == "int8") != bool(args.calibration):
        parser.error(f"--dtype int8 and --calibration go together: give both, with {MIN_CALIBRATION} or more scans")
    return args


if __name__ == "__main__":  # a wrong call is answered before the slow imports
    given = parse_arguments()
    is_hub_name = given.folder.count("/") == 1 and not given.folder.startswith((".", "/", "~"))
    end_if_missing(NAME, [*([] if is_hub_name else [given.folder]), *(given.calibration or ())], WRONG_CALL)

import contextlib
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from architectures.networks import is_resnet
from machine.programs import one_line, run_program, stopped
from preprocessing.preparation_gloresnet import SETTINGS
from run_folder.files import WriteError, writing
from screening.exported import (
    FORMAT,
    FORMAT_WITH_BIAS_CORRECTION,
    FORMAT_WITH_FRAMING,
    FORMAT_WITH_LOCAL_STREAM,
    FORMAT_WITH_MODALITIES,
    LOCAL_INPUTS,
    PRESENCE,
    ExportedModel,
    cpu_capabilities,
    require_package,
)
from screening.fast import smooth_noise
from screening.loading import ModelError, load_model, load_pytorch_model
from screening.modalities import modalities_of
from screening.model import has_local_stream
from screening.one_scan import has_search

from .graph import BLOCKS, for_inference, to_openvino, to_openvino_int8, write_onnx, write_openvino

TEMPORARY, LOCK = ".converting", ".lock"  # how a temporary folder's name ends, and the file that a conversion locks


class WrongCall(Exception):
    """This conversion is impossible here. The message is one sentence that says what to do."""


class ConversionError(Exception):
    """The conversion failed and no file was kept. The message is one sentence that says what to do."""


def main(argv: Sequence[str] | None = None) -> int:
    """Convert a model, and return the exit status."""
    args = parse_arguments(argv)

    def job() -> None:
        with stopped("no file was kept", "check disk and memory, or use another --format.", (WriteError,)):
            run(args)

    return run_program(
        NAME,
        job,
        wrong_call=(WrongCall, ModelError),
        failed=(ConversionError, OSError),
        interrupted="interrupted, no file was kept: run the same command again.",
    )


def run(args: argparse.Namespace) -> None:
    print(convert_folder(args.folder, args.format, args.dtype, args.output, args.calibration or ()))


def convert_folder(
    folder: str, format: str, dtype: str = "float32", output: Path | None = None, calibration: Sequence[str] = ()
) -> str:
    """Convert a model folder or Hub model, and return one sentence about the file.

    Args:
        folder: its code is executed.
        format, dtype: see `convert`.
        output: by default `default_output`.
        calibration: paths of scans, for int8.

    Raises:
        WrongCall, ModelError: this conversion is impossible here.
        ConversionError: see `convert`.
    """
    check_support(format, dtype)
    if is_converted_file(folder):
        raise WrongCall(f"{folder} is a converted file already: give the model folder it was made from.")
    model, processor = load_pytorch_model(folder)
    if not is_resnet(model.config):
        raise WrongCall(
            f"{folder} is the baseline {model.config.architecture}, and only ResNets can be converted: use the "
            "model folder itself."
        )
    output = output or default_output(folder, format, dtype)
    if not (output.parent.is_dir() and os.access(output.parent, os.W_OK)):
        raise WrongCall(f"{output.parent} cannot be written: give --output in a folder that exists and is writable.")
    volumes = read_scans(list(calibration), processor) if dtype == "int8" else random_volumes(model.config)
    largest = convert(model.cpu(), processor, format, dtype, volumes, output)
    apart = f", of which {len(volumes) - len(volumes[CALIBRATING])} did not calibrate it" if dtype == "int8" else ""
    return (
        f"{output}: {dtype}, differs from PyTorch by at most {largest:.2g} on {len(volumes)} volumes{apart}"
        f" (allowed {TOLERANCES[dtype]:g})."
    )


def check_support(format: str, dtype: str) -> None:
    """Raise WrongCall or ModelError if this format or this machine does not support the precision."""
    if format == "onnx" and dtype == "bfloat16":
        raise WrongCall(
            "ONNX Runtime has no bfloat16 convolutions on a CPU: use --format openvino, or --dtype float32."
        )
    if format == "onnx" and dtype == "int8":
        raise WrongCall(
            "ONNX Runtime computes 3D convolutions more slowly in int8 than in float32: use --format openvino, or "
            "--dtype float32."
        )
    for package in (*PACKAGES[format], *(PACKAGES["onnx"] if dtype == "int8" else ())):
        require_package(package, f"--format {format}" + (" --dtype int8" if dtype == "int8" else ""))
    if dtype == "bfloat16" and "BF16" not in cpu_capabilities():
        raise WrongCall(
            "this CPU has no bfloat16, so the conversion cannot be checked here: convert on a machine that has it, or "
            "use --dtype float32."
        )


def default_output(folder: str, format: str, dtype: str) -> Path:
    """Next to a local model folder, not inside it, since it may be published. For a Hub model, the current folder."""
    base = Path(folder).resolve() if os.path.isdir(folder) else Path(folder.split("/")[-1])
    return base.with_name(base.name + ("" if dtype == "float32" else f"-{dtype}") + SUFFIXES[format])


def random_volumes(config, number: int = 4) -> list[Tensor]:
    """Standardised random volumes, each (1, C, S, S, S) and different from the others."""
    return list(smooth_noise(number, config.num_channels, config.image_size).split(1))


def random_local(count: int, candidates: int = 5, seed: int = 0) -> dict[str, Tensor]:
    """Random inputs of the local stream for `count` scans, some of the candidates padding."""
    generator = torch.Generator().manual_seed(seed)
    patches = 2 * torch.randn(count, candidates, *LOCAL_INPUTS["local_patches"], generator=generator)
    valid = torch.rand(count, candidates, generator=generator) < 0.7
    shares = torch.rand(count, *LOCAL_INPUTS["local_shares"], generator=generator)
    return {"local_patches": patches.clamp(-4, 4), "local_valid": valid, "local_shares": shares}


def read_scans(paths: list[str], processor) -> list[Tensor]:
    """The calibration scans, standardised. Raises WrongCall if a scan is unusable or there are too few."""
    if len(set(map(os.path.abspath, paths))) < max(len(paths), MIN_CALIBRATION):
        raise WrongCall(f"--calibration has {len(set(paths))} different scans: give {MIN_CALIBRATION} or more.")
    if len(modalities_of(processor)) > 1:
        raise WrongCall("int8 is not available for models of several modalities: use --dtype bfloat16 or float32.")
    if processor.brain_mask == "required":
        raise WrongCall("int8 is not available for models that need brain masks: use --dtype bfloat16 or float32.")
    try:
        without_search = {"local_stream": False} if has_search(processor) else {}
        return [processor(path, return_tensors="pt", **without_search).pixel_values for path in paths]
    except ValueError as error:
        raise WrongCall(f"--calibration: {one_line(error)}") from error


def convert(model, processor, format: str, dtype: str, volumes: list[Tensor], output: Path) -> float:
    """Convert and check a model, and move the file to `output` only if it passes.

    Args:
        model: a PyTorch model in evaluation mode, on the CPU.
        processor: its processor.
        format: `"onnx"` or `"openvino"`.
        dtype: a key of TOLERANCES.
        volumes: standardised volumes for the check, each (1, C, S, S, S). For int8 these are scans, and one half of
            them (`CALIBRATING`) also calibrates, so that the check covers scans that did not.
        output: the `.onnx` or `.xml` file; OpenVINO's `.bin` is put next to it.

    Returns:
        The largest difference found, see `difference`.

    Raises:
        ConversionError: the difference exceeds TOLERANCES; no file is kept.
    """
    with writing(output), temporary_folder(output) as temporary:
        file = temporary / output.name
        write(model, processor, format, dtype, volumes, file)
        try:
            converted, _ = load_model(str(file))
        except ModelError as error:  # our own file: not the caller's mistake
            raise ConversionError(f"no file was kept: {error}") from error
        largest = difference(model, converted, volumes, in_log_odds=dtype == "float32")
        if not largest <= TOLERANCES[dtype]:
            raise ConversionError(
                f"the converted model differs from PyTorch by {largest:.2g}, and {dtype} allows {TOLERANCES[dtype]:g}; "
                "no file was kept: " + ("report this with the model." if dtype == "float32" else "use --dtype float32.")
            )
        if format == "openvino":
            os.replace(file.with_suffix(".bin"), output.with_suffix(".bin"))
        os.replace(file, output)
    return largest


@contextmanager
def temporary_folder(output: Path) -> Iterator[Path]:
    """A folder next to `output`. It is removed in the end, and so are those of conversions that were killed before.

    It is a folder and not `replacing`, because a model may be two files, and the suffix says which runtime loads it. A
    running conversion holds the lock in its folder; nothing else is ever removed.
    """
    for lock in output.parent.glob(f".{glob.escape(output.name)}.*{TEMPORARY}/{LOCK}"):
        with contextlib.suppress(Timeout, OSError), FileLock(lock, timeout=0):
            shutil.rmtree(lock.parent)
    folder = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}.", suffix=TEMPORARY))
    try:
        with FileLock(folder / LOCK):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write(model, processor, format: str, dtype: str, volumes: list[Tensor], file: Path) -> None:
    """Convert a model and write it to `file`, without a check. Arguments as in `convert`."""
    graph = for_inference(model, BLOCKS[dtype])
    config = model.config.to_dict()
    for name in ("auto_map", "custom_pipelines", "_name_or_path"):  # code files of the model folder, and its path
        config.pop(name, None)
    settings = {name: getattr(processor, name) for name in SETTINGS if hasattr(processor, name)}
    # earlier versions would ignore framing, bias correction, local stream and modalities, and answer wrongly
    number = FORMAT_WITH_FRAMING if settings.get("framing") == "head" else FORMAT
    if settings.get("bias_correction") == "n4":
        number = FORMAT_WITH_BIAS_CORRECTION
    if settings.get("local_stream"):
        number = FORMAT_WITH_LOCAL_STREAM
    if len(modalities := modalities_of(processor)) > 1:
        number, settings["modalities"] = FORMAT_WITH_MODALITIES, modalities
    metadata = {"format": number, "dtype": dtype, "config": config, "processor": settings}
    if format == "onnx":
        write_onnx(graph, file, metadata)
    elif dtype == "int8":
        write_openvino(to_openvino_int8(graph, volumes[CALIBRATING], file.parent), file, metadata)
    else:
        write_openvino(to_openvino(graph), file, metadata)


@torch.inference_mode()
def difference(model, converted: ExportedModel, volumes: list[Tensor], in_log_odds: bool) -> float:
    """The largest difference between two models over all views of all volumes, in batches of one and three.

    Of a model with a local stream, twice the difference of p_global counts too: the probability of both streams changes
    by up to that much where the local stream is silent, and does not show it below 1/2.

    Args:
        model: the PyTorch model, in float32.
        converted: the converted model.
        volumes: each (1, C, S, S, S).
        in_log_odds: compare log-odds divided by 4 instead of probabilities. A probability changes by at most a quarter
            of the change in log-odds, and saturated probabilities would hide an error.

    Returns:
        A difference in probability, or an upper bound of it if `in_log_odds`; NaN if either model returns NaN.
    """
    batches = [volumes[0], *(torch.cat(volumes[start : start + 3]) for start in range(1, len(volumes), 3))]
    differences = []
    for batch in batches:
        local = has_local_stream(getattr(model, "config", None))
        others = random_local(len(batch)) if local else {}
        if batch.shape[1] > 1:  # every second scan lacks all but T2w
            others[PRESENCE] = (torch.arange(len(batch))[:, None] % 2 == 0) | (torch.arange(batch.shape[1]) == 0)
        if local:
            said = [one.predict_streams(batch, **others) for one in (model, converted)]
            differences.append(2 * (said[0]["p_global"] - said[1]["p_global"]).abs().max())
            expected, found = (each["members"].mean(dim=0) for each in said)
        else:
            expected, found = model.predict_views(batch, **others), converted.predict_views(batch, **others)
        if in_log_odds:
            expected, found = (views.clamp_min(1e-30).log() for views in (expected, found))
            expected, found = ((views[..., 1:] - views[..., :1]) / 4 for views in (expected, found))
        differences.append((expected - found).abs().max())
    return torch.stack(differences).max().item()


if __name__ == "__main__":
    sys.exit(main())
