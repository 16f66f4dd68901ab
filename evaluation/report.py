"""Write a self-contained report on a run, on a model applied to another site's scans, or on several runs.

    python -m evaluation.report runs/NAME                         report.html, figures/ and cv_metrics.json in runs/NAME
    python -m evaluation.report predictions.csv --labels labels.tsv --model runs/NAME/fold-4/model
    python -m evaluation.report runs/A runs/B --output comparison

The page needs no network and no other file. Exit status: 0 report written, 1 the input cannot be evaluated, 2 wrong
arguments.
"""

from __future__ import annotations

if __name__ == "__main__":  # first, so that Ctrl-C and SIGTERM are handled during the slow imports
    from machine.interruption import begin_program

    begin_program("python -m evaluation.report")

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from machine.programs import FAILED, end_if_missing

from .resampling import DEFAULT_RESAMPLING, PERMUTATIONS, Resampling

PROGRAM = "python -m evaluation.report"


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    default = DEFAULT_RESAMPLING
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "input", nargs="+", type=Path, metavar="RUN|PREDICTIONS", help="one or more run folders, or one predictions.csv"
    )
    parser.add_argument("--labels", type=Path, help="TSV or CSV with the labels of the scans in predictions.csv")
    parser.add_argument(
        "--model", type=Path, help="folder of the model that made predictions.csv; its thresholds are used"
    )
    parser.add_argument("--output", type=Path, help="folder for a comparison or for the report on a predictions.csv")
    parser.add_argument(
        "--image_controls",
        action=argparse.BooleanOptionalAction,
        help="add controls that open every image and segmentation",
    )
    parser.add_argument(
        "--features",
        nargs="+",
        type=Path,
        default=[],
        metavar="CSV",
        help="encoder features; each file is a control",
    )
    parser.add_argument(
        "--null_runs", nargs="+", type=Path, default=[], metavar="RUN", help="runs trained on permuted labels"
    )
    parser.add_argument("--without_scans", action="store_true", help="name no scan and show no slice")
    parser.add_argument("--draws", type=int, default=default.draws, help="bootstrap draws, default %(default)s")
    parser.add_argument(
        "--permutations",
        type=int,
        default=PERMUTATIONS,
        help="permutations per null, default %(default)s, 0 for none",
    )
    parser.add_argument("--seed", type=int, default=default.seed, help="seed of all resampling, default %(default)s")
    options = parser.parse_args(argv)
    if options.draws < 100 or options.permutations < 0 or options.seed < 0:
        parser.error("--draws must be at least 100; --permutations and --seed must be at least 0.")
    if options.input[0].is_file() and (options.labels is None or len(options.input) > 1):
        parser.error("a predictions.csv must be the only input and needs --labels.")
    return options


if __name__ == "__main__":  # a wrong call is answered before the slow imports
    given = parse_arguments()
    end_if_missing(PROGRAM, [*given.input, given.labels, given.model, *given.features, *given.null_runs], FAILED)

import numpy as np
import pandas as pd

from machine.programs import run_program
from run_folder.files import InputError, write_json, write_text
from run_folder.layout import ModelFolder, RunFolder
from run_folder.predictions import read_predictions
from run_folder.tables import csv_text, read_table

from .comparison import compare_studies
from .controls import QUALITY_COLUMNS, VOLUME_COLUMNS, measured_features
from .external import read_external
from .findings import evaluate_study, summary_for_json
from .measures import measure_quality, measure_volumes
from .metrics import write_cv_metrics
from .modalities import read_subsets, with_subsets
from .page import render_comparison, render_study
from .study import KEYS, Study, read_run

FEW_BYTES = 500e6  # images are measured by default if their files are at most this large in total


def write_report(
    run_folder: str | os.PathLike[str],
    *,
    image_controls: bool | None = None,
    features: Sequence[str | os.PathLike[str]] = (),
    null_runs: Sequence[str | os.PathLike[str]] = (),
    with_scans: bool = True,
    resampling: Resampling = DEFAULT_RESAMPLING,
    permutations: int = PERMUTATIONS,
) -> Path:
    """Evaluate a finished run; write ``report.html``, ``figures/`` and ``cv_metrics.json`` in its folder.

    Args:
        run_folder: ``runs/NAME`` with all folds finished.
        image_controls: whether to measure image quality and tissue volumes for controls. None: only if the image files
            have at most 500 MB in total, or an earlier report has saved the measurements.
        features: tables of encoder features (``participant_id, session_id`` and numbers); each is one control.
        null_runs: runs of the same recipe trained on permuted labels, for a null with retraining.
        with_scans: name the misclassified scans and show slices of them.
        resampling, permutations: see `evaluate_study`.

    Returns:
        The path of ``report.html``.

    Raises:
        InputError: the run is not finished or damaged, or another input cannot be used; the message says why.
    """
    run = RunFolder(run_folder)
    study = _read(run.path)
    measured = _measurements(study, run.figures, image_controls)
    sets = {name: measured_features(study.table, *table) for name, table in measured.items()}
    if run.intensity_shares.is_file():
        shares = read_table(run.intensity_shares, tuple(KEYS))
        sets["Intensity shares of the head's interior"] = measured_features(study.table, shares)
    for path in map(Path, features):
        sets[f"Features: {path.stem}"] = _features(study, path)
    nulls = [read_predictions(folder) for folder in null_runs]
    findings = evaluate_study(study, features=sets, null_runs=nulls, resampling=resampling, permutations=permutations)
    missing = ""
    if not measured and (study.table["image"] != "").any():
        missing = "Use --image_controls to add controls from image quality and tissue volumes."
    write_json(run.cv_metrics, {**write_cv_metrics(run.path), "report": summary_for_json(findings)})
    page = render_study(findings, run.figures, run.cv_metrics.name, with_scans=with_scans, controls_missing=missing)
    return write_text(run.report, page)


def write_external_report(
    predictions: str | os.PathLike[str],
    labels: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    model: str | os.PathLike[str] | None = None,
    with_scans: bool = True,
    resampling: Resampling = DEFAULT_RESAMPLING,
    permutations: int = PERMUTATIONS,
) -> Path:
    """Evaluate a finished model on labelled scans of another site; see `read_external` for the inputs.

    Writes ``report.html``, ``figures/`` and ``metrics.json`` in ``output`` (default: ``PREDICTIONS-report`` next to the
    predictions) and returns the path of ``report.html``.
    """
    study = read_external(predictions, labels, model)
    folder = Path(output) if output else Path(predictions).with_name(f"{Path(predictions).stem}-report")
    findings = evaluate_study(study, resampling=resampling, permutations=permutations)
    pooled = findings.cross_validation["pooled"]
    target, metrics = RunFolder(folder), ModelFolder(folder).metrics  # file names as in a run and in a fold
    content = {**pooled, "flow": study.flow, "caution": study.caution, "report": summary_for_json(findings)}
    write_json(metrics, content)
    page = render_study(findings, target.figures, metrics.name, with_scans=with_scans)
    return write_text(target.report, page)


def write_comparison(
    run_folders: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    resampling: Resampling = DEFAULT_RESAMPLING,
) -> Path:
    """Compare finished runs on their shared scans: paired AUC differences and a figure of all ROC curves.

    A run of several modalities is also compared as it answers if shown only the modalities of another run.

    Writes ``report.html`` and ``figures/`` in ``output`` and returns the path of ``report.html``.
    """
    studies = with_subsets([_read(folder) for folder in run_folders])
    comparison = compare_studies(studies, resampling)
    target = RunFolder(output)  # file names as in a run
    page = render_comparison(comparison, studies, target.figures, resampling)
    return write_text(target.report, page)


def _read(run_folder: str | os.PathLike[str]) -> Study:
    study = read_run(run_folder)
    return replace(study, subsets=read_subsets(RunFolder(run_folder), study.table))


def _measurements(study: Study, folder: Path, wanted: bool | None) -> dict[str, tuple[pd.DataFrame, list[str]]]:
    """Control -> (measurements, columns). They are saved as CSV, so that later reports need not open the images."""
    tasks = {
        "Image quality (motion proxies)": ("image", "image_quality", measure_quality, QUALITY_COLUMNS),
        "Tissue and ventricle volumes": ("segmentation", "tissue_volumes", measure_volumes, VOLUME_COLUMNS),
    }
    results = {}
    for name, (column, file, measure, columns) in tasks.items():
        kept = folder / f"{file}.csv"
        known = read_table(kept) if kept.is_file() else None
        if known is None or not set(map(tuple, study.table[KEYS].to_numpy())) <= set(
            map(tuple, known[KEYS].to_numpy())
        ):
            paths = [Path(path) for path in study.table[column] if path]
            present = [path for path in paths if path.is_file()]
            if wanted and not paths:
                continue  # this cohort has no such files
            if wanted and len(present) < len(paths):
                lost = next(path for path in paths if not path.is_file())
                raise InputError(f"{lost} is missing; restore the cohort, or leave out --image_controls.")
            small = sum(path.stat().st_size for path in present) <= FEW_BYTES
            if wanted is False or not paths or len(present) < len(paths) or not (wanted or small):
                continue
            known = measure(study.table)
            write_text(kept, csv_text(known))
        results[name] = (known, columns)
    return results


def _features(study: Study, path: Path) -> np.ndarray:
    table = read_table(path, tuple(KEYS))
    numeric = [c for c in table.columns if c not in KEYS and pd.api.types.is_numeric_dtype(table[c])]
    if not numeric:
        raise InputError(f"{path} has no numeric column other than participant_id and session_id.")
    values = measured_features(study.table, table, numeric)
    absent = int(np.isnan(values).all(axis=1).sum())
    if absent:
        raise InputError(f"{path} has no features for {absent} of the {len(values)} scans of the run.")
    return values


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; see the module docstring."""
    options = parse_arguments(argv)

    def job() -> None:
        first = options.input[0]
        resampling = Resampling(options.draws, options.seed)
        common = {"with_scans": not options.without_scans, "permutations": options.permutations}
        if first.is_file():
            report = write_external_report(
                first, options.labels, options.output, model=options.model, resampling=resampling, **common
            )
        elif len(options.input) > 1:
            report = write_comparison(options.input, options.output or Path("comparison"), resampling=resampling)
        else:
            report = write_report(
                first, image_controls=options.image_controls, features=options.features, null_runs=options.null_runs,
                resampling=resampling, **common,
            )  # fmt: skip
        print(report)

    return run_program(PROGRAM, job, failed=(InputError, OSError), interrupted="interrupted")


if __name__ == "__main__":
    sys.exit(main())
