"""The scans that a run trains on: found, standardised, and split into folds."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import datasets
import numpy as np
from accelerate import Accelerator
from filelock import FileLock

from cohort.cache import standardised_volumes
from cohort.folds import check_splits, family_counts, fold_scans, inner_split, make_splits, read_splits, write_splits
from cohort.images import CohortError, scan_name
from cohort.modalities import further_files
from cohort.painted import is_painted
from cohort.phantom import is_phantom
from cohort.scans import Scan, find_scans, flow, read_cohort, write_cohort
from cohort.site_folds import site_lines
from preprocessing.arrays_gloresnet import longest_edge
from run_folder.files import write_text
from run_folder.layout import REFIT, RunFolder
from run_folder.tables import csv_text

from .build import ScanDataset, new_processor
from .local.bank import Bank, build_bank, copies_for, shares_table
from .local.stream import PARTS, parts_of
from .recipe import Recipe


class TrainingData(NamedTuple):
    """The scans in use, their standardised volumes and their folds."""

    name: str
    """The cohort's name, for model cards"""
    synthetic: bool
    """Whether the cohort is a phantom"""
    rows: dict[Scan, int]
    """Each scan's row in `volumes`"""
    volumes: datasets.Dataset
    splits: dict[str, Any]
    longest_edges: dict[Scan, float] | None = None
    """The longest voxel edge of each scan in mm; None if it is not known"""
    painted: bool = False
    """Whether a program painted the injuries into normal scans"""
    bank: Bank | None = None
    """What the local stream is trained on; None if the recipe has none"""

    def dataset(self, scans: list[Scan]) -> ScanDataset:
        """Volumes and labels of some of the scans."""
        return ScanDataset(self.volumes, [self.rows[scan] for scan in scans], labels_of(scans))

    def labels_and_means(self, scans: list[Scan], views: dict[int, np.ndarray]) -> tuple[list[int], list[float]]:
        """Labels and probabilities of injury of some scans; each probability is the mean over the scan's views.

        Args:
            scans: any of the scans in use.
            views: row -> (V,) probabilities, as `predict_fold` returns them.
        """
        return labels_of(scans), [float(views[self.rows[scan]].mean()) for scan in scans]


def labels_of(scans: list[Scan]) -> list[int]:
    """The labels of scans in use. Each of them has one."""
    return [cast(int, scan.label) for scan in scans]


class FoldScans(NamedTuple):
    """The parts of one fold. No family is in two of them, unless the recipe splits by subject."""

    train: list[Scan]
    held_out: list[Scan]
    """Predicted and scored, never trained on; empty in the refit"""
    inner: list[Scan]
    """Held out of the training part to choose the epoch; empty unless `selection` is `inner`"""


def prepare_data(
    data_dir: Path,
    labels: str | None,
    recipe: Recipe,
    run: RunFolder,
    accelerator: Accelerator,
    images: Mapping[str, Any] | None = None,
    *,
    complete_folds: bool = True,
) -> TrainingData:
    """Find and standardise the scans, and split them into folds.

    A new run writes `cohort.csv` and `splits.json`, and with the rule `site` the number of folds to its recipe. A run
    that continues uses the splits on disk, after a check that they still fit the scans. `images` is the `acquisition`
    and `run` to use in sessions with several images, and the further roots (`also`) in which the recipe's modalities
    are searched. Without `complete_folds`, a fold may lack a class, or hold no scan.

    Raises:
        CohortError: there are no usable scans or labels, the scans have changed since the run was started, or a fold
            cannot train a local stream.
    """
    processor = new_processor(recipe, local_stream=False)  # the cache holds volumes; the bank holds the rest
    with accelerator.main_process_first():
        scans = find_scans(
            data_dir,
            labels,
            brain_mask=recipe.brain_mask,
            max_birth_age=recipe.max_birth_age,
            one_site=recipe.split == "site",
            modalities=recipe.channels,
            **(images or {}),
        )
        volumes, scans = standardised_volumes(scans, processor)
    used = [scan for scan in scans if scan.status == "used"]
    hashes = dict(zip([str(scan.image) for scan in used], volumes["sha256"], strict=True))
    if len(recipe.channels) > 1:
        for scan, further in zip(used, volumes["further_sha256"], strict=True):
            hashes |= zip(further_files(scan.channels), further, strict=True)
    accelerator.print(f"{data_dir}: " + ", ".join(f"{count} {status}" for status, count in flow(scans).items()))
    accelerator.print(family_counts(used))

    with accelerator.main_process_first(), FileLock(run.lock):
        if not run.splits.is_file():
            splits = make_splits(
                used, num_folds=recipe.num_folds, seed=recipe.seed, split=recipe.split, file_hashes=hashes,
                complete=complete_folds,
            )  # fmt: skip
            if splits["num_folds"] != recipe.num_folds:  # split site: one fold per site
                replace(recipe, num_folds=splits["num_folds"]).save(run.recipe)
            write_cohort(scans, run.cohort)
            write_splits(splits, run.splits)
    splits = read_splits(run.splits)
    if len(recipe.channels) > 1:
        _check_channels(read_cohort(run.cohort), used)
    check_splits(splits, used, hashes, complete=complete_folds)
    for line in site_lines(splits):
        accelerator.print(line)
    rows = {scan: row for row, scan in enumerate(used)}
    edges = {scan: longest_edge(scan.image) or 0.0 for scan in used}
    bank = None
    if recipe.local_stream == "on":
        folds = [fold_scans(splits, used, number)[0] for number in range(splits["num_folds"])]
        copies = copies_for(min(labels_of(train).count(0) for train in folds) * (PARTS - 1) // PARTS)
        with accelerator.main_process_first():
            bank = build_bank({scan: hashes[str(scan.image)] for scan in used}, processor, copies)
        if accelerator.is_main_process:
            write_text(run.intensity_shares, csv_text(shares_table(used, bank)))
        for train in folds:  # stop now, not after an hour of training
            parts_of(train, bank, recipe.seed)
        silent = int(np.isnan(bank.shares(used)).any(axis=1).sum())
        accelerator.print(
            f"local stream: {silent} of {len(used)} scans cannot be searched for small lesions (their voxels are too "
            "long, or no brain was found)"
        )
    return TrainingData(
        data_dir.resolve().name, is_phantom(data_dir), rows, volumes, splits, edges, is_painted(data_dir), bank
    )


def _check_channels(before: list[Scan], now: list[Scan]) -> None:
    """Check that each scan still has the modalities with which the run was started.

    Raises:
        CohortError: a scan has others.
    """
    recorded = {(scan.participant_id, scan.session_id): scan.channels for scan in before}
    for scan in now:
        key = (scan.participant_id, scan.session_id)
        had, has = (["T2w", *(c.modality for c in each)] for each in (recorded.get(key, scan.channels), scan.channels))
        if had != has:
            raise CohortError(
                f"{scan_name(*key)} had {', '.join(had)} when this run was started, and now has {', '.join(has)}: "
                "restore its files, or start the run again with --overwrite."
            )


def split_scans(which: int | str, data: TrainingData, recipe: Recipe) -> FoldScans:
    """The parts of a fold by its number. The refit trains on every scan and holds none out."""
    scans = list(data.rows)
    train, held_out = (scans, []) if which == REFIT else fold_scans(data.splits, scans, int(which))
    train, inner = inner_split(train, seed=recipe.seed) if recipe.selection == "inner" else (train, [])
    return FoldScans(train, held_out, inner)
