"""Leave-one-site-out: one fold per site, in the order of the sites' names. Each holds out every scan of its site."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from run_folder.layout import MOST_FOLDS

from .ids import require_distinct
from .images import scan_names
from .labels import name
from .scans import CohortError, Scan

ANOTHER_SPLIT = "or use --split family"


def sites_of(scans: Sequence[Scan]) -> list[str]:
    """The sites of the scans in use, sorted: site k is held out in fold k.

    Raises:
        CohortError: a scan has no site, a site is written in two ways, there are fewer than 2 or more than 100 sites,
            or an infant or a family has scans at several sites. The message names them.
    """
    if missing := [scan for scan in scans if not scan.site]:
        names = scan_names((scan.participant_id, scan.session_id) for scan in missing)
        raise CohortError(
            f"--split site needs the site of every scan, and {len(missing)} of {len(scans)} have none "
            f"({names}): fill in the column site of participants.tsv or of the label table, {ANOTHER_SPLIT}."
        )
    require_distinct(
        ((scan.site, f"of sub-{scan.participant_id}") for scan in scans),
        "site",
        "Write a site in the same way everywhere; if these are different sites, rename one.",
    )
    sites = sorted({scan.site for scan in scans})
    if len(sites) == 1:
        raise CohortError(
            f"All {len(scans)} scans are of the site {sites[0]}, so no scan is left to train on when it is left out: "
            "add scans of other sites, or use --split family."
        )
    if len(sites) > MOST_FOLDS:
        raise CohortError(f"There are {len(sites)} sites, and a run has at most {MOST_FOLDS} folds: merge small sites.")
    families: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for scan in scans:
        families[scan.family][scan.site].add(f"sub-{scan.participant_id}")
    if several := sorted(family for family, places in families.items() if len(places) > 1):
        first = "; ".join(f"{', '.join(sorted(infants))} at {site}" for site, infants in families[several[0]].items())
        raise CohortError(
            f"Families with scans at several sites: {len(several)} ({several[0]}: {first}). They would be on both "
            "sides of --split site: give each family one site, or empty the labels of its scans at the others, "
            f"{ANOTHER_SPLIT}."
        )
    return sites


def check_sites(splits: dict[str, Any], scans: Sequence[Scan], advice: str) -> None:
    """Check that every scan is in the fold of its site, and that each training part has both classes.

    Args:
        splits: with the rule `site`, of these scans.
        scans: the scans in use.
        advice: the end of the message.

    Raises:
        CohortError: the site of a scan has changed, or all scans of a class are of one site.
    """
    for scan in scans:
        recorded = splits["sites"][splits["participants"][scan.participant_id]["fold"]]
        if scan.site != recorded:
            raise CohortError(
                f"Sites have changed since the cohort was split ({name(scan.participant_id, scan.session_id)} was of "
                f"{recorded}, now of {scan.site or 'no site'}): {advice}"
            )
    for label, word in enumerate(("normal", "injury")):
        places = {scan.site for scan in scans if scan.label == label}
        if len(places) < 2:
            what = f"All scans with the label {word} are of the site {places.pop()}" if places else f"No scan is {word}"
            raise CohortError(
                f"{what}, so there is none to learn from when that site is left out: add such scans of another site, "
                f"{ANOTHER_SPLIT}."
            )


def site_lines(splits: dict[str, Any]) -> list[str]:
    """What each fold of a leave-one-site-out run holds out, one line per fold; [] for other rules.

    A held-out site of one class has no AUC, and only one of sensitivity and specificity; its line says so.
    """
    if splits["rule"] != "site":
        return []
    lines = []
    for fold, (site, counts) in enumerate(zip(splits["sites"], splits["folds"], strict=True)):
        note = ": one class only, so its AUC is undefined" if 0 in counts.values() else ""
        lines.append(f"fold {fold} leaves out {site} ({counts['normal']} normal, {counts['injury']} injury){note}")
    return lines
