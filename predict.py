"""Screen scans with a trained model and write one row per scan to predictions.csv. For research use only.

    python predict.py scan.nii.gz --model runs/phantom-clear-demo/fold-4/model
    python predict.py /data/bids --model ORG/NAME --output predictions.csv
    python predict.py 'scans/*.nii.gz' /more/scans --model FOLDER --no_tta
    python predict.py DICOM_FOLDER study.zip --model FOLDER [--series 5] [--report FOLDER]
    python predict.py scan.nii.gz --model model.onnx        (or .xml: a file written by python -m publishing.convert)

Columns: scan, p_injury (mean of the scan and its mirror image), p_injury_no_tta (the scan alone), predicted_label,
status, message, warnings (sentences, separated by spaces, about a file that may be wrong and about differences from the
training scans: do not rely on such a probability). A scan that cannot be read, and a BIDS session without a T2w image,
gets status `error` and the reason; the other scans are still screened. The table appears when it is complete. Memory
does not grow with the number of scans. With --report, each DICOM study also gets a Structured Report, a Parametric Map
and pictures.

A model that takes further modalities finds them in the BIDS session of each scan, and in further BIDS folders:

    python predict.py /data/anat --also /data/dmri --model FOLDER
    python predict.py t2w.nii.gz --with T1w=t1w.nii.gz FA=fa.nii.gz --transform FA=dwi-to-t2w.mat --model FOLDER

Those that a scan lacks are named in its warnings. T2w alone is always enough.

With `--places FILE.csv`, a model with a local stream also lists the most suspicious places of each scan: scan, rank,
probability, x_mm, y_mm, z_mm (right, anterior, superior), side, warnings (of the scan).

Exit status: 0 all scans screened, 1 a scan failed or the run stopped, 2 wrong call, 130 interrupted.
"""

if __name__ == "__main__":  # first, so that Ctrl-C and SIGTERM are handled during the slow imports
    from machine.interruption import begin_program

    begin_program("predict.py")

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from machine.cores import available_cores


def pairs(entries: Sequence[str], flag: str, parser: argparse.ArgumentParser) -> dict[str, str]:
    """`T1w=FILE` entries by modality; each file exists."""
    if not entries:
        return {}
    from preprocessing.modalities_gloresnet import MODALITIES

    found: dict[str, str] = {}
    for entry in entries:
        name, sign, file = entry.partition("=")
        if name not in MODALITIES[1:] or not sign or name in found:
            what = f"names {name} twice" if name in found else f"takes {'|'.join(MODALITIES[1:])}=FILE, not {entry!r}"
            parser.error(f"{flag} {what}; give the scans before it")
        if not os.path.isfile(file):
            parser.error(f"{flag} {entry}: there is no such file")
        found[name] = file
    return found


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add(
        "scans",
        nargs="+",
        metavar="SCAN|FOLDER|BIDS|DICOM|ZIP|GLOB",
        help="a BIDS tree gives one T2w image per session, any other folder all its scans and DICOM studies",
    )
    add(
        "--model",
        required=True,
        metavar="FOLDER|HUB_ID|FILE",
        help="a model folder or Hub model, whose code is executed, or a converted file",
    )
    add("--output", type=Path, default=Path("predictions.csv"), help="default predictions.csv")
    add("--places", type=Path, metavar="FILE.csv", help="also list suspicious places, of a model with a local stream")
    add(
        "--with",
        dest="named",
        action="extend",
        nargs="+",
        default=[],
        metavar="T1w=FILE",
        help="further images (T1w, FA, MD) of one scan",
    )
    add(
        "--transform",
        dest="transforms",
        action="extend",
        nargs="+",
        default=[],
        metavar="FA=MAT",
        help="FLIRT's matrix from an image of --with to the T2w scan, if it does not lie in its space",
    )
    add(
        "--also",
        action="extend",
        nargs="+",
        default=[],
        metavar="ROOT",
        help="further BIDS folders with images of the same sessions, such as those of the diffusion pipeline",
    )
    add("--acquisition", metavar="A", help="the T2w image with this `acq`, in BIDS sessions that have several")
    add("--run", metavar="N", help="the T2w image with this `run`, in BIDS sessions that have several")
    add("--series", metavar="N|UID", help="the series of this number or UID, in DICOM studies where several fit")
    add(
        "--report",
        type=Path,
        metavar="FOLDER",
        help="also write a Structured Report, a Parametric Map and pictures of each DICOM study; computes in float32",
    )
    add("--no_tta", action="store_true", help="skip the mirrored view: half the work for a model folder")
    add(
        "--dtype",
        choices=["auto", "float32", "bfloat16", "int8"],
        default="auto",
        help="float32 reproduces a run's own predictions to 1e-6. auto uses bfloat16 (faster, up to 0.005 off) if the "
        "processor supports it and a check of this model at the start passes, otherwise float32",
    )
    # Two scans with two views each keep two cores or a GPU busy; larger batches only need more memory.
    add("--batch_size", type=int, default=2, help="scans per forward pass, default 2")
    add("--num_workers", type=int, default=min(4, available_cores() // 2), help="processes that read scans")
    args = parser.parse_args(argv)
    args.named = pairs(args.named, "--with", parser)
    args.transforms = pairs(args.transforms, "--transform", parser)
    if surplus := args.transforms.keys() - args.named.keys():
        parser.error(f"--transform {sorted(surplus)[0]}=... has no image: name it in --with")
    for root in args.also:
        if not os.path.isdir(root):
            parser.error(f"--also {root} is not a folder: give a folder that holds sub-* folders")
    if args.batch_size < 1 or args.num_workers < 0:
        parser.error("--batch_size must be at least 1 and --num_workers at least 0")
    if args.report and (args.no_tta or args.dtype not in ("auto", "float32")):
        parser.error("--report shows both views, and maps in float32: leave out --no_tta and --dtype")
    if args.report and (args.named or args.also):
        parser.error("--report answers by the T2w series alone: leave out --with and --also, or --report")
    for flag, file in (("--output", args.output), ("--places", args.places)):
        if file and (file.is_dir() or not (file.parent.is_dir() and os.access(file.parent, os.W_OK))):
            parser.error(f"{flag} {file} cannot be written: give a file in a folder that exists and is writable")
    if args.places and args.places.absolute() == args.output.absolute():
        parser.error("--places and --output name the same file: give two files")
    return args


if __name__ == "__main__":  # a wrong call is answered before the slow imports
    parse_arguments()
    from machine.imports import import_nibabel_alone

    import_nibabel_alone()

from machine.memory import keep_freed_memory, keep_imported_modules
from machine.programs import FAILED, complain, run_program, stopped
from run_folder.files import InputError, WriteError
from screening.errors import ModelError, NoScansError
from screening.loading import for_speed, load_model
from screening.many_scans import screen, write_table
from screening.modalities import FurtherImages, modalities_of
from screening.model import INJURY, caution, has_local_stream
from screening.requests import find_requests

NAME = "predict.py"


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_arguments(argv)

    def job() -> int:
        with stopped("nothing was written", "check disk and memory, or lower --batch_size.", (WriteError,)):
            return predict(args)

    return run_program(
        NAME,
        job,
        wrong_call=(ModelError, NoScansError, InputError),
        interrupted="interrupted, nothing was written: run it again.",
    )


def predict(args: argparse.Namespace) -> int:
    requests = find_requests(args.scans, acquisition=args.acquisition, run=args.run)
    folders: dict[str, Path] = {}
    if args.report:
        from hospital.without_server import report_folders, write_reports

        folders = report_folders([scan for scan, _ in requests], args.report)
    keep_freed_memory()
    model, processor = load_model(args.model, args.dtype)
    others = further_images(args, modalities_of(processor), len(requests))
    if args.places and not has_local_stream(model.config):
        raise ModelError(f"{args.model} has no local stream, so it lists no places: leave --places out")
    if __name__ == "__main__":  # by now torch is imported, if the model needs it
        keep_imported_modules()
    if not folders:  # a model prepared for speed makes no maps
        model = for_speed(model, args.dtype)
    rows = screen(
        requests,
        model,
        processor,
        batch_size=args.batch_size,
        num_workers=args.num_workers,
        test_time_augmentation=False if args.no_tta else None,
        series=args.series,
        others=others,
    )
    counts = write_table(rows, args.output, total=len(requests), places=args.places)
    injury = model.config.id2label[INJURY]
    warned = counts["warnings"]
    print(
        f"{args.output}: {counts['ok']} of {len(requests)} scan(s) screened,"
        f" {counts[injury]} called {injury}, {counts['error']} failed,"
        f" {warned} with warnings{': do not rely on these, see the column warnings' if warned else ''}."
        f"{' ' + str(counts['missing']) + ' without all modalities.' if counts['missing'] else ''}"
        f"{' ' + caution(model) if caution(model) else ''}"
    )
    if not folders:
        return FAILED if counts["error"] else 0
    problems = write_reports(folders, model, processor, args.model, args.series)
    print(f"{args.report}: reports of {len(folders) - len(problems)} of {len(folders)} DICOM study(ies).")
    for problem in problems.values():
        complain(NAME, problem, FAILED)
    return FAILED if counts["error"] or problems else 0


def further_images(args: argparse.Namespace, modalities: list[str], scans: int) -> FurtherImages:
    """Where the images of the model's further modalities are.

    Raises:
        InputError: the flags name an image that the model does not take, or one image for several scans.
    """
    if args.named and scans > 1:
        raise InputError(f"--with names the images of one scan, but {scans} scans were asked for: give one scan.")
    for name in args.named:
        if name not in modalities:
            taken = " and ".join([", ".join(modalities[:-1]), modalities[-1]] if modalities[1:] else modalities)
            raise InputError(f"{args.model} takes {taken}, not {name}: leave --with {name}=... out.")
    if args.also and len(modalities) == 1:
        raise InputError(f"{args.model} takes T2w alone: leave --also out.")
    return FurtherImages(modalities, args.named, args.transforms, args.also)


if __name__ == "__main__":
    sys.exit(main())
