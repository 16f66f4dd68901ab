"""Read a painted cohort together with what a model says of its scans."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from cohort.painted import is_painted
from cohort.scans import CohortError, find_scans
from run_folder.files import InputError
from run_folder.tables import read_table

from .external import entities, is_doubted
from .study import KEYS

NEAR_MM = 3.0  # a place this close to the surface of the sphere of an injury names it


def read_painted(
    folder: str | Path,
    predictions: str | Path,
    places: str | Path | None = None,
) -> pd.DataFrame:
    """Join a painted cohort with the predictions for its scans.

    Args:
        folder: written by `python -m cohort.painted`.
        predictions: of predict.py (`scan, p_injury, warnings`), or of a run (`participant_id, session_id, p_injury`).
        places: optional table of places that a model names: `participant_id`, `session_id`, or `scan`; `x_mm`, `y_mm`,
            `z_mm` in the world of the scan (RAS); `probability`. The most probable place of each scan counts.

    Returns:
        One row per scan: KEYS, `family`, `kind` ("none" if unpainted), `diameter_mm`, `contrast` (share, without sign),
        `volume_factor` (NaN if they do not apply), `p_injury`, `doubted`: whether predict.py warns of the scan, and
        `named`: whether the most probable place is within 3 mm of an injury (NaN without `places`, and for scans
        without spots).

    Raises:
        InputError: the folder is not a painted cohort, or predictions are missing.
    """
    if not is_painted(folder):
        raise InputError(f"{folder} is not a painted cohort: make one with python -m cohort.painted.")
    try:
        scans = find_scans(folder)
    except CohortError as error:
        raise InputError(str(error)) from error
    if lost := [scan for scan in scans if scan.status != "used"]:
        raise InputError(f"{len(lost)} of the {len(scans)} scans of {folder} cannot be used. {lost[0].reason}")
    root = Path(folder)
    lesions = read_table(
        root / "lesions.tsv", (*KEYS, "kind", "diameter_mm", "contrast", "volume_factor"), as_text=True
    )
    numbers = ["x_mm", "y_mm", "z_mm", "diameter_mm", "contrast", "volume_factor"]
    lesions[numbers] = lesions[numbers].replace("n/a", "nan").astype(float)
    lesions["contrast"] = lesions["contrast"].abs().round(4)
    first = lesions.drop_duplicates(KEYS)[[*KEYS, "kind", "diameter_mm", "contrast", "volume_factor"]]
    table = pd.DataFrame(
        [(scan.participant_id, scan.session_id, scan.family, scan.label) for scan in scans],
        columns=[*KEYS, "family", "label"],
    ).merge(first, on=KEYS, how="left")
    table["kind"] = table["kind"].fillna("none")
    known = _by_scan(predictions, ("p_injury",))
    known["doubted"] = known["warnings"].map(is_doubted) if "warnings" in known else False
    known = known[[*KEYS, "p_injury", "doubted"]].drop_duplicates()
    if known[KEYS].duplicated().any():
        one = known[known[KEYS].duplicated()].iloc[0]
        raise InputError(
            f"{predictions} has several probabilities for {_named(one)}: give the predictions of one model."
        )
    table = table.merge(known, on=KEYS, how="left")
    table["p_injury"] = pd.to_numeric(table["p_injury"], errors="coerce")
    if len(wrong := table[~table["p_injury"].fillna(0).between(0, 1)]):
        one = wrong.iloc[0]
        raise InputError(f"{predictions} has p_injury {one['p_injury']:g} for {_named(one)}: give probabilities.")
    missing = table[table["p_injury"].isna()]
    if len(missing):
        one = missing.iloc[0]
        raise InputError(
            f"{predictions} has no probability for {len(missing)} of the {len(table)} scans of {folder} (such as "
            f"{_named(one)}): screen the whole folder."
        )
    table["named"] = np.nan
    if places is not None:
        found = _by_scan(places, ("x_mm", "y_mm", "z_mm", "probability"))
        keys = list(zip(table["participant_id"], table["session_id"], strict=True))
        if not set(zip(found["participant_id"], found["session_id"], strict=True)) & set(keys):
            raise InputError(f"{places} has no place in any scan of {folder}: give the places of its scans.")
        named = nearest_named(lesions, found)
        table["named"] = [named.get(key, np.nan) for key in keys]
    return table


def nearest_named(lesions: pd.DataFrame, places: pd.DataFrame) -> dict[tuple[str, str], float]:
    """Whether the most probable place of each scan names one of its injuries: (participant, session) -> 1 or 0.

    A place names an injury if it lies within 3 mm of the sphere of the same volume around its centre. Ventricles are
    left out. A scan without any place names nothing.
    """
    best = places.sort_values("probability", ascending=False, kind="stable").drop_duplicates(KEYS).set_index(KEYS)
    found = {}
    for (participant, session), part in lesions[lesions["kind"] != "ventricles"].groupby(KEYS):
        near = 0.0
        if (participant, session) in best.index:
            place = best.loc[(participant, session), ["x_mm", "y_mm", "z_mm"]].to_numpy(dtype=float)
            distance = np.linalg.norm(part[["x_mm", "y_mm", "z_mm"]].to_numpy(dtype=float) - place, axis=1)
            near = float((distance <= NEAR_MM + part["diameter_mm"].to_numpy() / 2).any())
        found[str(participant), str(session)] = near
    return found


def _by_scan(path: str | Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """A table with KEYS, which may be named by the paths in a column `scan`."""
    table = read_table(Path(path), columns, as_text=True)
    if "scan" in table.columns and not set(KEYS) <= set(table.columns):
        ids = [entities(scan) or ("", "") for scan in table["scan"]]
        table[KEYS] = pd.DataFrame(ids, index=table.index, columns=KEYS)
    if not set(KEYS) <= set(table.columns):
        raise InputError(f"{path} has neither a column scan nor {' and '.join(KEYS)}: give a table of predict.py.")
    if set(columns) != {"p_injury"}:
        try:
            table[list(columns)] = table[list(columns)].astype(float)
        except ValueError as error:
            raise InputError(f"{path} has a cell that is not a number ({error}): correct it.") from error
        if not np.isfinite(table[list(columns)].to_numpy()).all():
            raise InputError(f"{path} has a cell that is not a finite number: correct it.")
    return table


def _named(row: pd.Series) -> str:
    return f"sub-{row['participant_id']} ses-{row['session_id']}"
