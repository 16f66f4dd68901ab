"""External validation: predictions of a finished model on scans of another site, joined with that site's labels.

Nothing is fitted here. The temperature is already applied to the probabilities of predict.py, and the thresholds are
those stored with the model.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd

from cohort.ids import require_distinct_families, require_distinct_ids
from cohort.labels import MISSING, SEXES, SINGLETONS, LabelRow, assign, column_names, has_labels, read_rows
from cohort.scans import DHCP_ID, CohortError
from run_folder.files import InputError, read_json
from run_folder.layout import ModelFolder
from run_folder.predictions import check_predictions
from run_folder.provenance import caution, read_provenance
from run_folder.tables import read_table

from .records import read_metrics
from .study import DOUBTED, KEYS, Study, painted_cohort, phantom_preset
from .thresholds import threshold_text

COLUMNS = ("scan", "p_injury", "p_injury_no_tta", "status", "message")
CONFIG = "config.json"  # in a model folder, which may have any name
ENTITIES = re.compile(r"(?:^|[/\\_])(sub|ses)-([A-Za-z0-9]+)(?=[/\\_.])")
# what predict.py may say of a scan that it does not doubt: nothing, or which modalities are missing
NO_DOUBT = re.compile(r"(The scan has no [\w, ]+: the answer rests on [\w, ]+ alone\.)?")


def read_external(
    predictions: str | os.PathLike[str], labels: str | os.PathLike[str], model: str | os.PathLike[str] | None = None
) -> Study:
    """Join the output of predict.py with a table of labels.

    Args:
        predictions: CSV with ``scan, p_injury, p_injury_no_tta, status, message``, one row per scan; and ``warnings``,
            which tables of earlier versions lack.
        labels: TSV or CSV with ``label``, ``score_group`` or ``radiology_score``. Its rows are matched by
            ``participant_id`` (and ``session_id``) to ``sub-`` and ``ses-`` in the paths of the scans, or by ``scan``
            to their paths or file names. Optional: ``family_id, birth_age, birth_weight, sex, singleton, scan_age,
            site``.
        model: folder of the model that made the predictions (``runs/NAME/fold-K/model``), for its thresholds and its
            `caution`.

    Returns:
        A `Study` of one fold. Its flow counts the scans that failed, have no label or have poor quality, and the used
        ones that predict.py doubts.

    Raises:
        InputError: a column is missing, a row is ambiguous, or no scan has both a prediction and a label.
    """
    path = Path(predictions)
    table = read_table(path, COLUMNS)
    if table.empty:
        raise InputError(f"{path} has no rows: predict.py found no scan.")
    records = table.to_dict("records")
    try:
        matched, unseen = _match(table, Path(labels))
        states = [_state(record, row) for record, (_, _, row) in zip(records, matched, strict=True)]
        triples = list(zip(records, matched, states, strict=True))
        rows = [
            _scan(record, participant, session, row)
            for record, (participant, session, row), (status, _) in triples
            if status == "used" and row is not None
        ]
        require_distinct_families((str(row["family"]), str(row["participant_id"])) for row in rows)
    except CohortError as error:
        raise InputError(str(error)) from error
    counts = Counter(status for status, _ in states)
    if not rows:
        counted = ", ".join(f"{number} {status}" for status, number in counts.items())
        raise InputError(
            f"No scan of {path} has both a prediction and a label in {labels}: {counted}. "
            "Check that participant_id (or scan) in the labels agrees with the paths of the scans."
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
    if "warnings" in table:
        used = [record for record, (status, _) in zip(records, states, strict=True) if status == "used"]
        flow[DOUBTED] = sum(is_doubted(record["warnings"]) for record in used)
    images = [Path(scan) for scan in joined["image"]]
    folders = [str(folder) for folder in images[0].absolute().parents[1:5]]
    return Study(
        name=path.stem,
        table=joined,
        cohort=Path(labels).stem,
        phantom=phantom_preset(folders),
        painted=painted_cohort(folders),
        flow=flow,
        exclusions=pd.DataFrame(excluded, columns=[*KEYS, "status", "reason"]),
        selection=selection,
        thresholds=thresholds,
        threshold_notes=notes,
        external=True,
        caution=caution(read_provenance(Path(model) / CONFIG)) if model else "",
    )


def entities(scan: str) -> tuple[str, str] | None:
    """Participant and session of a BIDS path, without ``sub-`` and ``ses-``; None if it names no participant."""
    found = dict(ENTITIES.findall(scan))  # the last match wins, so the file name takes precedence over folders
    return (found["sub"], found.get("ses", "")) if "sub" in found else None


def _match(table: pd.DataFrame, labels: Path) -> tuple[list[tuple[str, str, LabelRow | None]], int]:
    """(participant, session, label row or None) per predicted scan, and the number of labelled scans without one."""
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
            f"No scan has a path with sub-<participant_id> (the first is {table['scan'].iloc[0]}); give the labels "
            "in a table with a column scan that names the files."
        )
    screened = [(*pair, "screened") for pair in ids if pair]
    require_distinct_ids([*screened, *((row.participant_id, row.session_id, row.where) for row in rows)])
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
) -> tuple[list[tuple[str, str, LabelRow | None]], int]:
    rows: dict[str, LabelRow] = {}
    header = header.set_axis(column_names(header.columns, labels), axis=1)
    for number, cells in enumerate(header.to_dict("records"), start=2):
        cells = {key: "" if value.strip().lower() in MISSING else value.strip() for key, value in cells.items()}
        if cells["scan"] in rows:
            raise InputError(f"{labels}, row {number}: {cells['scan']} is labelled twice; keep one of the two rows.")
        rows[cells["scan"]] = LabelRow(_stem(cells["scan"]), "", cells, f"{labels}, row {number}")
    if not has_labels(list(rows.values())):
        raise InputError(
            f"{labels} has no column label, score_group or radiology_score; it has {', '.join(header.columns)}."
        )
    # match by whole path, or by file name if only one scan has that name
    names = Counter(Path(scan).name for scan in [*table["scan"]])
    keys = [scan if scan in rows or names[Path(scan).name] > 1 else Path(scan).name for scan in table["scan"]]
    unseen = sum(row.label is not None for key, row in rows.items() if key not in set(keys))
    stems = [_stem(scan) if names[Path(scan).name] == 1 else scan for scan in table["scan"]]
    return [(stem, "", rows.get(key)) for stem, key in zip(stems, keys, strict=True)], unseen


def _stem(scan: str) -> str:
    return re.sub(r"\.(nii(\.gz)?|mg[hz])$", "", Path(scan).name, flags=re.IGNORECASE)


def _state(record: dict, found: LabelRow | None) -> tuple[str, str]:
    if record["status"] != "ok":
        return "not screened", str(record["message"])
    if found is None or not found.is_informative:
        return "unlabelled", "No row of the label table gives this scan a label."
    if found.score == "Q":
        return "poor quality", "Its radiology score is Q: the scan quality was too poor for a score."
    return "used", ""


def is_doubted(warnings: str) -> bool:
    """Whether the column `warnings` of predict.py doubts a scan. That a modality is missing is no doubt."""
    return not NO_DOUBT.fullmatch(warnings.strip())


def _scan(record: dict, participant: str, session: str, found: LabelRow) -> dict[str, object]:
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
        "site": found.cells.get("site", ""),
        **{name: np.nan if value is None else value for name, value in numbers.items()},
    }


def _frozen_thresholds(
    model: str | os.PathLike[str] | None, n: int
) -> tuple[dict[str, np.ndarray], dict[str, str], str]:
    """Thresholds stored with the model, notes on them, and how its epoch was selected ("unknown" if not recorded)."""
    thresholds, notes = {"0.5": np.full(n, 0.5)}, {"0.5": "fixed in advance"}
    if model is None:
        return thresholds, notes, "unknown"
    config, trained = Path(model) / CONFIG, ModelFolder(Path(model).parent)
    own = read_json(config).get("threshold", 0.5)
    if isinstance(own, bool) or not isinstance(own, int | float) or not 0 <= own <= 1:
        raise InputError(f"{config} is damaged: its threshold is {str(own)[:50]}, not 0 to 1.")
    if own != 0.5:
        thresholds["Model's own"] = np.full(n, float(own))
        notes["Model's own"] = f"{threshold_text(own, 'g')}, from the model's configuration"
    record = trained.metrics
    if not record.is_file():
        return thresholds, notes, "unknown"
    metrics = read_metrics(trained, complete=False)
    inner = metrics.get("inner") or {}
    for key, title in (("threshold_youden", "Youden"), ("threshold_sensitivity_90", "Sensitivity 0.90")):
        if isinstance(inner.get(key), int | float):
            thresholds[title] = np.full(n, float(inner[key]))
            notes[title] = f"{threshold_text(inner[key])}, chosen on the inner scans of the model's training fold"
    return thresholds, notes, str(metrics.get("selection", "unknown"))
