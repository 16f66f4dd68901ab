"""What is lost without a modality: a network of several modalities, shown every subset of them, on the same scans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from run_folder.files import InputError
from run_folder.layout import RunFolder
from run_folder.predictions import scan_name
from run_folder.tables import read_table

from .study import KEYS, Study
from .uncertainty import (
    DEFAULT_RESAMPLING,
    Interval,
    PairedDifference,
    Resampling,
    bootstrap_weights,
    paired_auc_difference,
    percentile_interval,
    weighted_auc,
)

COLUMNS = (*KEYS, "modalities", "present", "p_injury")
ALL_SCANS, COMPLETE = "All scans", "Scans with every modality"


@dataclass(frozen=True)
class ModalityPart:
    """A network of several modalities on one part of the cohort.

    Attributes:
        name: of the part.
        n, n_injury: numbers of scans.
        whole: name of the set of all modalities, such as T2w+FA+MD.
        subsets: name -> AUC if the network is shown this subset, as far as a scan has it; and AUC with all modalities
            minus this AUC, paired. The difference of the whole set is None.
    """

    name: str
    n: int
    n_injury: int
    whole: str
    subsets: dict[str, tuple[Interval, PairedDifference | None]]


def read_subsets(run: RunFolder, predictions: pd.DataFrame) -> pd.DataFrame | None:
    """The answers of a finished run to every subset of its modalities; None for a run with T2w alone.

    Args:
        run: the folder.
        predictions: of the run.

    Returns:
        One row per scan, in the order of the predictions: `present`, the modalities that the scan has, and a column of
        probabilities for each subset, all modalities last.

    Raises:
        InputError: a file is missing or damaged, or contradicts the predictions.
    """
    folds = [run.fold(int(fold)) for fold in sorted(predictions["fold"].unique())]
    files = [fold.modality_subsets for fold in folds]
    if not any(file.is_file() for file in files):
        return None
    table = pd.concat([read_table(file, COLUMNS) for file in files], ignore_index=True)
    for column in ("modalities", "present", *KEYS):
        table[column] = table[column].astype(str)
    names = list(table["modalities"].unique())
    p = table["p_injury"]
    right = pd.api.types.is_numeric_dtype(p) and p.between(0, 1).all()
    if not right or table.duplicated([*KEYS, "modalities"]).any() or names[:1] != ["T2w"]:
        raise InputError(f"{files[0]} or that of another fold is damaged: restore it, or train the fold again.")
    wide = table.pivot(index=KEYS, columns="modalities", values="p_injury")[names]
    wide.insert(0, "present", table.drop_duplicates(KEYS).set_index(KEYS)["present"])
    keys = predictions[KEYS].astype(str)
    joined = keys.merge(wide.reset_index(), on=KEYS, how="left")
    off = (joined[names[-1]] - predictions["p_injury"].to_numpy()).abs()
    if len(wide) != len(keys) or joined[names].isna().any(axis=None) or (off > 1e-6).any():
        scan = scan_name(keys.iloc[int(np.argmax(off.fillna(np.inf)))])
        raise InputError(f"{run}: {files[0].name} and predictions.csv disagree, e.g. on {scan}: train the fold again.")
    return joined[["present", *names]]


def evaluate_subsets(
    table: pd.DataFrame, subsets: pd.DataFrame | None, resampling: Resampling = DEFAULT_RESAMPLING
) -> list[ModalityPart]:
    """Compare every subset of the modalities with all of them.

    Args:
        table: predictions with `label` and `family`.
        subsets: from `read_subsets`, aligned with the table.
        resampling: of the bootstrap over families.

    Returns:
        One entry for all scans, and one for those that have every modality, if these have both classes. Without
        subsets, none.
    """
    if subsets is None:
        return []
    names = [name for name in subsets.columns if name != "present"]
    complete = (subsets["present"] == names[-1]).to_numpy()
    parts = []
    for part, rows in ((ALL_SCANS, np.ones(len(table), bool)), (COMPLETE, complete)):
        label, family = (table.loc[rows, column].to_numpy() for column in ("label", "family"))
        if len(set(label)) < 2 or len(set(family)) < 2:
            continue
        weights, answers = bootstrap_weights(family, resampling), subsets[rows]
        found: dict[str, tuple[Interval, PairedDifference | None]] = {}
        for name in names:
            values = weighted_auc(label, answers[name].to_numpy(), weights)
            pair = None
            if name != names[-1]:
                pair = paired_auc_difference(label, answers[names[-1]], answers[name], family, resampling)
            found[name] = (percentile_interval(float(values[0]), values[1:], resampling), pair)
        parts.append(ModalityPart(part, len(label), int(label.sum()), names[-1], found))
    return parts


def modality_set(study: Study) -> str:
    """The modalities of a run's network, such as T2w+FA+MD."""
    return str(study.recipe.get("modalities", "T2w")).replace(",", "+")


def with_subsets(studies: Sequence[Study]) -> list[Study]:
    """The runs, and each run of several modalities once more as it answers if shown only those of another run.

    So a network trained with further modalities can be compared with one trained without them, on what both have.
    """
    sets = list(dict.fromkeys(modality_set(study) for study in studies))
    result = []
    for study in studies:
        result.append(study)
        if study.subsets is None:
            continue
        for name in sets:
            if name in study.subsets and name != modality_set(study):
                table = study.table.assign(p_injury=study.subsets[name].to_numpy())
                result.append(replace(study, name=f"{study.name}, shown {name} only", table=table, subsets=None))
    return result
