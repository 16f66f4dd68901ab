"""Splits: families stay together, folds are balanced and reproducible, and a changed cohort is refused."""

import json
import random
from collections import Counter
from dataclasses import replace

import pytest

from cohort.folds import check_splits, fold_scans, inner_split, make_splits, read_splits, write_splits
from cohort.scans import CohortError, Scan


def scan(participant: str, label: int | None, family: str = "", session: str = "1", folder: str = "/data") -> Scan:
    image = f"{folder}/sub-{participant}/ses-{session}.nii.gz"
    return Scan(
        *(participant, session, family or participant, image, None, None, label, "", "", None, None, "", None),
        status="used",
        reason="",
    )


def paper_cohort(seed: int) -> list[Scan]:
    """128 infants of 108 families, 20 of them twin pairs of which 70 % share the label; 74 normal, 54 injured."""
    draw = random.Random(seed)
    numbers = draw.sample(range(100, 99999), 108)
    twins = [(label, label if draw.random() < 0.7 else 1 - label) for label in draw.choices((0, 1), k=20)]
    rest = [1] * (54 - sum(map(sum, twins)))
    rest += [0] * (88 - len(rest))
    draw.shuffle(rest)
    scans = []
    for number, labels in zip(numbers, [*twins, *((label,) for label in rest)], strict=True):
        for place, label in zip("AB" if len(labels) == 2 else "X", labels, strict=True):
            scans.append(scan(f"CC{number:05d}{place}N01", label, f"CC{number:05d}"))
    assert Counter(s.label for s in scans) == {0: 74, 1: 54}
    return scans


def mixed_cohort(seed: int) -> list[Scan]:
    """Families of one to three infants with one or two sessions, each session with its own label."""
    draw = random.Random(seed)
    return [
        scan(f"{family:03d}{infant}", int(draw.random() < 0.4), f"F{family}", str(session))
        for family in range(draw.randint(40, 70))
        for infant in range(draw.choice((1, 1, 1, 2, 3)))
        for session in range(draw.choice((1, 1, 2)))
    ]


@pytest.mark.parametrize("seed", range(25))
def test_folds_of_the_papers_cohort_are_balanced_and_keep_families_together(seed):
    scans = paper_cohort(seed)
    splits = make_splits(scans, seed=seed)
    assert (splits["sibling_pairs"], splits["torn_sibling_pairs"]) == (20, 0)
    held_out = []
    for fold in range(5):
        train, validation = fold_scans(splits, scans, fold)
        assert not {s.family for s in train} & {s.family for s in validation}
        assert len(train) + len(validation) == 128
        assert 24 <= len(validation) <= 28
        assert sum(s.label for s in validation) in (10, 11)
        held_out += validation
    assert Counter(held_out) == Counter(scans)  # each scan is held out exactly once


@pytest.mark.parametrize("seed", range(40))
def test_no_family_is_split_across_folds_or_the_inner_split(seed):
    scans = mixed_cohort(seed)
    splits = make_splits(scans, seed=seed)
    for fold in range(5):
        train, validation = fold_scans(splits, scans, fold)
        inner_train, inner = inner_split(train, seed=seed)
        families = [{s.family for s in part} for part in (inner_train, inner, validation)]
        assert sum(map(len, families)) == len(set.union(*families))
        assert len(inner_train) + len(inner) == len(train)
        assert abs(len(inner) / len(train) - 0.2) < 0.06
        assert all({s.label for s in part} == {0, 1} for part in (inner_train, inner, validation))


@pytest.mark.parametrize("split", ["family", "paper"])
def test_splits_do_not_depend_on_order_or_folder(split):
    scans = paper_cohort(0)
    elsewhere = [replace(s, image="/elsewhere" + s.image) for s in scans]
    random.Random(1).shuffle(elsewhere)
    splits = make_splits(scans, seed=3, split=split)
    assert make_splits(elsewhere, seed=3, split=split) == splits
    assert make_splits(scans, seed=4, split=split)["participants"] != splits["participants"]
    train, _ = fold_scans(splits, scans, 0)
    names = [{s.participant_id for s in part} for part in inner_split(train, seed=3)]
    assert [{s.participant_id for s in part} for part in inner_split(train[::-1], seed=3)] == names


def test_excluded_scans_are_ignored():
    scans = paper_cohort(0)
    excluded = replace(scan("CC00001XX01", None), status="poor quality")
    splits = make_splits([*scans, excluded])
    assert splits == make_splits(scans)
    check_splits(splits, [*scans, excluded])
    assert all(excluded not in part for part in fold_scans(splits, [*scans, excluded], 0))


def test_papers_rule_counts_sibling_pairs_split_across_folds():
    scans = paper_cohort(2)
    splits = make_splits(scans, split="paper")
    fold_of = {participant: entry["fold"] for participant, entry in splits["participants"].items()}
    pairs = [(f"{s.family}AN01", f"{s.family}BN01") for s in scans if s.participant_id[7] == "A"]
    divided = sum(fold_of[first] != fold_of[second] for first, second in pairs)
    assert (splits["rule"], splits["sibling_pairs"], splits["torn_sibling_pairs"]) == ("paper", 20, divided)
    assert divided > 10  # four of five on average
    check_splits(splits, scans)
    assert sorted(sum(fold.values()) for fold in splits["folds"]) == [25, 25, 26, 26, 26]


def test_papers_rule_keeps_the_sessions_of_an_infant_together():
    scans = [scan(f"{i:02d}", i % 2, session=session) for i in range(20) for session in "ab"]
    splits = make_splits(scans, split="paper")
    for fold in range(5):
        train, validation = fold_scans(splits, scans, fold)
        assert not {s.participant_id for s in train} & {s.participant_id for s in validation}


def test_triplets_count_as_three_pairs():
    scans = [scan(f"{i:02d}", i % 2, "F" if i < 3 else "") for i in range(20)]
    assert make_splits(scans)["sibling_pairs"] == 3


def test_file_is_reproducible_and_complete(tmp_path):
    scans = paper_cohort(5)
    hashes = {s.image: f"hash of {s.participant_id}" for s in scans}
    splits = make_splits(scans, seed=7, file_hashes=hashes)
    write_splits(splits, tmp_path / "splits.json")
    text = (tmp_path / "splits.json").read_text()
    write_splits(make_splits(scans[::-1], seed=7, file_hashes=hashes), tmp_path / "splits.json")
    assert (tmp_path / "splits.json").read_text() == text
    assert list(tmp_path.iterdir()) == [tmp_path / "splits.json"]
    again = read_splits(tmp_path / "splits.json")
    assert again == splits
    check_splits(again, scans, hashes)
    assert (again["version"], again["seed"], again["rule"], again["num_folds"]) == (1, 7, "family", 5)
    first = scans[0]
    entry = again["participants"][first.participant_id]
    assert entry["family"] == first.family and entry["fold"] in range(5)
    assert entry["sessions"] == {"1": {"label": first.label, "sha256": hashes[first.image]}}
    assert "/data" not in text


def test_a_family_in_two_folds_is_refused():
    scans = paper_cohort(0)
    twin = next(s for s in scans if s.participant_id[7] == "A")
    splits = make_splits(scans)
    tampered = json.loads(json.dumps(splits))
    tampered["participants"][twin.participant_id]["fold"] += 1
    tampered["participants"][twin.participant_id]["fold"] %= 5
    with pytest.raises(
        CohortError, match=f"split across folds.*{twin.family}: sub-{twin.family}AN01, sub-{twin.family}BN01"
    ):
        check_splits(tampered, scans)
    # after the split, two infants turn out to be siblings
    first, second = (fold_scans(splits, scans, fold)[1][0] for fold in (0, 1))
    related = [replace(s, family=first.family) if s.family == second.family else s for s in scans]
    with pytest.raises(CohortError, match=f"split across folds.*{first.family}"):
        check_splits(splits, related)


def test_a_changed_cohort_is_refused():
    scans = paper_cohort(0)
    hashes = {s.image: s.participant_id for s in scans}
    splits = make_splits(scans, file_hashes=hashes)
    with pytest.raises(CohortError, match="not in the splits: sub-new ses-1"):
        check_splits(splits, [*scans, scan("new", 1)])
    with pytest.raises(CohortError, match=f"missing: sub-{scans[0].participant_id} ses-1"):
        check_splits(splits, scans[1:])
    with pytest.raises(CohortError, match=f"Labels have changed.*{scans[0].participant_id}"):
        check_splits(splits, [replace(scans[0], label=1 - scans[0].label), *scans[1:]])
    with pytest.raises(CohortError, match=f"Image files have changed.*{scans[0].participant_id}"):
        check_splits(splits, scans, hashes | {scans[0].image: "edited"})
    with pytest.raises(CohortError, match="have the same image file"):
        check_splits(splits, scans, hashes | {scans[1].image: hashes[scans[0].image]})
    with pytest.raises(CohortError, match="No file hash was given"):
        check_splits(splits, scans, {})
    check_splits(splits, scans)  # without hashes, files are not checked


def test_scans_outside_the_splits_are_refused():
    scans = paper_cohort(0)
    splits = make_splits(scans)
    with pytest.raises(CohortError, match="sub-new ses-1 is not in the splits"):
        fold_scans(splits, [*scans, scan("new", 1)], 0)
    with pytest.raises(CohortError, match="ses-2 is not in the splits"):
        fold_scans(splits, [*scans, replace(scans[0], session_id="2")], 0)
    for fold in (-1, 5):
        with pytest.raises(CohortError, match=f"no fold {fold}: the splits have folds 0 to 4"):
            fold_scans(splits, scans, fold)


@pytest.mark.parametrize(
    "scans, options, complaint",
    [
        ([scan(f"{i}", i % 2) for i in range(20)], {"num_folds": 1}, "choose at least 2"),
        ([scan(f"{i}", i % 2) for i in range(20)], {"split": "random"}, "choose family, paper or site"),
        ([scan(f"{i}", i % 2) for i in range(20)], {"seed": -1}, "seed is -1"),
        ([scan(f"{i}", i % 2) for i in range(4)], {}, "4 families, fewer than the 5 folds"),
        ([scan(f"{i}", i % 2, f"F{i % 4}") for i in range(20)], {}, "4 families, fewer than the 5 folds"),
        ([scan(f"{i}", int(i < 4)) for i in range(20)], {}, "4 families with the label injury"),
        ([scan(f"{i}", int(i < 4)) for i in range(20)], {"split": "paper"}, "4 infants with the label injury"),
        ([scan(f"{i}", 1) for i in range(20)], {}, "0 families with the label normal"),
        ([scan("1", 1), scan("1", 1)], {"num_folds": 2}, "more than once .sub-1 ses-1"),
        ([scan("1", None), scan("2", 1)], {"num_folds": 2}, "sub-1 ses-1 has no label"),
        ([scan("1", 1, "A"), scan("1", 0, "B", "2")], {"num_folds": 2}, "sub-1 is in two families, A and B"),
        ([replace(scan("1", 1), status="unreadable")], {}, "no scan to split"),
    ],
)
def test_cohorts_that_cannot_be_split_are_refused(scans, options, complaint):
    with pytest.raises(CohortError, match=complaint):
        make_splits(scans, **options)


def test_one_file_under_two_names_is_refused():
    scans = [scan(f"{i:02d}", i % 2) for i in range(20)]
    hashes = {s.image: s.participant_id for s in scans} | {scans[7].image: "03"}
    with pytest.raises(CohortError, match="sub-03 ses-1 and sub-07 ses-1 have the same image file"):
        make_splits(scans, file_hashes=hashes)


def test_a_fold_without_a_class_is_refused():
    scans = [scan(f"{i:02d}", i % 2) for i in range(20)]
    splits = make_splits(scans)
    for s in fold_scans(splits, scans, 2)[1]:
        if s.label == 1:
            splits["participants"][s.participant_id]["fold"] = 3
    with pytest.raises(CohortError, match="held-out part of fold 2 has no scan of the class injury"):
        check_splits(splits, scans)


def test_small_training_sets_are_split_if_possible_or_refused():
    train, inner = inner_split([scan(f"{i}", int(i < 2)) for i in range(10)], seed=0)
    assert {s.label for s in train} == {s.label for s in inner} == {0, 1}
    with pytest.raises(CohortError, match="cannot be split"):
        inner_split([scan(f"{i}", int(i < 1)) for i in range(10)], seed=0)
    with pytest.raises(CohortError, match="cannot be split"):
        inner_split([scan(f"{i}", i % 2, "one family") for i in range(10)], seed=0)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"version": 2}', '{"version": 1, "rule": "family", "num_folds": 5, "participants": []}'],
)
def test_broken_files_are_refused(tmp_path, text):
    path = tmp_path / "splits.json"
    with pytest.raises(CohortError, match="does not hold usable splits"):
        read_splits(path)
    path.write_text(text)
    with pytest.raises(CohortError, match="does not hold usable splits.*--overwrite"):
        read_splits(path)


def test_a_fold_out_of_range_in_the_file_is_refused(tmp_path):
    splits = make_splits([scan(f"{i:02d}", i % 2) for i in range(20)])
    splits["participants"]["03"]["fold"] = 5
    write_splits(splits, tmp_path / "splits.json")
    with pytest.raises(CohortError, match="fold 5 of sub-03"):
        read_splits(tmp_path / "splits.json")
