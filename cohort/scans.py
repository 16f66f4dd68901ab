"""The scans of a cohort: the images of a BIDS tree joined with their labels. Excluded scans are listed, not dropped."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import pandas as pd

from run_folder.files import write_text
from run_folder.tables import csv_text, read_table

from .ids import require_distinct_families, require_distinct_ids, whole
from .images import (
    CohortError,
    SessionImages,
    list_sessions,
    mask_names,
    no_image_at_all,
    not_fetched,
    session_images,
)
from .labels import SEXES, SINGLETONS, LabelRow, assign, known_score, label_of_score, name, read_tables
from .modalities import COLUMNS, Channel, channel_cells, channel_counts, channels_of_cells, with_channels

DHCP_ID = re.compile(r"^CC\d{5}[A-Z]{2}\d{2}$")


@dataclass(frozen=True)
class Scan:
    """One session of one infant, used or excluded. Ids have no `sub-` or `ses-` prefix, paths are absolute."""

    participant_id: str
    session_id: str  # "" in a tree without sessions
    family: str  # the same for siblings
    image: str | None  # None if a label table lists the scan but it is not on disk
    mask: str | None  # brain mask
    segmentation: str | None  # DrawEM's nine tissues
    label: int | None  # 0 normal, 1 injury
    radiology_score: str  # 1 to 5, Q, or "" if unknown
    sex: str  # M, F, or ""
    birth_age: float | None  # weeks
    birth_weight: float | None  # kg
    singleton: str  # S, M (multiple birth), or ""
    scan_age: float | None  # post-menstrual age, weeks
    # used, or why it is excluded: no image, several images, poor quality, unlabelled, birth age, not fetched (by
    # git-annex or git LFS), unreadable
    status: str
    reason: str  # a sentence; "" if used
    site: str = ""  # the hospital, from a column `site`; "" if unknown
    channels: tuple[Channel, ...] = ()  # its other modalities, as far as they were asked for and it has them


_COLUMNS = tuple(f.name for f in fields(Scan) if f.name != "channels")  # of cohort.csv


def find_scans(
    data_dir: str | os.PathLike[str],
    labels: str | os.PathLike[str] | None = None,
    *,
    brain_mask: str = "none",
    max_birth_age: float | None = None,
    acquisition: str | None = None,
    run: str | None = None,
    one_site: bool = False,
    modalities: Sequence[str] = ("T2w",),
    also: Sequence[str | os.PathLike[str]] = (),
) -> list[Scan]:
    """List every session of a BIDS cohort with its label, sorted by id. Excluded ones are included, with the reason.

    The labels come from the table given, or else from the tree's own `sub-X_sessions.tsv`, `combined.tsv` and
    `participants.tsv`, where the score of a session takes precedence over one of the infant. Covariates come from all
    of these tables.

    Args:
        data_dir: folder with `sub-X/ses-Y/anat/` or `sub-X/anat/`.
        labels: table with `participant_id`, optionally `session_id`, and one or more of `label`, `score_group` and
            `radiology_score`.
        brain_mask: `required` raises an error if a scan in use has no mask; `none` does not check.
        max_birth_age: in weeks; only infants born before it are used.
        acquisition, run: which image to use in a session that has several, see `session_images`. If several are left,
            columns `acquisition` and `run` of the label's row choose. A session that still has several is excluded.
        one_site: refuse tables that give a scan two sites. Otherwise the first counts, as for other covariates.
        modalities: further images to find for the scans in use, see `find_channels`. A scan that lacks one is kept.
        also: further roots, in which these are searched too.

    Raises:
        CohortError: no scan can be used, the files leave a label ambiguous, an id is written in two ways, no scan has
            one of the modalities, or an image of one cannot be right.
    """
    if brain_mask not in ("none", "required"):
        raise CohortError(f"brain_mask is {brain_mask!r}: choose none or required.")
    on_disk = {
        (found.participant_id, found.session_id): found
        for found in list_sessions(data_dir, acquisition=acquisition, run=run)
    }
    if not any(found.image or found.status == "several images" for found in on_disk.values()):
        raise CohortError(no_image_at_all([*on_disk.values()], data_dir))
    label_tables, tables = read_tables(Path(os.path.abspath(Path(data_dir).expanduser())), labels)
    require_distinct_ids(
        [
            *((*key, "the folder") for key in on_disk),
            *((row.participant_id, row.session_id, row.where) for table in tables for row in table),
        ]
    )

    rows: dict[str, list[LabelRow]] = {}
    sessions: dict[str, dict[str, float | None]] = {}
    for participant, session in (key for key, found in on_disk.items() if found.anat):
        sessions.setdefault(participant, {})[session] = None
    for entry in (entry for table in tables for entry in table):
        rows.setdefault(entry.participant_id, []).append(entry)
        if entry.session_id:
            known = sessions.setdefault(entry.participant_id, {})
            if known.get(entry.session_id) is None:
                known[entry.session_id] = entry.number("scan_age")
    assigned = assign(label_tables, sessions)

    scans = []
    for key in sorted(on_disk.keys() | assigned.keys()):
        row = assigned.get(key)
        found = _chosen_by(row, on_disk.get(key) or SessionImages(*key, None, None, None), acquisition, run)
        on_disk[key] = found
        scan = _describe(found, row, rows.get(key[0], []), sessions.get(key[0], {}), one_site)
        status, reason = _exclusion(scan, found, assigned, max_birth_age, labels)
        scans.append(exclude(scan, status, reason) if status else scan)
    _refuse_copies(on_disk.values())
    require_distinct_families((scan.family, scan.participant_id) for scan in scans)
    if not any(scan.status == "used" for scan in scans):
        raise CohortError(_nothing_to_use(scans, data_dir))
    if brain_mask == "required":
        _require_masks(scans, on_disk)
    return with_channels(scans, [data_dir, *also], modalities) if len(modalities) > 1 else scans


def exclude(scan: Scan, status: str, reason: str) -> Scan:
    """The same scan, excluded: `status` is a word or two, `reason` a sentence."""
    return replace(scan, status=status, reason=reason)


def flow(scans: Iterable[Scan]) -> dict[str, int]:
    """Count the scans: found, labelled, excluded for each reason, used, used per class, and used with each modality.

    `found` counts every scan, including those that only a label table lists (`no image`). It equals `used` plus all
    exclusions.
    """
    scans = list(scans)
    by_status = Counter(scan.status for scan in scans)
    used = Counter(scan.label for scan in scans if scan.status == "used")
    return {
        "found": len(scans),
        "labelled": sum(scan.label is not None for scan in scans),
        **{status: by_status[status] for status in sorted(by_status) if status != "used"},
        "used": by_status["used"],
        "used normal": used[0],
        "used injury": used[1],
        **{f"used with {m}": n for m, n in channel_counts(s.channels for s in scans if s.status == "used").items()},
    }


def write_cohort(scans: Iterable[Scan], path: str | os.PathLike[str]) -> None:
    """Write `cohort.csv`: one row per scan, one column per field of `Scan`, empty cells for unknown values.

    If scans have further modalities, their files are in columns of their own, see `channel_cells`.
    """
    scans = list(scans)
    table = pd.DataFrame(
        [["" if (value := getattr(scan, column)) is None else str(value) for column in _COLUMNS] for scan in scans],
        columns=list(_COLUMNS),
    )
    files = [channel_cells(scan.channels) for scan in scans]
    for column in (column for column in COLUMNS if any(column in cells for cells in files)):
        table[column] = [cells.get(column, "") for cells in files]
    write_text(path, csv_text(table))


def read_cohort(path: str | os.PathLike[str]) -> list[Scan]:
    """Read a file of `write_cohort`. Raises CohortError if it is missing or not such a table."""
    try:
        columns = [column for column in _COLUMNS if column != "site"]  # which older runs lack
        scans = []
        table = read_table(Path(path), tuple(columns), as_text=True)
        files = [channels_of_cells(row) for row in table.to_dict("records")]
        columns += ["site"] if "site" in table else []
        for row, channels in zip(table[columns].to_dict("records"), files, strict=True):
            for column in ("image", "mask", "segmentation"):
                row[column] = row[column] or None
            for column in ("birth_age", "birth_weight", "scan_age"):
                row[column] = float(row[column]) if row[column] else None
            row["label"] = int(row["label"]) if row["label"] else None
            scans.append(Scan(**row, channels=channels))
    except (OSError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise CohortError(
            f"{path} is not a cohort written by train.py ({reason}): start the run again with --overwrite."
        ) from error
    return scans


def _describe(
    found: SessionImages,
    row: LabelRow | None,
    rows: list[LabelRow],
    sessions: dict[str, float | None],
    one_site: bool,
) -> Scan:
    """Combine a scan with everything the tables say about it and its infant."""
    participant, session = found.participant_id, found.session_id
    of_session = [other for other in rows if session and other.session_id == session]
    of_infant = [other for other in rows if not other.session_id]
    nearest = [*of_session, *([row] if row else []), *(of_infant if len(sessions) < 2 else [])]
    anywhere = [*nearest, *of_infant, *rows]
    sexes = (SEXES.get(other.cells.get(column, "").lower()) for other in anywhere for column in ("sex", "gender"))
    singletons = (SINGLETONS.get(other.cells.get("singleton", "").lower()) for other in anywhere)
    return Scan(
        participant_id=participant,
        session_id=session,
        family=_family(participant, rows),
        image=found.image,
        mask=found.mask,
        segmentation=found.segmentation,
        label=row.label if row else None,
        radiology_score=_score(row, of_session),
        sex=next(filter(None, sexes), ""),
        birth_age=_first_number(anywhere, "birth_age"),
        birth_weight=_first_number(anywhere, "birth_weight"),
        singleton=next(filter(None, singletons), ""),
        scan_age=_first_number(nearest, "scan_age"),
        status="used",
        reason="",
        site=_site(name(participant, session), of_session, [*([row] if row else []), *of_infant], one_site),
    )


def _site(scan: str, of_session: list[LabelRow], of_infant: list[LabelRow], one_site: bool) -> str:
    """The site that the rows of the session give, or else those of the infant."""
    for part in (of_session, of_infant):
        sites = list(dict.fromkeys(site for row in part if (site := row.cells.get("site"))))
        if one_site and len(sites) > 1:
            raise CohortError(f"{scan} has several values of site ({', '.join(sites)}): give it one.")
        if sites:
            return sites[0]
    return ""


def _family(participant: str, rows: list[LabelRow]) -> str:
    if DHCP_ID.match(participant):
        return participant[:7]  # siblings differ in the eighth character
    families = sorted({row.cells["family_id"] for row in rows if row.cells.get("family_id")})
    if len(families) > 1:
        raise CohortError(f"sub-{participant} has several values of family_id ({', '.join(families)}): give it one.")
    return families[0] if families else participant


def _score(row: LabelRow | None, of_session: list[LabelRow]) -> str:
    """The score that belongs to the label. If the label table has none, the score of the session, if it agrees."""
    if row is None or row.score:
        return row.score if row else ""
    for score in filter(None, (known_score(other.cells.get("radiology_score", "")) for other in of_session)):
        # another reader's label may contradict dHCP's score; the score is then left out
        return score if score == "Q" or label_of_score(score) == row.label else ""
    return ""


def _first_number(rows: list[LabelRow], column: str) -> float | None:
    return next((number for row in rows if (number := row.number(column)) is not None), None)


def _chosen_by(row: LabelRow | None, found: SessionImages, acquisition: str | None, run: str | None) -> SessionImages:
    """In a session that has several images left, use the one that columns `acquisition` and `run` of its row name."""
    own_acquisition, own_run = (row.cells.get(column) if row else None for column in ("acquisition", "run"))
    if found.anat is None or found.status != "several images" or not (own_acquisition or own_run):
        return found
    try:
        return session_images(found.anat, acquisition=acquisition or own_acquisition, run=run or whole(own_run or ""))
    except CohortError as error:
        return replace(found, problem=str(error))


def _exclusion(
    scan: Scan,
    found: SessionImages,
    assigned: dict[tuple[str, str], LabelRow],
    max_birth_age: float | None,
    labels: str | os.PathLike[str] | None,
) -> tuple[str, str]:
    """Why a scan is excluded: a status and a sentence, both "" if it is used."""
    if scan.image is None:
        listed = "The labels list it, but no T2-weighted image was found for it."
        return found.status or "no image", found.problem or listed
    if scan.radiology_score == "Q":
        return "poor quality", "Its radiology score is Q: the quality of the scan was too poor to be scored."
    if scan.label is None:
        others = [f"ses-{session}" for infant, session in assigned if infant == scan.participant_id and session]
        where = labels or "the tables of the cohort"
        if others:
            return "unlabelled", f"The label of sub-{scan.participant_id} belongs to {', '.join(sorted(others))}."
        return "unlabelled", f"No label was found for {name(scan.participant_id, scan.session_id)} in {where}."
    if max_birth_age is not None and (scan.birth_age is None or scan.birth_age >= max_birth_age):
        born = "Its birth age is unknown" if scan.birth_age is None else f"Born at {scan.birth_age:g} weeks"
        return "birth age", f"{born}, and only infants born before {max_birth_age:g} weeks are used."
    if problem := not_fetched(scan.image):
        return "not fetched", problem
    return "", ""


def _refuse_copies(found: Iterable[SessionImages]) -> None:
    seen: dict[str, SessionImages] = {}
    for scan in found:
        if scan.image is None:
            continue
        other = seen.setdefault(os.path.realpath(scan.image), scan)
        if other is not scan:
            raise CohortError(f"{other.image} and {scan.image} are links to the same file: remove one of them.")


def _require_masks(scans: list[Scan], on_disk: dict[tuple[str, str], SessionImages]) -> None:
    missing = [scan for scan in scans if scan.status == "used" and scan.mask is None]
    several = [on_disk[scan.participant_id, scan.session_id].mask_problem for scan in missing]
    if any(several):
        raise CohortError(f"A brain mask is required: {next(filter(None, several))}")
    if missing:
        listed = ", ".join(str(scan.image) for scan in missing[:3])
        raise CohortError(
            f"A brain mask is required, but {len(missing)} of the scans have none in their anat folder: {listed}"
            f"{' and others' if len(missing) > 3 else ''}; looked for {mask_names()}. Add the masks, or use "
            "--brain_mask none."
        )


def _nothing_to_use(scans: list[Scan], data_dir: str | os.PathLike[str]) -> str:
    counts = ", ".join(f"{number} {status}" for status, number in sorted(Counter(s.status for s in scans).items()))
    message = f"None of the {len(scans)} scans of {data_dir} can be used ({counts})."
    labelled = Counter(scan.status for scan in scans if scan.label is not None).most_common(1)
    if labelled and labelled[0][0] in ("several images", "not fetched"):  # the reason says what to do
        return f"{message} {next(scan.reason for scan in scans if scan.status == labelled[0][0])}"
    unseen = [scan.participant_id for scan in scans if scan.status == "no image"]
    unlabelled = [scan.participant_id for scan in scans if scan.status == "unlabelled"]
    if unseen and unlabelled:
        ids = f"The label table lists sub-{unseen[0]}, the folder has sub-{unlabelled[0]}"
        return f"{message} {ids}: check that the ids agree."
    return f"{message} First reason: {scans[0].reason} Check the label table and the options."
