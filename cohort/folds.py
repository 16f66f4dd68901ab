"""The folds of a run: made once, written to `splits.json`, and checked against the cohort whenever they are read."""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from run_folder.files import read_json, write_text
from run_folder.layout import MOST_FOLDS

from .dealing import deal, too_few
from .file_hashes import check_files, scan_record
from .images import scan_names
from .labels import name
from .scans import CohortError, Scan
from .site_folds import check_sites, sites_of

VERSION = 1
RULES = ("family", "paper", "site")
CLASSES = {0: "normal", 1: "injury"}
START_AGAIN = "Start the run again with --overwrite."


def make_splits(
    scans: Sequence[Scan],
    *,
    num_folds: int = 5,
    seed: int = 42,
    split: str = "family",
    file_hashes: dict[str, str] | None = None,
    complete: bool = True,
) -> dict[str, Any]:
    """Assign the scans in use to folds, stratified by label. The result depends only on ids, families, labels and seed.

    The rule `family` keeps siblings, and all sessions of an infant, in one fold. The rule `paper` keeps only the
    sessions of an infant together; it stratifies infants by the highest label of their sessions, and counts the sibling
    pairs that are split across folds. The rule `site` makes one fold per site (see `site_folds`).

    Args:
        scans: scans of any status; only those with status `used` are assigned.
        num_folds: at least 2; the rule `site` ignores it.
        seed: seed of the shuffle, 0 to 2**32 - 1; the rule `site` only records it.
        split: `family`, `paper` or `site`.
        file_hashes: image path -> SHA-256. If given, the hashes are recorded, so that changed files are noticed later.
        complete: False, for a small site of a federation, allows folds that lack a class or hold no scan.

    Returns:
        The content of `splits.json`: version, seed, rule, num_folds, sibling_pairs, torn_sibling_pairs (pairs split
        across folds), the number of scans per fold and class, and for each participant its family, fold and sessions
        with label and file hash; with the rule `site` also `sites`, by fold.

    Raises:
        CohortError: two scans have the same name, a class has fewer families or infants than folds, or see `sites_of`.
    """
    if split not in RULES:
        raise CohortError(f"The split is {split!r}: choose family, paper or site.")
    if num_folds < 2:
        raise CohortError(f"{num_folds} fold(s) leave no scans to train on: choose at least 2.")
    if not 0 <= seed < 2**32:
        raise CohortError(f"The seed is {seed}: choose one from 0 to {2**32 - 1}.")
    scans = _used(scans)
    by_participant: dict[str, list[Scan]] = defaultdict(list)
    for scan in scans:
        by_participant[scan.participant_id].append(scan)
    family = _families(scans)
    sites: list[str] = []
    if not complete and too_few(scans, num_folds):
        fold_of = deal(scans, num_folds, seed)
    elif split == "family":
        _require_enough([(scan.family, _label(scan)) for scan in scans], num_folds, "families")
        labels = np.array([scan.label for scan in scans])
        groups = np.array([scan.family for scan in scans])
        parts = StratifiedGroupKFold(num_folds, shuffle=True, random_state=seed).split(labels, labels, groups)
        fold_of = {scans[i].participant_id: fold for fold, (_, held_out) in enumerate(parts) for i in held_out}
    elif split == "site":
        sites = sites_of(scans)
        num_folds, fold_of = len(sites), {scan.participant_id: sites.index(scan.site) for scan in scans}
    else:
        participants = sorted(by_participant)
        labels = np.array([max(_label(scan) for scan in by_participant[participant]) for participant in participants])
        _require_enough(list(zip(participants, labels, strict=True)), num_folds, "infants")
        parts = StratifiedKFold(num_folds, shuffle=True, random_state=seed).split(labels, labels)
        fold_of = {participants[i]: fold for fold, (_, held_out) in enumerate(parts) for i in held_out}

    siblings = defaultdict(list)
    for participant in sorted(by_participant):
        siblings[family[participant]].append(participant)
    pairs = [pair for members in siblings.values() for pair in combinations(members, 2)]
    splits = {
        "version": VERSION,
        "seed": seed,
        "rule": split,
        "num_folds": num_folds,
        **({"sites": sites} if sites else {}),
        "sibling_pairs": len(pairs),
        "torn_sibling_pairs": sum(fold_of[first] != fold_of[second] for first, second in pairs),
        "folds": _count(scans, fold_of, num_folds),
        "participants": {
            participant: {
                "family": family[participant],
                "fold": fold_of[participant],
                "sessions": {scan.session_id: scan_record(scan, file_hashes) for scan in by_participant[participant]},
            }
            for participant in sorted(by_participant)
        },
    }
    check_splits(splits, scans, file_hashes, complete=complete)
    return splits


def write_splits(splits: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Write `splits.json`. Equal splits give equal bytes."""
    write_text(path, json.dumps(splits, indent=2, sort_keys=True) + "\n")


def read_splits(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read `splits.json`. Call `check_splits` before using it. Raises CohortError if the file is unusable."""
    try:
        splits = read_json(path)
        if splits["version"] != VERSION:
            raise ValueError(f"version {splits['version']} instead of {VERSION}")
        if type(splits["num_folds"]) is not int or splits["num_folds"] > MOST_FOLDS or not splits["participants"]:
            raise ValueError("no folds or no participants")
        wrong_sites = splits["rule"] == "site" and len(set(splits["sites"])) != splits["num_folds"]
        if splits["rule"] not in RULES or wrong_sites:
            raise ValueError(f"rule {splits['rule']!r}")
        for participant, entry in splits["participants"].items():
            if type(entry["fold"]) is not int or not 0 <= entry["fold"] < splits["num_folds"]:
                raise ValueError(f"fold {entry['fold']!r} of sub-{participant}")
            if not isinstance(entry["family"], str):
                raise ValueError(f"family {entry['family']!r} of sub-{participant}")
            for session, record in entry["sessions"].items():
                if record["label"] not in CLASSES or not isinstance(record.get("sha256", ""), str):
                    raise ValueError(f"the record of {name(participant, session)}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CohortError(
            f"{path} does not hold usable splits ({type(error).__name__}: {error}). {START_AGAIN}"
        ) from error
    return splits


def check_splits(
    splits: dict[str, Any], scans: Sequence[Scan], file_hashes: dict[str, str] | None = None, *, complete: bool = True
) -> None:
    """Check that the splits belong to these scans and that no family or file is in two folds.

    Args:
        splits: from `make_splits` or `read_splits`.
        scans: scans of any status; those with status `used` must be the ones that were split.
        file_hashes: image path -> SHA-256 for every scan in use; None skips the check of the files.
        complete: see `make_splits`.

    Raises:
        CohortError: a scan is new or missing; its label, file or (rule `site`) site has changed; a family is in several
            folds (not with the rule `paper`); two scans have the same file; or a fold lacks a class. It says which.
    """
    scans = _used(scans)
    advice = "restore the cohort, or start the run again with --overwrite."
    recorded = {
        (participant, session): record
        for participant, entry in splits["participants"].items()
        for session, record in entry["sessions"].items()
    }
    present = {(scan.participant_id, scan.session_id): scan for scan in scans}
    for keys, complaint in ((present.keys() - recorded, "not in the splits"), (recorded.keys() - present, "missing")):
        if keys:
            raise CohortError(f"The cohort has changed since it was split ({complaint}: {scan_names(keys)}): {advice}")
    changed = [key for key, scan in present.items() if recorded[key]["label"] != scan.label]
    if changed:
        raise CohortError(f"Labels have changed since the cohort was split ({scan_names(changed)}): {advice}")

    fold_of = {participant: entry["fold"] for participant, entry in splits["participants"].items()}
    if splits["rule"] != "paper":  # check both the recorded and the current families: they may differ
        members: dict[str, set[str]] = defaultdict(set)
        for participant, family in [
            *((participant, entry["family"]) for participant, entry in splits["participants"].items()),
            *_families(scans).items(),
        ]:
            members[family].add(participant)
        divided = sorted(family for family in members if len({fold_of[member] for member in members[family]}) > 1)
        if divided:
            listed = "; ".join(
                f"{family}: {', '.join(f'sub-{m}' for m in sorted(members[family]))}" for family in divided[:3]
            )
            raise CohortError(f"Families split across folds: {len(divided)} ({listed}). {START_AGAIN}")
    if file_hashes is not None:
        check_files(recorded, present, file_hashes, advice)
    if splits["rule"] == "site":
        check_sites(splits, scans, advice)
    elif complete:
        _both_classes(_count(scans, fold_of, splits["num_folds"]))


def fold_scans(splits: dict[str, Any], scans: Sequence[Scan], fold: int) -> tuple[list[Scan], list[Scan]]:
    """The training scans and the held-out scans of a fold, each in the order given. Excluded scans are left out.

    Raises:
        CohortError: the fold does not exist, or a scan is not in the splits.
    """
    if not 0 <= fold < splits["num_folds"]:
        raise CohortError(f"There is no fold {fold}: the splits have folds 0 to {splits['num_folds'] - 1}.")
    parts: tuple[list[Scan], list[Scan]] = ([], [])
    for scan in scans:
        if scan.status != "used":
            continue
        entry = splits["participants"].get(scan.participant_id)
        if entry is None or scan.session_id not in entry["sessions"]:
            raise CohortError(f"{name(scan.participant_id, scan.session_id)} is not in the splits. {START_AGAIN}")
        parts[entry["fold"] == fold].append(scan)
    return parts


def family_counts(scans: Sequence[Scan]) -> str:
    """How many families the scans in use have, and how many pairs of siblings are among their infants, in words.

    A column of families that was not understood shows here: the pairs are then missing.
    """
    members = Counter(_families([scan for scan in scans if scan.status == "used"]).values())
    return f"{len(members)} families, {sum(n * (n - 1) // 2 for n in members.values())} sibling pairs"


def inner_split(train_scans: Sequence[Scan], *, seed: int) -> tuple[list[Scan], list[Scan]]:
    """Hold out about a fifth of a fold's training scans, keeping families together and stratified by label.

    Args:
        train_scans: the first part of `fold_scans`.
        seed: seed of the shuffle, 0 to 2**32 - 1.

    Returns:
        The scans to train on, and those on which epoch, threshold and temperature are chosen, in the order given.

    Raises:
        CohortError: there are too few families to have both classes in both parts.
    """
    scans = _used(train_scans)
    _families(scans)
    labels = np.array([scan.label for scan in scans])
    groups = np.array([scan.family for scan in scans])
    # with fewer than five families per class, hold out more than a fifth
    num_parts = min(5, *(len(set(groups[labels == label])) for label in CLASSES))
    splitter = StratifiedGroupKFold(max(num_parts, 2), shuffle=True, random_state=seed)
    choices = []
    for _, held_out in splitter.split(labels, labels, groups) if num_parts > 1 else ():
        families = {scans[i].family for i in held_out}
        inner = [scan for scan in train_scans if scan.status == "used" and scan.family in families]
        train = [scan for scan in train_scans if scan.status == "used" and scan.family not in families]
        if all({scan.label for scan in part} == set(CLASSES) for part in (train, inner)):
            choices.append((train, inner))
    if choices:
        return min(choices, key=lambda parts: abs(len(parts[1]) - len(scans) / 5))
    raise CohortError(
        f"The {len(scans)} training scans of {len(set(groups))} families cannot be split into two parts that "
        "each have both classes: use --selection last, or a larger cohort."
    )


def _used(scans: Sequence[Scan]) -> list[Scan]:
    """The scans in use, sorted so that the input order does not matter. Each must have a label and a unique name."""
    scans = sorted(
        (scan for scan in scans if scan.status == "used"), key=lambda scan: (scan.participant_id, scan.session_id)
    )
    if not scans:
        raise CohortError("There is no scan to split: all scans are excluded.")
    for scan in scans:
        if scan.label not in CLASSES:
            raise CohortError(f"{name(scan.participant_id, scan.session_id)} has no label: label or exclude it.")
    twice = [key for key, n in Counter((scan.participant_id, scan.session_id) for scan in scans).items() if n > 1]
    if twice:
        raise CohortError(f"Scans are in the cohort more than once ({scan_names(twice)}): keep one of each.")
    return scans


def _label(scan: Scan) -> int:
    """The label of a scan in use; `_used` checks that it has one."""
    assert scan.label is not None
    return scan.label


def _families(scans: Sequence[Scan]) -> dict[str, str]:
    """participant -> family. Each participant must have exactly one."""
    family: dict[str, str] = {}
    for scan in scans:
        if family.setdefault(scan.participant_id, scan.family) != scan.family:
            raise CohortError(
                f"sub-{scan.participant_id} is in two families, {family[scan.participant_id]} and {scan.family}: "
                "give it one family_id."
            )
    return family


def _require_enough(units: Sequence[tuple[str, int]], num_folds: int, what: str) -> None:
    """Raise CohortError if there are fewer units (families or infants) than folds, in total or in one class."""
    counts = {"": len({unit for unit, _ in units})}
    counts |= {f" with the label {word}": len({unit for unit, own in units if own == k}) for k, word in CLASSES.items()}
    for which, number in counts.items():
        if number < num_folds:
            raise CohortError(
                f"There are {number} {what}{which}, fewer than the {num_folds} folds: choose a smaller "
                "--num_folds, or use a larger cohort."
            )


def _count(scans: Sequence[Scan], fold_of: dict[str, int], num_folds: int) -> list[dict[str, int]]:
    counts = Counter((fold_of[scan.participant_id], scan.label) for scan in scans)
    return [{word: counts[fold, label] for label, word in CLASSES.items()} for fold in range(num_folds)]


def _both_classes(folds: list[dict[str, int]]) -> None:
    for fold, counts in enumerate(folds):
        for word, number in counts.items():
            if number in (0, sum(other[word] for other in folds)):
                where = "held-out" if number == 0 else "training"
                raise CohortError(
                    f"The {where} part of fold {fold} has no scan of the class {word}: choose a smaller "
                    "--num_folds, or another --seed."
                )
