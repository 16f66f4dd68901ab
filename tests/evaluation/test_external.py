"""External validation: predictions are joined with the labels of another site, and every scan is counted."""

import json
from itertools import product

import pandas as pd
import pytest

from evaluation.external import entities, is_doubted, read_external
from preprocessing.modalities_gloresnet import missing_modalities
from run_folder.files import InputError

COLUMNS = ["scan", "p_injury", "p_injury_no_tta", "predicted_label", "status", "message"]


def write_predictions(folder, scans, bad=()):
    rows = [
        (scan, "", "", "", "error", "cut short")
        if scan in bad
        else (scan, f"0.{i + 1}", f"0.{i + 1}", "normal", "ok", "")
        for i, scan in enumerate(scans)
    ]
    pd.DataFrame(rows, columns=COLUMNS).to_csv(folder / "predictions.csv", index=False)
    return folder / "predictions.csv"


@pytest.mark.parametrize(
    ("scan", "expected"),
    [
        ("/data/sub-A1/ses-02/anat/sub-A1_ses-02_desc-restore_T2w.nii.gz", ("A1", "02")),
        ("sub-A1_T2w.nii", ("A1", "")),
        ("/sub-study/x/sub-B_ses-1_T2w.nii.gz", ("B", "1")),
        ("/data/scan.nii.gz", None),
    ],
)
def test_entities(scan, expected):
    assert entities(scan) == expected


def test_scans_are_joined_by_their_bids_names(tmp_path):
    scans = [f"/data/sub-{p}/ses-{s}/anat/sub-{p}_ses-{s}_T2w.nii.gz" for p, s in ("A1", "A2", "B1", "C1", "D1", "E1")]
    predictions = write_predictions(tmp_path, scans, bad=scans[4:5])
    labels = tmp_path / "labels.tsv"
    labels.write_text(
        "participant_id\tsession_id\tradiology_score\tfamily_id\tsex\tbirth_age\tscan_age\n"
        "A\t1\t1\tF1\tF\t30\t36\nA\t2\t3\tF1\tF\t30\t40\nsub-B\t1\t5\tF1\tM\tn/a\t38\n"
        "C\t1\tQ\tF2\tM\t31\t38\nD\t1\t2\tF3\tM\t31\t38\nG\t1\t2\tF4\tM\t31\t38\n"
    )
    study = read_external(predictions, labels)
    assert study.external and study.folds == [0] and study.selection == "unknown"
    assert study.table[["participant_id", "session_id", "label", "family"]].to_numpy().tolist() == [
        ["A", "1", 0, "F1"],
        ["A", "2", 1, "F1"],
        ["B", "1", 1, "F1"],
    ]
    assert study.table["p_injury"].tolist() == [0.1, 0.2, 0.3]
    assert study.table["birth_age"].isna().tolist() == [False, False, True]
    assert study.flow == {
        "found": 7,
        "not screened": 1,
        "poor quality": 1,
        "unlabelled": 1,
        "labelled, never screened": 1,
        "used": 3,
        "used normal": 1,
        "used injury": 2,
    }
    assert study.exclusions.set_index("status").loc["not screened", "reason"] == "cut short"


def test_files_with_other_names_are_joined_by_a_column_scan(tmp_path):
    predictions = write_predictions(tmp_path, ["/x/a.nii.gz", "/x/b.nii.gz", "/y/c.nii", "/z/c.nii"])
    labels = tmp_path / "labels.csv"
    labels.write_text("scan,label\na.nii.gz,0\n/x/b.nii.gz,1\n/z/c.nii,1\n")
    study = read_external(predictions, labels)
    assert dict(zip(study.table["participant_id"], study.table["label"], strict=True)) == {
        "a": 0,
        "b": 1,
        "/z/c.nii": 1,
    }
    assert study.flow["unlabelled"] == 1
    labels.write_text("scan,label\na.nii.gz,0\na.nii.gz,1\n")
    with pytest.raises(InputError, match="a.nii.gz is labelled twice"):
        read_external(predictions, labels)


def test_dhcp_families_are_known_without_a_column(tmp_path):
    scans = [f"/d/sub-{p}/ses-1/anat/sub-{p}_ses-1_T2w.nii.gz" for p in ("CC00123AN10", "CC00123BN11", "CC00200XX09")]
    labels = tmp_path / "l.csv"
    labels.write_text("participant_id,score_group\nCC00123AN10,le2\nCC00123BN11,ge3\nCC00200XX09,le2\n")
    study = read_external(write_predictions(tmp_path, scans), labels)
    assert study.table["family"].tolist() == ["CC00123", "CC00123", "CC00200"]


def test_thresholds_are_those_stored_with_the_model(tmp_path):
    scans = ["/d/sub-A_T2w.nii", "/d/sub-B_T2w.nii"]
    labels = tmp_path / "l.csv"
    labels.write_text("participant_id,label\nA,0\nB,1\n")
    model = tmp_path / "fold-1" / "model"
    model.mkdir(parents=True)
    (model / "config.json").write_text(json.dumps({"threshold": 0.4, "temperature": 1.2}))
    inner = {"threshold_youden": 0.31, "threshold_sensitivity_90": 0.22, "temperature": 1.2, "n": 20}
    (model.parent / "metrics.json").write_text(json.dumps({"selection": "inner", "inner": inner}))
    study = read_external(write_predictions(tmp_path, scans), labels, model)
    values = {name: threshold.tolist() for name, threshold in study.thresholds.items()}
    assert values == {"0.5": [0.5] * 2, "Model's own": [0.4] * 2, "Youden": [0.31] * 2, "Sensitivity 0.90": [0.22] * 2}
    assert study.selection == "inner"
    assert study.threshold_notes["Youden"].startswith("0.310, chosen on the inner scans")
    (model / "config.json").write_text(json.dumps({"threshold": 0}))
    inner = {"threshold_youden": 0.0, "threshold_sensitivity_90": 1e-9}
    (model.parent / "metrics.json").write_text(json.dumps({"selection": "inner", "inner": inner}))
    notes = read_external(tmp_path / "predictions.csv", labels, model).threshold_notes
    assert notes["Model's own"].startswith("0 (which calls every scan injured), from")
    assert notes["Youden"].startswith("0.000 (which calls every scan injured), chosen on the inner scans")
    assert notes["Sensitivity 0.90"].startswith("0.000, chosen on the inner scans")
    (model.parent / "metrics.json").unlink()
    assert list(read_external(tmp_path / "predictions.csv", labels, model).thresholds) == ["0.5", "Model's own"]


def test_scans_with_warnings_are_counted_but_not_those_that_only_lack_a_modality(tmp_path):
    scans = [f"/d/sub-{letter}_T2w.nii" for letter in "ABCDEF"]
    predictions = write_predictions(tmp_path, scans, bad=scans[5:])
    labels = tmp_path / "l.csv"
    labels.write_text("participant_id,label\nA,0\nB,1\nC,0\nD,1\nF,1\n")
    assert "used with warnings" not in read_external(predictions, labels).flow  # a table of an earlier version
    table = pd.read_csv(predictions, dtype=str, keep_default_na=False)
    assert read_external(with_warnings(table, [""] * 6, predictions), labels).flow["used with warnings"] == 0
    lacks, doubt = "The scan has no FA or MD: the answer rests on T2w and T1w alone.", "The voxels are coarse."
    written = with_warnings(table, ["", lacks, f"{lacks} {doubt}", doubt, doubt, doubt], predictions)
    flow = read_external(written, labels).flow
    assert (flow["used"], flow["used with warnings"], flow["unlabelled"], flow["not screened"]) == (4, 2, 1, 1)


def with_warnings(table, warnings, path):
    table.assign(warnings=warnings).to_csv(path, index=False)
    return path


def test_the_sentence_about_missing_modalities_is_known_for_every_order_of_the_channels():
    for modalities in (["T2w", "MD", "T1w"], ["T2w", "T1w", "MD"], ["T2w", "FA", "MD", "T1w"]):
        for there in product([True, False], repeat=len(modalities) - 1):
            assert not is_doubted(missing_modalities(modalities, [True, *there]))
    missing = missing_modalities(["T2w", "FA"], [True, False])
    assert is_doubted(f"{missing} The age is unknown.") and is_doubted(f"The age is unknown. {missing}")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            "participant_id,label\nZ,1\n",
            "both a prediction and a label in .* 2 unlabelled. Check that participant_id",
        ),
        (
            "participant_id,score\nA,1\n",
            "no column label, score_group or radiology_score; it has participant_id, score",
        ),
        ("participant_id,label\nA,9\n", "must be 0 \\(normal\\) or 1"),
        ("name,label\nA,1\n", "no column participant_id"),
        ("scan,group\nA,1\n", "no column label, score_group"),
    ],
)
def test_bad_labels_are_one_sentence(tmp_path, labels, message):
    predictions = write_predictions(tmp_path, ["/d/sub-A_T2w.nii", "/d/sub-B_T2w.nii"])
    (tmp_path / "l.csv").write_text(labels)
    with pytest.raises(InputError, match=message) as caught:
        read_external(predictions, tmp_path / "l.csv")
    assert "\n" not in str(caught.value)


def test_bad_predictions_are_one_sentence(tmp_path):
    (tmp_path / "l.csv").write_text("participant_id,label\nA,0\n")
    with pytest.raises(InputError, match="p.csv is missing"):
        read_external(tmp_path / "p.csv", tmp_path / "l.csv")
    (tmp_path / "p.csv").write_text("scan,score\nx,1\n")
    with pytest.raises(InputError, match="lacks the column"):
        read_external(tmp_path / "p.csv", tmp_path / "l.csv")
    predictions = write_predictions(tmp_path, ["/d/a.nii", "/d/b.nii"])
    with pytest.raises(InputError, match="a table with a column scan"):
        read_external(predictions, tmp_path / "l.csv")


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_labels_of_any_separator_and_the_column_family(tmp_path, separator):
    """Families keep siblings together in the intervals, whichever of its names their column has."""
    predictions = write_predictions(tmp_path, [f"/x/{letter}.NII.GZ" for letter in "abc"])
    labels = tmp_path / "labels.csv"
    labels.write_text("scan,label,Family\na.NII.GZ,0,F1\nb.NII.GZ,1,F1\nc.NII.GZ,1,F2\n".replace(",", separator))
    assert read_external(predictions, labels).table["family"].tolist() == ["F1", "F1", "F2"]
    assert read_external(predictions, labels).table["participant_id"].tolist() == ["a", "b", "c"]
    predictions = write_predictions(tmp_path, [f"/x/sub-{letter}_T2W.NII.GZ" for letter in "abc"])
    labels.write_text("participant_id,label,family\na,0,F1\nb,1,F1\nc,1,F2\n".replace(",", separator))
    assert read_external(predictions, labels).table["family"].tolist() == ["F1", "F1", "F2"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("01,1,1,F1\n2,1,0,F2\n", "sub-02 .screened. and sub-2 .*row 3. differ only in leading zeros"),
        ("01,1.0,1,F1\n02,1,0,F2\n", "sub-01 ses-1 .screened. and sub-01 ses-1.0 .*row 2.* a trailing .0"),
        ("01,1,1,F1\n02,1,0,f1\n", "F1 .of sub-01. and f1 .of sub-02. differ only in upper and lower case"),
        ("01,1,1,12\n02,1,0,12.0\n", "12 .of sub-01. and 12.0 .of sub-02. differ only in a trailing .0"),
    ],
)
def test_ids_and_families_written_in_two_ways_are_named(tmp_path, rows, message):
    predictions = write_predictions(tmp_path, [f"/x/sub-{p}/ses-1/anat/sub-{p}_ses-1_T2w.nii.gz" for p in ("01", "02")])
    labels = tmp_path / "labels.csv"
    labels.write_text("participant_id,session_id,label,family_id\n" + rows)
    with pytest.raises(InputError, match=message):
        read_external(predictions, labels)


def test_a_covariate_that_is_no_number_is_one_sentence(tmp_path):
    predictions = write_predictions(tmp_path, ["/x/sub-a_T2w.nii.gz"])
    labels = tmp_path / "labels.csv"
    labels.write_text("participant_id,label,birth_age\na,1,<37\n")
    with pytest.raises(InputError, match="birth_age of sub-a is '<37', not a number"):
        read_external(predictions, labels)
