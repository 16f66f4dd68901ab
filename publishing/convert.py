"""Convert a trained model to one file for ONNX Runtime or OpenVINO, checked against PyTorch before it is kept.

    python -m publishing.convert runs/phantom-clear-demo/fold-4/model --format onnx
    python -m publishing.convert FOLDER|HUB_ID --format openvino --dtype bfloat16 --output gloresnet.xml
    python -m publishing.convert FOLDER --format openvino --dtype int8 --calibration scans/*.nii.gz

The file takes `pixel_values` (B, 1, S, S, S) float32, standardised, and answers with `views` (V, B, 2), the volume and
its mirror image, and `probabilities` (B, 2), their mean; softmax and temperature included. Labels, threshold,
provenance and the processor's settings travel in it, so `predict.py --model FILE` needs nothing else. OpenVINO writes
the weights to a `.bin` beside the `.xml`. Exit status: 0 converted, 1 the conversion failed or answers otherwise than
PyTorch (nothing is kept), 2 the call was wrong, 130 interrupted.
"""

import argparse
import os
import signal
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from architectures.networks import is_resnet
from machine.programs import one_line
from screening.exported import FORMAT, SUFFIXES, ExportedModel, cpu_capabilities, is_converted_file, require_package
from screening.fast import smooth_noise
from screening.loading import ModelError, load_model, load_pytorch_model

from .graph import for_inference, to_openvino, to_openvino_int8, write_onnx, write_openvino

TOLERANCES = {"float32": 1e-4, "bfloat16": 5e-3, "int8": 2e-2}  # in probability
PACKAGES = {"onnx": ["onnx", "onnxruntime"], "openvino": ["openvino"]}
MIN_CALIBRATION = 8  # scans: fewer show neither the ranges of the maps nor whether they hold for other scans


class WrongCall(Exception):
    """What was asked for cannot be begun. The message is one sentence with what to do."""


class ConversionError(Exception):
    """The conversion went wrong and nothing was kept. The message is one sentence with what to do."""


def main() -> int:
    args = parse_arguments()
    check_support(args.format, args.dtype)
    if is_converted_file(args.folder):
        raise WrongCall(f"{args.folder} is a converted file already: give the model folder it was made from")
    model, processor = load_pytorch_model(args.folder)
    if not is_resnet(model.config):
        raise WrongCall(
            f"{args.folder} is the baseline {model.config.architecture}, and only ResNets are converted: use its folder"
        )
    if processor.image_size != model.config.image_size:
        raise WrongCall(
            f"the processor of {args.folder} makes volumes of {processor.image_size} voxels an edge, its model expects "
            f"{model.config.image_size}: give both the same image_size"
        )
    output = args.output or default_output(args.folder, args.format, args.dtype)
    if not os.access(output.parent, os.W_OK):
        raise WrongCall(f"{output.parent} cannot be written: give --output in a folder that exists and is yours")
    volumes = read_scans(args.calibration, processor) if args.dtype == "int8" else random_volumes(model.config)
    largest = convert(model.cpu(), processor, args.format, args.dtype, volumes, output)
    print(
        f"{output}: {args.dtype}, {largest:.2g} off PyTorch at most on {len(volumes)} volumes"
        f" (allowed {TOLERANCES[args.dtype]:g})."
    )
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m publishing.convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("folder", metavar="FOLDER|HUB_ID", help="the code in it is run: use one you trust")
    add("--format", required=True, choices=list(SUFFIXES))
    add("--dtype", choices=list(TOLERANCES), default="float32", help="lower precision than float32: OpenVINO only")
    add(
        "--calibration",
        nargs="+",
        metavar="SCAN",
        help=f"int8 needs {MIN_CALIBRATION} or more scans like those to come",
    )
    add("--output", type=Path, metavar="FILE", help="default: FOLDER.onnx or .xml, with the dtype in its name")
    args = parser.parse_args()
    if args.output and (args.output.suffix != SUFFIXES[args.format] or args.output.is_dir()):
        parser.error(f"--output {args.output} is no {SUFFIXES[args.format]} file, which --format {args.format} writes")
    if (args.dtype == "int8") != bool(args.calibration):
        parser.error(f"--calibration SCAN ... goes with --dtype int8, which needs {MIN_CALIBRATION} or more scans")
    return args


def check_support(format: str, dtype: str) -> None:
    """Raises WrongCall or ModelError where this machine or this format cannot do it well."""
    if format == "onnx" and dtype == "bfloat16":
        raise WrongCall("ONNX Runtime has no bfloat16 convolutions on a CPU: use --format openvino, or --dtype float32")
    if format == "onnx" and dtype == "int8":
        raise WrongCall(
            "ONNX Runtime computes 3D convolutions in int8 slower than in float32: use --format openvino, or --dtype "
            "float32"
        )
    for package in PACKAGES[format] + (PACKAGES["onnx"] if dtype == "int8" else []):
        require_package(package, f"--format {format}" + (" --dtype int8" if dtype == "int8" else ""))
    if dtype == "bfloat16" and "BF16" not in cpu_capabilities():
        raise WrongCall(
            "this CPU has no bfloat16, so the conversion cannot be checked here: convert on a machine that has it, or "
            "use --dtype float32"
        )


def default_output(folder: str, format: str, dtype: str) -> Path:
    """Beside a model folder, not in it, for it may be pushed; in the working directory for a model of the Hub."""
    beside = Path(folder).resolve() if os.path.isdir(folder) else Path(folder.split("/")[-1])
    return beside.with_name(beside.name + ("" if dtype == "float32" else f"-{dtype}") + SUFFIXES[format])


def random_volumes(config, number: int = 4) -> list[Tensor]:
    """Standardised random volumes (1, C, S, S, S), no two alike."""
    return list(smooth_noise(number, config.num_channels, config.image_size).split(1))


def read_scans(paths: list[str], processor) -> list[Tensor]:
    """The calibration scans, standardised. Raises WrongCall for a scan that cannot be used, or too few."""
    if len(set(map(os.path.abspath, paths))) < max(len(paths), MIN_CALIBRATION):
        raise WrongCall(f"--calibration has {len(set(paths))} different scans: give {MIN_CALIBRATION} or more")
    if processor.brain_mask == "required":
        raise WrongCall("int8 is not offered for a model that needs brain masks: use --dtype bfloat16 or float32")
    try:
        return [processor(path, return_tensors="pt").pixel_values for path in paths]
    except ValueError as error:
        raise WrongCall(f"--calibration: {one_line(error).rstrip('.')}") from error


def convert(model, processor, format: str, dtype: str, volumes: list[Tensor], output: Path) -> float:
    """Convert, check, and only then move the file to `output`.

    Args:
        model: a PyTorch model in evaluation mode, on the CPU.
        processor: its processor.
        format: `"onnx"` or `"openvino"`.
        dtype: a key of TOLERANCES.
        volumes: standardised volumes, each (1, C, S, S, S), to check on; for int8 scans, of which every fourth is
            left out of the calibration.
        output: the `.onnx` or `.xml` file; OpenVINO's `.bin` goes beside it.

    Returns:
        The largest difference found, see `difference`.

    Raises:
        ConversionError: the difference is more than TOLERANCES allows; nothing is kept.
    """
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as beside:
        file = Path(beside) / output.name
        write(model, processor, format, dtype, volumes, file)
        largest = difference(model, load_model(str(file))[0], volumes, in_log_odds=dtype == "float32")
        if not largest <= TOLERANCES[dtype]:
            raise ConversionError(
                f"the converted model answers {largest:.2g} off PyTorch, {dtype} allows {TOLERANCES[dtype]:g}; nothing "
                "was kept: " + ("report it with the model" if dtype == "float32" else "use --dtype float32")
            )
        if format == "openvino":
            os.replace(file.with_suffix(".bin"), output.with_suffix(".bin"))
        os.replace(file, output)
    return largest


def write(model, processor, format: str, dtype: str, volumes: list[Tensor], file: Path) -> None:
    graph = for_inference(model, regroup_stem=dtype != "float32")
    config = model.config.to_dict()
    for name in ("auto_map", "custom_pipelines", "_name_or_path"):  # a folder's code, and where it lies on this machine
        config.pop(name, None)
    settings = {name: getattr(processor, name) for name in ("image_size", "eps", "brain_mask")}
    metadata = {"format": FORMAT, "dtype": dtype, "config": config, "processor": settings}
    if format == "onnx":
        write_onnx(graph, file, metadata)
    elif dtype == "int8":
        seen = [volume for number, volume in enumerate(volumes) if number % 4 != 3]
        write_openvino(to_openvino_int8(graph, seen, file.parent), file, metadata)
    else:
        write_openvino(to_openvino(graph), file, metadata)


@torch.inference_mode()
def difference(model, converted: ExportedModel, volumes: list[Tensor], in_log_odds: bool) -> float:
    """How far two models are apart at most, over every view of every volume, in batches of one and of three.

    Args:
        model: the PyTorch model, in float32.
        converted: the model to be checked.
        volumes: each (1, C, S, S, S).
        in_log_odds: compare log-odds, a quarter of whose difference is the most that a probability can move by, also
            where the model is so sure of these volumes that probabilities alone would show nothing.

    Returns:
        A difference in probability; NaN when either answers so.
    """
    batches = [volumes[0], *(torch.cat(volumes[start : start + 3]) for start in range(1, len(volumes), 3))]
    differences = []
    for batch in batches:
        expected, found = model.predict_views(batch), converted.predict_views(batch)
        if in_log_odds:
            expected, found = (views.clamp_min(1e-30).log() for views in (expected, found))
            expected, found = ((views[..., 1:] - views[..., :1]) / 4 for views in (expected, found))
        differences.append((expected - found).abs().max())
    return torch.stack(differences).max().item()


def stop(_signal, _frame):
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, stop)
    try:
        status, complaint = main(), ""
    except (WrongCall, ModelError) as error:
        status, complaint = 2, f"{error}."
    except ConversionError as error:
        status, complaint = 1, f"{error}."
    except KeyboardInterrupt:
        status, complaint = 130, "interrupted, nothing was kept: run it again."
    except (RuntimeError, MemoryError, OSError) as error:  # out of memory, a full disk, an operation without a kernel
        reason = one_line(error).rstrip(".")[:300]
        status, complaint = 1, f"stopped, nothing was kept ({reason}): check disk and memory, or use another --format."
    if complaint:
        print(f"publishing.convert: {complaint}", file=sys.stderr)
    sys.exit(status)
