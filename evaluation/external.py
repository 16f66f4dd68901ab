"""External validation: a finished model's predictions on another site's scans, set against that site's labels.

Nothing is fitted here. Thresholds and temperature stay as they were frozen with the model: the probabilities of
predict.py already carry the temperature, and the thresholds come from the model's folder.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd

from cohort.labels import MISSING, SEXES, SINGLETONS, Row, assign, has_labels, read_rows
from cohort.scans import DHCP_ID, CohortError
from run_folder.files import InputError, read_json
from run_folder.layout import ModelFolder
from run_folder.predictions import check_predictions
from run_folder.tables import read_table

from .study import KEYS, Study, phantom_preset

COLUMNS = ("scan", "p_injury", "p_injury_no_tta", "status", "message")
ENTITIES = re.compile(r"(?:^|[/\\_])(sub|ses)-([A-Za-z0-9]+)(?=[/\\_.])")


def read_external(
    predictions: str | os.PathLike[str], labels: str | os.PathLike[str], model: str | os.PathLike[str] | None = None
) -> Study:
    """Join predict.py's table with a table of labels.

    Args:
        predictions: ``scan, p_injury, p_injury_no_tta, status, message`` a scan.
        labels: TSV or CSV with ``label``, ``score_group`` or ``radiology_score``, and ``participant_id`` (with
            ``session_id`` or not), matched to the ``sub-`` and ``ses-`` of the scan's path; or else ``scan``, matched
            to the path or file name. Columns ``family_id, birth_age, birth_weight, sex, singleton, scan_age`` are used
            when there.
        model: the folder of the model that made the predictions (``runs/NAME/fold-K/model``), for its thresholds.

    Returns:
        A `Study` of one fold; scans that failed, have no label or are of poor quality are counted in its flow.

    Raises:
        InputError: a column is missing, no scan has both a prediction and a label, or a row is in doubt.
    """
    path = Path(predictions)
    table = read_table(path, COLUMNS)
    if table.empty:
        raise InputError(f"{path} has no rows: predict.py found no scan.")
    records = table.to_dict("records")
    try:
        matched, unseen = _match(table, Path(labels))
        states = [_state(record, row) for record, (_, _, row) in zip(records, matched, strict=True)]
    except CohortError as error:
        raise InputError(str(error)) from error
    triples = list(zip(records, matched, states, strict=True))
    counts = Counter(status for status, _ in states)
    rows = [_scan(record, *match) for record, match, (status, _) in triples if status == "used"]
    if not rows:
        counted = ", ".join(f"{number} {status}" for status, number in counts.items())
        raise InputError(
            f"No scan of {path} has both a prediction and a label in {labels}: {counted}. "
            "Do the participant_id (or scan) columns agree with the paths?"
        )
    excluded = [(*match[:2], *state) for _, match, state in triples if state[0] != "used"]
    joined = check_predictions(pd.DataFrame(rows), str(path))
    thresholds, notes, selection = _frozen_thresholds(model, len(joined))
    flow = {
        "found": len(table) + unseen,
        **{status: number for status, number in sorted(counts.items()) if status != "used"},
        **({"labelled, never screened": unseen} if unseen else {}),
        "used": len(joined),
        "used normal": int((joined["label"] == 0).sum()),
        "used injury": int((joined["label"] == 1).sum()),
    }
    images = [Path(scan) for scan in joined["image"]]
    return Study(
        name=path.stem,
        table=joined,
        cohort=Path(labels).stem,
        phantom=phantom_preset([str(folder) for folder in images[0].absolute().parents[1:5]]),
        flow=flow,
        exclusions=pd.DataFrame(excluded, columns=[*KEYS, "status", "reason"]),
        selection=selection,
        thresholds=thresholds,
        threshold_notes=notes,
        external=True,
    )


def entities(scan: str) -> tuple[str, str] | None:
    """Participant and session of a BIDS path, without ``sub-`` and ``ses-``; None when it names no participant."""
    found = dict(ENTITIES.findall(scan))  # the last of each kind wins: the file's own name, where it has them
    return (found["sub"], found.get("ses", "")) if "sub" in found else None


def _match(table: pd.DataFrame, labels: Path) -> tuple[list[tuple[str, str, Row | None]], int]:
    """Participant, session and label row (None without one) of every predicted scan; labelled scans not among them."""
    header = read_table(labels, as_text=True)
    if "participant_id" not in header.columns and "scan" in header.columns:
        return _match_by_name(table, header, labels)
    rows = read_rows(labels)
    if not has_labels(rows):
        raise InputError(
            f"{labels} has no column label, score_group or radiology_score; it has {', '.join(header.columns)}."
        )
    ids = [entities(scan) for scan in table["scan"]]
    if not any(ids):
        raise InputError(
            f"None of the scans, e.g. {table['scan'].iloc[0]}, has a path with sub-<participant_id>; give the labels "
            "in a table with a column scan that names the files."
        )
    sessions: dict[str, dict[str, float | None]] = {}
    for participant, session in filter(None, ids):
        sessions.setdefault(participant, {})[session] = None
    assigned = assign([rows], sessions)
    nameless = [(Path(scan).name, "") for scan in table["scan"]]
    keys = [pair or other for pair, other in zip(ids, nameless, strict=True)]
    unseen = sum(row.label is not None for key, row in assigned.items() if key not in set(keys))
    return [(*key, assigned.get(key)) for key in keys], unseen


def _match_by_name(
    table: pd.DataFrame, header: pd.DataFrame, labels: Path
) -> tuple[list[tuple[str, str, Row | None]], int]:
    rows: dict[str, Row] = {}
    for number, cells in enumerate(header.to_dict("records"), start=2):
        cells = {key.lower(): "" if value.strip().lower() in MISSING else value.strip() for key, value in cells.items()}
        if cells["scan"] in rows:
            raise InputError(f"{labels}, row {number}: {cells['scan']} is labelled twice; keep one of the two rows.")
        rows[cells["scan"]] = Row(_stem(cells["scan"]), "", cells, f"{labels}, row {number}")
    if not has_labels(list(rows.values())):
        raise InputError(
            f"{labels} has no column label, score_group or radiology_score; it has {', '.join(header.columns)}."
        )
    # a whole path, or a file name where it is the only one of that name
    names = Counter(Path(scan).name for scan in [*table["scan"]])
    keys = [scan if scan in rows or names[Path(scan).name] > 1 else Path(scan).name for scan in table["scan"]]
    unseen = sum(row.label is not None for key, row in rows.items() if key not in set(keys))
    stems = [_stem(scan) if names[Path(scan).name] == 1 else scan for scan in table["scan"]]
    return [(stem, "", rows.get(key)) for stem, key in zip(stems, keys, strict=True)], unseen


def _stem(scan: str) -> str:
    return re.sub(r"\.(nii(\.gz)?|mg[hz])$", "", Path(scan).name)


def _state(record: dict, found: Row | None) -> tuple[str, str]:
    if record["status"] != "ok":
        return "not screened", str(record["message"])
    if found is None or not found.speaks:
        return "unlabelled", "The label table says nothing of it."
    if found.score == "Q":
        return "poor quality", "Its radiology score is Q: the quality of the scan was too poor to be scored."
    return "used", ""


def _scan(record: dict, participant: str, session: str, found: Row) -> dict[str, object]:
    family = participant[:7] if DHCP_ID.match(participant) else found.cells.get("family_id") or participant
    sex = SEXES.get((found.cells.get("sex") or found.cells.get("gender") or "").lower(), "")
    numbers = {name: found.number(name) for name in ("birth_age", "birth_weight", "scan_age")}
    return {
        "participant_id": participant,
        "session_id": session,
        "family": family,
        "fold": 0,
        "label": found.label,
        "radiology_score": found.score,
        "p_injury": record["p_injury"],
        "p_injury_no_tta": record["p_injury_no_tta"],
        "image": record["scan"],
        "segmentation": "",
        "sex": sex,
        "singleton": SINGLETONS.get(found.cells.get("singleton", "").lower(), ""),
        **{name: np.nan if value is None else value for name, value in numbers.items()},
    }


def _frozen_thresholds(
    model: str | os.PathLike[str] | None, n: int
) -> tuple[dict[str, np.ndarray], dict[str, str], str]:
    """Thresholds of the model's own training, and how its epoch was selected ("unknown" without its metrics.json)."""
    thresholds, notes = {"0.5": np.full(n, 0.5)}, {"0.5": "fixed beforehand"}
    if model is None:
        return thresholds, notes, "unknown"
    folder = Path(model)
    trained = ModelFolder(folder.parent)
    config = read_json(folder / trained.config.name)
    own = config.get("threshold", 0.5)
    if own != 0.5:
        thresholds["Model's own"] = np.full(n, float(own))
        notes["Model's own"] = f"{own:g}, of the model's config"
    record = trained.metrics
    if not record.is_file():
        return thresholds, notes, "unknown"
    metrics = read_json(record)
    inner = metrics.get("inner") or {}
    for key, title in (("threshold_youden", "Youden"), ("threshold_sensitivity_90", "Sensitivity 0.90")):
        if isinstance(inner.get(key), int | float):
            thresholds[title] = np.full(n, float(inner[key]))
            notes[title] = f"{inner[key]:.3f}, chosen on the inner scans of the model's training fold"
    return thresholds, notes, str(metrics.get("selection", "unknown"))
