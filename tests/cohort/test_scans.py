"""Finding scans and labels in BIDS trees, and which trees are refused. No test opens an image."""

from dataclasses import replace
from pathlib import Path

import pytest

from cohort.folds import family_counts, make_splits
from cohort.scans import CohortError, Scan, exclude, find_scans, flow, read_cohort, write_cohort

REL3 = (
    *("T2w", "desc-restore_T2w", "desc-biasfield_T2w", "desc-brain_mask", "desc-drawem9_dseg", "desc-drawem87_dseg"),
    *("desc-ribbon_dseg", "T1w"),
)
REL2 = (
    *("T2w", "desc-restore_T2w", "desc-biasfield_T2w", "desc-bet_space-T2w_brainmask"),
    *(
        "desc-drawem_space-T2w_brainmask",
        "desc-drawem9_space-T2w_dseg",
        "desc-drawem87_space-T2w_dseg",
        "space-T2w_T1w",
    ),
)


def add(root: Path, participant: str, session: str = "", names=("desc-restore_T2w",), extension=".nii.gz") -> Path:
    """Empty files of one session, as in a release."""
    stem = f"sub-{participant}" + (f"_ses-{session}" if session else "")
    anat = root.joinpath(*stem.split("_"), "anat")
    anat.mkdir(parents=True, exist_ok=True)
    for name in names:
        (anat / f"{stem}_{name}{extension}").touch()
    return anat


def table(path: Path, *rows: str, separator: str = "\t") -> Path:
    """Write a table; the rows are given with spaces between the cells and `_` for an empty cell."""
    lines = [separator.join("" if cell == "_" else cell for cell in row.split()) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def release(root: Path, names=REL3) -> Path:
    """A tree like dHCP's with three infants: twins, one of them scanned twice, and a singleton of poor quality."""
    for participant, session in (
        *(("CC00754AN12", "1000"), ("CC00754BN12", "2000"), ("CC00754BN12", "2001")),
        ("CC00060XX03", "12501"),
    ):
        add(root, participant, session, names)
    sex = "sex" if names is REL3 else "gender"
    table(
        root / "participants.tsv",
        f"participant_id {sex} birth_age birth_weight singleton",
        "CC00754AN12 Female 31.29 1.62 M",
        "CC00754BN12 M 31.29 1.48 Multiple",
        "CC00060XX03 F 39.0 n/a S",
    )
    columns = "session_id scan_age scan_head_circumference scan_number radiology_score sedation"
    table(root / "sub-CC00754AN12/sub-CC00754AN12_sessions.tsv", columns, "1000 35.14 30 1 2 0")
    table(root / "sub-CC00754BN12/sub-CC00754BN12_sessions.tsv", columns, "2000 33.0 30 1 1 0", "2001 41.0 30 2 4 0")
    table(root / "sub-CC00060XX03/sub-CC00060XX03_sessions.tsv", columns, "12501 40.5 34 1 Q 0")
    return root


def by_name(scans: list[Scan]) -> dict[str, Scan]:
    return {f"{scan.participant_id} {scan.session_id}".strip(): scan for scan in scans}


@pytest.mark.parametrize(
    "names, mask, segmentation",
    [
        (REL3, "desc-brain_mask", "desc-drawem9_dseg"),
        (REL2, "desc-bet_space-T2w_brainmask", "desc-drawem9_space-T2w_dseg"),
    ],
)
def test_a_release_is_read_with_its_tables(tmp_path, names, mask, segmentation):
    scans = by_name(find_scans(release(tmp_path, names)))
    assert list(scans) == ["CC00060XX03 12501", "CC00754AN12 1000", "CC00754BN12 2000", "CC00754BN12 2001"]
    stem = tmp_path / "sub-CC00754BN12/ses-2001/anat/sub-CC00754BN12_ses-2001"
    assert scans["CC00754BN12 2001"] == Scan(
        participant_id="CC00754BN12",
        session_id="2001",
        family="CC00754",
        image=f"{stem}_desc-restore_T2w.nii.gz",
        mask=f"{stem}_{mask}.nii.gz",
        segmentation=f"{stem}_{segmentation}.nii.gz",
        label=1,
        radiology_score="4",
        sex="M",
        birth_age=31.29,
        birth_weight=1.48,
        singleton="M",
        scan_age=41.0,
        status="used",
        reason="",
    )
    # the score belongs to the session, and twins share a family
    assert (scans["CC00754BN12 2000"].label, scans["CC00754BN12 2000"].radiology_score) == (0, "1")
    assert scans["CC00754AN12 1000"].family == "CC00754"
    assert (scans["CC00754AN12 1000"].sex, scans["CC00060XX03 12501"].birth_weight) == ("F", None)
    assert scans["CC00060XX03 12501"].status == "poor quality"
    assert flow(scans.values()) == {
        "found": 4,
        "labelled": 3,
        "poor quality": 1,
        "used": 3,
        "used normal": 2,
        "used injury": 1,
    }


def test_combined_table_is_enough(tmp_path):
    release(tmp_path)
    for path in tmp_path.rglob("*.tsv"):
        path.unlink()
    table(
        tmp_path / "combined.tsv",
        "participant_id session_id sex birth_age birth_weight singleton scan_age radiology_score",
        "CC00754AN12 1000 Female 31.29 1.62 M 35.14 2",
        "CC00754BN12 2000 Male 31.29 1.48 M 33.0 1",
        "CC00754BN12 2001 Male 31.29 1.48 M 41.0 4",
        "CC00060XX03 12501 Female 39.0 n/a S 40.5 Q",
    )
    with_combined = find_scans(tmp_path)
    for path in tmp_path.rglob("*.tsv"):
        path.unlink()
    assert with_combined == find_scans(release(tmp_path))


def test_tables_of_one_tree_must_not_contradict_each_other(tmp_path):
    release(tmp_path)
    table(tmp_path / "combined.tsv", "participant_id session_id radiology_score", "CC00754AN12 1000 5")
    with pytest.raises(CohortError, match="contradict each other on sub-CC00754AN12"):
        find_scans(tmp_path)


def test_authors_flat_table_labels_the_nearest_session(tmp_path):
    release(tmp_path)
    labels = table(
        tmp_path / "labels.csv",
        "participant_id gender birth_age birth_weight singleton radiology_score scan_age score_group",
        "CC00754AN12 Female 31.29 1.62 Multiple 2 35.14 le2",
        "CC00754BN12 Male 31.29 1.48 Multiple 4 40.9 ge3",
        separator=",",
    )
    scans = by_name(find_scans(tmp_path, labels))
    assert {key: (scan.status, scan.label) for key, scan in scans.items()} == {
        "CC00060XX03 12501": ("unlabelled", None),
        "CC00754AN12 1000": ("used", 0),
        "CC00754BN12 2000": ("unlabelled", None),
        "CC00754BN12 2001": ("used", 1),
    }
    assert "belongs to ses-2001" in scans["CC00754BN12 2000"].reason
    assert scans["CC00754BN12 2001"].scan_age == 41.0  # the session's own, not the row's


@pytest.mark.parametrize(
    "row, complaint",
    [("37.0 4", "as near to ses-2000 as to ses-2001"), ("_ 4", "neither session_id nor scan_age")],
)
def test_row_without_session_that_fits_two_sessions_is_refused(tmp_path, row, complaint):
    labels = table(tmp_path / "l.csv", "participant_id scan_age radiology_score", f"CC00754BN12 {row}", separator=",")
    with pytest.raises(CohortError, match=f"sub-CC00754BN12 has 2 sessions.*{complaint}"):
        find_scans(release(tmp_path), labels)


def test_row_without_session_is_refused_if_the_age_of_a_session_is_unknown(tmp_path):
    release(tmp_path)
    (tmp_path / "sub-CC00754BN12/sub-CC00754BN12_sessions.tsv").unlink()
    labels = table(tmp_path / "l.tsv", "participant_id scan_age label", "CC00754BN12 41 1")
    with pytest.raises(CohortError, match="no table gives the scan_age of ses-2000"):
        find_scans(tmp_path, labels)


def test_row_without_session_never_labels_the_wrong_session(tmp_path):
    """The session it labels is in the tables but not on disk: the other session must stay unlabelled."""
    release(tmp_path)
    (tmp_path / "sub-CC00754BN12/ses-2001/anat").rename(tmp_path / "elsewhere")
    rows = "participant_id scan_age label", "CC00754BN12 41 1", "CC00754AN12 35 0"
    scans = by_name(find_scans(tmp_path, table(tmp_path / "l.tsv", *rows)))
    assert scans["CC00754BN12 2001"].status == "no image"
    assert scans["CC00754BN12 2000"].status == "unlabelled"


def test_given_labels_take_precedence_and_keep_the_trees_score_only_if_it_agrees(tmp_path):
    rows = "participant_id session_id label", "CC00754AN12 1000 1", "CC00754BN12 2001 1", "CC00060XX03 12501 1"
    scans = by_name(find_scans(release(tmp_path), table(tmp_path / "l.tsv", *rows)))
    assert (scans["CC00754AN12 1000"].label, scans["CC00754AN12 1000"].radiology_score) == (1, "")
    assert (scans["CC00754BN12 2001"].label, scans["CC00754BN12 2001"].radiology_score) == (1, "4")
    assert scans["CC00060XX03 12501"].status == "poor quality"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize(
    "separator, ending", [("\t", ".csv"), (",", ".tsv"), ("\t", ".tsv"), (",", ".txt"), (";", ".csv"), (";", ".tsv")]
)
def test_generic_tree_without_sessions(tmp_path, separator, ending, encoding):
    """Ids keep leading zeros, with or without prefix. The separator comes from the text, not from the file name."""
    for participant in ("01", "002", "3"):
        add(tmp_path, participant, names=("T2w",), extension=".nii")
    text = "participant_id,Label,family_id\n sub-01 ,1,7\n002, 0.0 ,7\n,,\n".replace(",", separator)
    labels = tmp_path / f"labels{ending}"
    labels.write_text(text, encoding=encoding)
    scans = by_name(find_scans(tmp_path, labels))
    assert {key: (scan.label, scan.status, scan.family) for key, scan in scans.items()} == {
        "002": (0, "used", "7"),
        "01": (1, "used", "7"),
        "3": (None, "unlabelled", "3"),
    }
    assert scans["01"].image == str(tmp_path / "sub-01/anat/sub-01_T2w.nii")


def test_labels_of_the_infant_in_participants_tsv(tmp_path):
    """A score of the session takes precedence; otherwise the infant's score labels its only session."""
    for participant, session in (("01", "a"), ("02", "a"), ("02", "b")):
        add(tmp_path, participant, session)
    table(tmp_path / "participants.tsv", "participant_id radiology_score", "sub-01 5", "sub-02 5")
    table(tmp_path / "sub-02/sub-02_sessions.tsv", "session_id radiology_score", "ses-a 1", "ses-b n/a")
    scans = by_name(find_scans(tmp_path))
    assert [(scan.label, scan.status) for scan in scans.values()] == [(1, "used"), (0, "used"), (None, "unlabelled")]


@pytest.mark.parametrize(
    "text, label, score, status",
    [
        *(("1", 0, "1", "used"), ("2.0", 0, "2", "used"), ("3", 1, "3", "used"), ("5.0", 1, "5", "used")),
        *(("Q", None, "Q", "poor quality"), ("q", None, "Q", "poor quality")),
        *(("_", None, "", "unlabelled"), ("n/a", None, "", "unlabelled"), ("NaN", None, "", "unlabelled")),
    ],
)
def test_radiology_score_is_read_as_text(tmp_path, text, label, score, status):
    add(tmp_path, "01")
    add(tmp_path, "02")
    scan, _ = find_scans(tmp_path, table(tmp_path / "l.tsv", "participant_id radiology_score", f"01 {text}", "02 1"))
    assert (scan.label, scan.radiology_score, scan.status) == (label, score, status)


@pytest.mark.parametrize(
    "rows, complaint",
    [
        (("participant_id radiology_score", "01 6"), "radiology_score of sub-01 is '6'"),
        (("participant_id radiology_score", "01 3a"), "radiology_score of sub-01 is '3a'"),
        (("participant_id label", "01 yes"), "label of sub-01 is 'yes'"),
        (("participant_id score_group", "01 gt3"), "score_group of sub-01 is 'gt3'"),
        (("participant_id label radiology_score", "01 0 3"), "sub-01 has label 0 but radiology_score 3"),
        (
            ("participant_id score_group radiology_score", "01 ge3 2"),
            "sub-01 has score_group ge3 but radiology_score 2",
        ),
        (("participant_id label birth_age", "01 1 <37"), "birth_age of sub-01 is '<37', not a number"),
        (("participant_id sex", "01 F"), "no column label.*its columns are participant_id, sex"),
        (("subject label", "01 1"), "no column participant_id; its columns are subject, label"),
        (("participant_id label Label", "01 1 1"), "more than one column label"),
        (("participant_id label", "01 1", "sub-01 1"), "row 3 is the second row for sub-01"),
        (("participant_id scan_age label", "01 30 1", "01 31 1"), "both label sub-01"),
        (("participant_id session_id label", "01 a 1", "01 ses-a 1"), "second row for sub-01 ses-a"),
        (("participant_id label", "_ 1"), "row 2 has no participant_id"),
        (("participant_id label", "01 1 2"), "is not a table"),
        (("participant_id label family_id session_id", "01 1 7 a", "01 _ 8 b"), "several values of family_id"),
        (("participant_id label",), "header and no rows"),
        (
            ("participant_id label", "1 1"),
            r"sub-01 \(the folder\) and sub-1 \(.*labels.tsv, row 2\) differ only in leading zeros",
        ),
        (("participant_id label", "A1 1"), "label table lists sub-A1, the folder has sub-01"),
        (("participant_id label", "01 _"), "None of the 1 scans .*1 unlabelled"),
    ],
)
def test_ambiguous_label_tables_are_refused(tmp_path, rows, complaint):
    add(tmp_path, "01")
    with pytest.raises(CohortError, match=complaint):
        find_scans(tmp_path, table(tmp_path / "labels.tsv", *rows))


def test_files_that_are_not_tables_are_refused(tmp_path):
    add(tmp_path, "01")
    labels = tmp_path / "labels.xlsx"
    with pytest.raises(CohortError, match="There is no table"):
        find_scans(tmp_path, labels)
    for content in (b"", b"PK\x03\x04\xff\xfe\x00"):
        labels.write_bytes(content)
        with pytest.raises(CohortError, match="not a table.*save it as UTF-8 text"):
            find_scans(tmp_path, labels)


def test_an_unpaired_quote_in_a_remark_loses_nothing(tmp_path):
    add(tmp_path, "01")
    add(tmp_path, "02")
    labels = tmp_path / "l.tsv"
    labels.write_text('participant_id\tremark\tlabel\n01\t5" wide\t1\n"02"\tplain\t"0"\n')
    assert [scan.label for scan in find_scans(tmp_path, labels)] == [1, 0]


def test_rows_without_image_are_kept_and_counted(tmp_path):
    add(tmp_path, "01")
    add(tmp_path, "02", names=("T1w",))
    scans = find_scans(tmp_path, table(tmp_path / "l.tsv", "participant_id label", "01 1", "02 0", "03 0"))
    assert [(scan.participant_id, scan.status, scan.image is None) for scan in scans] == [
        *(("01", "used", False), ("02", "no image", True), ("03", "no image", True))
    ]
    counts = flow(scans)
    assert counts["found"] == 3 == counts["used"] + counts["no image"]


def test_only_infants_born_before_the_limit(tmp_path):
    for participant in ("01", "02", "03"):
        add(tmp_path, participant)
    rows = "participant_id birth_age label", "01 36.99 1", "02 37.0 1", "03 n/a 0"
    labels = table(tmp_path / "l.tsv", *rows)
    assert flow(find_scans(tmp_path, labels))["used"] == 3
    scans = find_scans(tmp_path, labels, max_birth_age=37)
    assert [scan.status for scan in scans] == ["used", "birth age", "birth age"]
    assert "Born at 37 weeks" in scans[1].reason and "unknown" in scans[2].reason
    with pytest.raises(CohortError, match="None of the 3 scans .*3 birth age"):
        find_scans(tmp_path, labels, max_birth_age=30)


def test_a_required_mask_must_exist(tmp_path):
    release(tmp_path)
    assert all(scan.mask for scan in find_scans(tmp_path, brain_mask="required"))
    mask = tmp_path / "sub-CC00754BN12/ses-2000/anat/sub-CC00754BN12_ses-2000_desc-brain_mask.nii.gz"
    mask.unlink()
    with pytest.raises(CohortError, match="1 of the scans have none.*sub-CC00754BN12_ses-2000_.*desc-brain_mask"):
        find_scans(tmp_path, brain_mask="required")
    # an excluded scan needs no mask
    mask.touch()
    (tmp_path / "sub-CC00060XX03/ses-12501/anat/sub-CC00060XX03_ses-12501_desc-brain_mask.nii.gz").unlink()
    find_scans(tmp_path, brain_mask="required")
    with pytest.raises(CohortError, match="choose none or required"):
        find_scans(tmp_path, brain_mask="yes")


def test_misplaced_and_linked_images_are_refused(tmp_path):
    anat = add(tmp_path, "01")
    labels = table(tmp_path / "l.tsv", "participant_id label", "01 1")
    link = add(tmp_path, "02", names=()) / "sub-02_T2w.nii.gz"
    link.symlink_to(anat / "sub-01_desc-restore_T2w.nii.gz")
    with pytest.raises(CohortError, match="links to the same file"):
        find_scans(tmp_path, labels)
    link.rename(link.with_name("sub-03_T2w.nii.gz"))
    with pytest.raises(CohortError, match="named after another subject"):
        find_scans(tmp_path, labels)


def test_folders_without_scans_are_refused(tmp_path):
    with pytest.raises(CohortError, match="does not exist"):
        find_scans(tmp_path / "nowhere")
    with pytest.raises(CohortError, match="is empty"):
        find_scans(tmp_path)
    (tmp_path / "a-file").touch()
    with pytest.raises(CohortError, match="is a file"):
        find_scans(tmp_path / "a-file")
    with pytest.raises(CohortError, match="has no sub-"):
        find_scans(tmp_path)
    add(tmp_path / "derivatives" / "anat_pipeline", "01", names=("T1w",))
    with pytest.raises(CohortError, match="derivatives/anat_pipeline, give that folder"):
        find_scans(tmp_path)
    with pytest.raises(CohortError, match="No T2-weighted image.*desc-restore_T2w"):
        find_scans(tmp_path / "derivatives" / "anat_pipeline")
    add(tmp_path / "derivatives" / "anat_pipeline", "01")
    with pytest.raises(CohortError, match="No labels in .*--labels"):
        find_scans(tmp_path / "derivatives" / "anat_pipeline")


@pytest.mark.parametrize(
    "participant, family",
    [
        *(("CC00754AN12", "CC00754"), ("CC00754XX12", "CC00754")),
        *(("CC0754AN12", "F1"), ("CC00754AN123", "F1"), ("cc00754an12", "F1")),
    ],
)
def test_family_comes_from_the_id_only_for_dhcp_ids(tmp_path, participant, family):
    add(tmp_path, participant)
    labels = table(tmp_path / "l.tsv", "participant_id family_id label", f"{participant} F1 1")
    assert find_scans(tmp_path, labels)[0].family == family


@pytest.mark.parametrize("cell, sex", [("Male", "M"), ("f", "F"), ("1", ""), ("U", ""), ("n/a", "")])
def test_sex_is_normalised_or_unknown(tmp_path, cell, sex):
    add(tmp_path, "01")
    labels = table(tmp_path / "l.tsv", "participant_id sex label", f"01 {cell} 1")
    assert find_scans(tmp_path, labels)[0].sex == sex


@pytest.mark.parametrize(
    "folder, row, complaint",
    [
        (("7", "01"), "7 1 1", r"sub-7 ses-01 \(the folder\) and sub-7 ses-1 \(.*row 2\) differ only in leading zeros"),
        (("7", "15102"), "7 15102.0 1", "sub-7 ses-15102 .* and sub-7 ses-15102.0 .* differ only in a trailing .0"),
        (("7", "M1"), "7 m1 1", "sub-7 ses-M1 .* and sub-7 ses-m1 .* differ only in upper and lower case"),
        (("07", "1"), "7.0 1 1", "sub-07 .* and sub-7.0 .* differ only in a trailing .0 and leading zeros"),
        (("F01", "1"), "f1 1 1", "sub-F01 .* and sub-f1 .* differ only in leading zeros and upper and lower case"),
    ],
)
@pytest.mark.parametrize("others", [0, 1])
def test_ids_written_in_two_ways_are_named(tmp_path, folder, row, complaint, others):
    """A spreadsheet drops leading zeros, pandas adds `.0`: without a word, the scan would count as unlabelled."""
    add(tmp_path, *folder)
    rows = ["participant_id session_id label", row]
    if others:
        add(tmp_path, "B", "1")
        rows.append("B 1 0")
    with pytest.raises(CohortError, match=complaint):
        find_scans(tmp_path, table(tmp_path / "l.tsv", *rows))


def test_an_id_written_in_two_ways_in_a_table_of_covariates_is_named_too(tmp_path):
    """Its family_id would be lost, and twins could be split across folds."""
    add(tmp_path, "01")
    add(tmp_path, "02")
    labels = table(tmp_path / "l.tsv", "participant_id label", "01 1", "02 0")
    table(tmp_path / "participants.tsv", "participant_id family_id", "1 F1", "2 F1")
    with pytest.raises(CohortError, match="sub-01 .*sub-1 .*participants.tsv, row 2.*sub-02 .*sub-2 .*leading zeros"):
        find_scans(tmp_path, labels)


def test_a_folder_with_two_ids_that_differ_in_zeros_only_is_refused(tmp_path):
    add(tmp_path, "01")
    add(tmp_path, "1")
    with pytest.raises(CohortError, match="sub-01 .* and sub-1 .* if these are different infants, rename one"):
        find_scans(tmp_path, table(tmp_path / "l.tsv", "participant_id label", "01 1", "1 0"))


def test_prefixes_in_upper_case_are_understood(tmp_path):
    add(tmp_path, "01", "a")
    labels = table(tmp_path / "l.tsv", "participant_id session_id label", "Sub-01 SES-a 1")
    assert find_scans(tmp_path, labels)[0].label == 1


@pytest.mark.parametrize(
    "families, complaint",
    [
        (("12", "12.0"), "12 .of sub-A. and 12.0 .of sub-B. differ only in a trailing .0"),
        (("F1", "f1"), "F1 .of sub-A. and f1 .of sub-B. differ only in upper and lower case"),
        (("007", "7"), "007 .of sub-A. and 7 .of sub-B. differ only in leading zeros"),
        (("_", "a"), "A .of sub-A. and a .of sub-B."),  # the first child's id names the family
    ],
)
def test_a_family_written_in_two_ways_is_refused(tmp_path, families, complaint):
    """Two families of one name would put siblings on both sides of a split."""
    add(tmp_path, "A")
    add(tmp_path, "B")
    rows = [f"{infant} {family} {label}" for infant, family, label in zip("AB", families, (0, 1), strict=True)]
    with pytest.raises(CohortError, match=complaint):
        find_scans(tmp_path, table(tmp_path / "l.tsv", "participant_id family_id label", *rows))


@pytest.mark.parametrize("column", ["family", "Family", "family_id", "FamilyID"])
def test_the_column_of_families_has_several_names(tmp_path, column):
    for infant in "ABC":
        add(tmp_path, infant)
    rows = f"participant_id {column} label", "A F1 1", "B F1 0", "C _ 0"
    scans = find_scans(tmp_path, table(tmp_path / "l.tsv", *rows))
    assert [scan.family for scan in scans] == ["F1", "F1", "C"]
    assert family_counts(scans) == "2 families, 1 sibling pairs"


def test_two_columns_of_families_are_refused_unless_one_is_family_id(tmp_path):
    add(tmp_path, "A")
    labels = table(tmp_path / "l.tsv", "participant_id family familyid label", "A 1 2 1")
    with pytest.raises(CohortError, match="more than one column family_id .family, familyid."):
        find_scans(tmp_path, labels)
    table(labels, "participant_id family family_id label", "A yes 2 1")
    assert find_scans(tmp_path, labels)[0].family == "2"


def test_the_cohort_table_of_a_run_serves_as_labels(tmp_path):
    """Ten pairs of twins stay ten pairs."""
    rows = ["participant_id session_id family_id label"]
    for number in range(20):
        add(tmp_path, f"{number:03}", "01")
        rows.append(f"{number:03} 01 {number // 2 + 1} {number // 2 % 2}")
    scans = find_scans(tmp_path, table(tmp_path / "l.tsv", *rows))
    write_cohort(scans, tmp_path / "cohort.csv")
    again = find_scans(tmp_path, tmp_path / "cohort.csv")
    assert again == scans and family_counts(again) == "10 families, 10 sibling pairs"
    splits = make_splits(again, num_folds=2)
    assert (splits["sibling_pairs"], splits["torn_sibling_pairs"]) == (10, 0)


def test_decimal_commas_of_a_table_with_semicolons(tmp_path):
    add(tmp_path, "01")
    labels = tmp_path / "l.csv"
    labels.write_text('participant_id;birth_age;radiology_score;remark\n01;31,29;"3,0";one, two\n')
    scan = find_scans(tmp_path, labels)[0]
    assert (scan.birth_age, scan.radiology_score, scan.label) == (31.29, "3", 1)


def test_a_session_with_several_images_does_not_stop_a_cohort(tmp_path):
    add(tmp_path, "01")
    add(tmp_path, "02", names=("run-1_T2w", "run-2_T2w"))
    labels = table(tmp_path / "l.tsv", "participant_id label", "01 1", "02 0")
    scans = find_scans(tmp_path, labels)
    assert [scan.status for scan in scans] == ["used", "several images"]
    assert "run-1_T2w.nii.gz, sub-02_run-2_T2w.nii.gz" in scans[1].reason and "--run" in scans[1].reason
    assert flow(scans) == {
        **{"found": 2, "labelled": 2, "several images": 1},
        **{"used": 1, "used normal": 0, "used injury": 1},
    }
    scans = find_scans(tmp_path, labels, run="2")
    assert [scan.status for scan in scans] == ["used", "used"]
    assert scans[1].image == str(tmp_path / "sub-02/anat/sub-02_run-2_T2w.nii.gz")


def test_a_cohort_of_nothing_but_several_images_says_how_to_choose(tmp_path):
    add(tmp_path, "01", names=("acq-a_T2w", "acq-b_T2w"))
    labels = table(tmp_path / "l.tsv", "participant_id label", "01 1", "02 0")
    with pytest.raises(CohortError, match="1 no image, 1 several images.*choose one with --acquisition or --run"):
        find_scans(tmp_path, labels)


def test_columns_of_the_label_table_choose_among_several_images(tmp_path):
    for infant in ("01", "02", "03", "04"):
        add(tmp_path, infant, names=("run-01_T2w", "run-02_T2w"))
    add(tmp_path, "05", names=("run-01_T2w",))
    rows = "participant_id run label", "01 1 1", "02 2.0 0", "03 _ 0", "04 3 0", "05 2 0"
    scans = find_scans(tmp_path, table(tmp_path / "l.tsv", *rows))
    assert [Path(scan.image or "").name for scan in scans] == [
        *("sub-01_run-01_T2w.nii.gz", "sub-02_run-02_T2w.nii.gz", "", "", "sub-05_run-01_T2w.nii.gz")
    ]
    assert [scan.status for scan in scans[2:4]] == ["several images", "no image"]
    assert "--run 3" in scans[3].reason


def test_a_column_chooses_among_the_images_that_an_option_left(tmp_path):
    add(tmp_path, "01", names=("acq-a_run-1_T2w", "acq-a_run-2_T2w", "acq-b_run-1_T2w", "acq-b_run-2_T2w"))
    labels = table(tmp_path / "l.tsv", "participant_id run label", "01 2 1")
    assert find_scans(tmp_path, labels, acquisition="b")[0].image.endswith("sub-01_acq-b_run-2_T2w.nii.gz")


def test_sessions_without_an_image_are_listed_even_if_no_table_knows_them(tmp_path):
    add(tmp_path, "01", "1")
    add(tmp_path, "01", "2", names=("T1w",))
    (tmp_path / "sub-01" / "ses-3" / "func").mkdir(parents=True)
    labels = table(tmp_path / "l.tsv", "participant_id session_id label", "01 1 1")
    scans = find_scans(tmp_path, labels)
    assert [(scan.session_id, scan.status) for scan in scans] == [("1", "used"), ("2", "no image"), ("3", "no image")]
    assert "found sub-01_ses-2_T1w.nii.gz" in scans[1].reason and flow(scans)["found"] == 3


def test_a_session_without_anat_folder_does_not_make_a_label_ambiguous(tmp_path):
    add(tmp_path, "01", "1")
    (tmp_path / "sub-01" / "ses-2" / "func").mkdir(parents=True)
    scans = find_scans(tmp_path, table(tmp_path / "l.tsv", "participant_id label", "01 1"))
    assert [scan.status for scan in scans] == ["used", "no image"]


def test_images_that_were_not_fetched_are_counted_apart(tmp_path):
    add(tmp_path, "01")
    links = [add(tmp_path, infant, names=()) / f"sub-{infant}_T2w.nii.gz" for infant in ("02", "03")]
    links[0].symlink_to("../../.git/annex/objects/x/y/z.nii.gz")
    links[1].write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    labels = table(tmp_path / "l.tsv", "participant_id label", "01 1", "02 0", "03 0")
    scans = find_scans(tmp_path, labels)
    assert [scan.status for scan in scans] == ["used", "not fetched", "not fetched"]
    assert "datalad get" in scans[1].reason and "git lfs pull" in scans[2].reason
    (tmp_path / "sub-01/anat/sub-01_desc-restore_T2w.nii.gz").unlink()
    with pytest.raises(CohortError, match="1 no image, 2 not fetched.*run `datalad get"):
        find_scans(tmp_path, labels)


@pytest.mark.parametrize("name", ["participants.tsv", "sub-01/sub-01_sessions.tsv", "labels.tsv"])
def test_a_table_that_was_not_fetched_is_named(tmp_path, name):
    """It may have the families."""
    add(tmp_path, "01", "1")
    labels = table(tmp_path / "labels.tsv", "participant_id label", "01 1")
    (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / name).symlink_to(".git/annex/objects/x/y.tsv")
    with pytest.raises(CohortError, match=f"{name} has not been fetched: run `datalad get"):
        find_scans(tmp_path, labels)
    (tmp_path / name).unlink()
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    with pytest.raises(CohortError, match=f"{name} has not been fetched: run `git lfs pull`"):
        find_scans(tmp_path, labels)


def test_several_masks_matter_only_where_a_mask_is_required(tmp_path):
    add(tmp_path, "01", names=("T2w", "desc-brain_mask"))
    add(tmp_path, "01", names=("desc-brain_mask",), extension=".nii")
    labels = table(tmp_path / "l.tsv", "participant_id label", "01 1")
    assert find_scans(tmp_path, labels)[0].mask is None
    with pytest.raises(CohortError, match="A brain mask is required: sub-01 has several brain masks"):
        find_scans(tmp_path, labels, brain_mask="required")


def test_cohort_table_round_trip(tmp_path):
    scans = find_scans(release(tmp_path / "a"))
    scans = [replace(scans[0], birth_age=1 / 3, participant_id="007", reason='Said "no, never", twice.'), *scans[1:]]
    scans.append(exclude(replace(scans[1], image=None, label=None, session_id=""), "unreadable", "Ünlesbar."))
    path = tmp_path / "cohort.csv"
    write_cohort(scans, path)
    assert read_cohort(path) == scans
    assert [entry.name for entry in tmp_path.iterdir() if entry.is_file()] == ["cohort.csv"]
    path.write_text("participant_id,label\n01,1\n")
    with pytest.raises(CohortError, match="not a cohort"):
        read_cohort(path)


def test_relative_folders_give_absolute_paths(tmp_path, monkeypatch):
    release(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    assert find_scans("data") == find_scans(tmp_path / "data")
