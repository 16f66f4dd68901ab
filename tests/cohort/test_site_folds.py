"""Leave-one-site-out: the folds are the sites, and cohorts for which that cannot be are refused in one sentence."""

from dataclasses import replace

import pandas as pd
import pytest
from sklearn.model_selection import LeaveOneGroupOut

from cohort.folds import check_splits, fold_scans, inner_split, make_splits, read_splits, write_splits
from cohort.scans import CohortError, find_scans, read_cohort, write_cohort
from cohort.site_folds import site_lines

from .test_folds import scan
from .test_scans import release, table

SITES = ("south", "north", "river")


def hospitals(families: int = 10) -> list:
    """Twins of one label in every third family; both classes at each site."""
    return [
        replace(scan(f"{site}{family}{twin}", (family // 2) % 2, f"{site}{family}"), site=site)
        for site in SITES
        for family in range(families)
        for twin in ("AB" if family % 3 == 0 else "X")
    ]


def test_the_folds_are_those_of_scikit_learns_leave_one_group_out(tmp_path):
    scans = hospitals()
    splits = make_splits(scans, split="site", num_folds=5)
    assert (splits["rule"], splits["num_folds"], splits["sites"]) == ("site", 3, ["north", "river", "south"])
    parts = LeaveOneGroupOut().split(scans, groups=[s.site for s in scans])
    for fold, (train, held_out) in enumerate(parts):
        assert fold_scans(splits, scans, fold) == ([scans[i] for i in train], [scans[i] for i in held_out])
    write_splits(splits, tmp_path / "splits.json")
    check_splits(read_splits(tmp_path / "splits.json"), scans)
    assert make_splits(scans[::-1], split="site", seed=7) == splits | {"seed": 7}


def test_the_inner_split_keeps_families_together():
    train, _ = fold_scans(make_splits(hospitals(), split="site"), hospitals(), 0)
    rest, inner = inner_split(train, seed=1)
    assert inner and not {s.family for s in rest} & {s.family for s in inner}
    assert {s.site for s in rest} == {"river", "south"}


def test_a_site_of_one_class_is_left_out_with_a_note():
    scans = [replace(s, label=0) if s.site == "river" else s for s in hospitals()]
    lines = site_lines(make_splits(scans, split="site"))
    assert lines[0] == "fold 0 leaves out north (8 normal, 6 injury)"
    assert lines[1] == "fold 1 leaves out river (14 normal, 0 injury): one class only, so its AUC is undefined"
    assert site_lines(make_splits(scans, num_folds=2)) == []


def changed(**changes):
    """A function that changes the scans of family `north1`."""
    return lambda s: replace(s, **changes) if s.family == "north1" else s


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            changed(site=""),
            "needs the site of every scan, and 1 of 42 have none .sub-north1X ses-1.: fill in the column",
        ),
        (changed(site="NORTH"), "same site .* NORTH .of sub-north1X.* upper and lower case"),
        (lambda s: replace(s, site="north"), "All 42 scans are of the site north, so no scan is left to train on"),
        (
            changed(family="south0"),
            "at several sites: 1 .south0: sub-north1X at north; sub-south0A, sub-south0B at south",
        ),
        (lambda s: replace(s, label=int(s.site == "north")), "label injury are of the site north, so there is none to"),
        (lambda s: replace(s, label=0), "No scan is injury, so there is none to learn from"),
        (lambda s: replace(s, site=s.family + s.site, family=s.participant_id), None),
    ],
)
def test_cohorts_whose_sites_cannot_be_folds_are_refused(change, complaint):
    scans = [change(s) for s in hospitals()]
    if complaint is None:  # one family a site: works
        assert make_splits(scans, split="site")["num_folds"] == 30
        return
    with pytest.raises(CohortError, match=complaint):
        make_splits(scans, split="site")


def test_an_infant_with_sessions_at_two_sites_is_refused():
    scans = [*hospitals(), replace(scan("south1X", 0, "south1", "2"), site="north")]
    with pytest.raises(CohortError, match="sub-south1X at south; sub-south1X at north"):
        make_splits(scans, split="site")


def test_a_scan_whose_site_has_changed_stops_a_run_that_continues():
    splits = make_splits(hospitals(), split="site")
    moved = [replace(s, site="river") if s.family == "north1" else s for s in hospitals()]
    with pytest.raises(CohortError, match="Sites have changed .* .sub-north1X ses-1 was of north, now of river"):
        check_splits(splits, moved)


@pytest.mark.parametrize("sites", [None, [], ["north", "north", "south"], 3])
def test_damaged_sites_are_refused(tmp_path, sites):
    splits = make_splits(hospitals(), split="site") | {"sites": sites}
    write_splits(splits, tmp_path / "splits.json")
    with pytest.raises(CohortError, match="does not hold usable splits"):
        read_splits(tmp_path / "splits.json")


def test_the_site_is_read_from_the_tables_and_kept_in_cohort_csv(tmp_path):
    release(tmp_path)
    rows = ("CC00754AN12 1000 north 0", "CC00754BN12 2000 n/a 0", "CC00754BN12 2001 001 1", "CC00060XX03 _ 7 0")
    labels = table(tmp_path / "l.tsv", "participant_id session_id Site label", *rows)
    scans = find_scans(tmp_path, labels)
    assert [s.site for s in scans] == ["7", "north", "", "001"]
    write_cohort(scans, tmp_path / "cohort.csv")
    assert read_cohort(tmp_path / "cohort.csv") == scans
    older = pd.read_csv(tmp_path / "cohort.csv", dtype=str, keep_default_na=False).drop(columns="site")
    older.to_csv(tmp_path / "cohort.csv", index=False)
    assert {s.site for s in read_cohort(tmp_path / "cohort.csv")} == {""}


def test_two_sites_for_one_scan_are_refused_if_the_site_matters(tmp_path):
    release(tmp_path)
    table(tmp_path / "combined.tsv", "participant_id session_id site", "CC00754AN12 1000 south")
    labels = table(
        tmp_path / "l.tsv",
        "participant_id session_id site label",
        "CC00754AN12 1000 north 1",
        "CC00754BN12 2000 north 0",
    )
    assert find_scans(tmp_path, labels)[1].site == "north"
    with pytest.raises(
        CohortError, match="sub-CC00754AN12 ses-1000 has several values of site .north, south.: give it one"
    ):
        find_scans(tmp_path, labels, one_site=True)
