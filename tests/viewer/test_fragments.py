"""The plain HTML of the page: what it must say, and that a file name cannot become markup."""

import html
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoConfig

from modeling_gloresnet import BaselineConfig, GloResNetConfig, GloResNetForImageClassification
from screening.model import caution
from viewer.entries import COLUMNS, next_to, table_row
from viewer.fragments import answers_table, masthead, result_panel

ROOT = Path(__file__).resolve().parents[2]
ANSWER = {
    "scan": "scan.nii.gz", "p_injury": 0.7, "p_injury_no_tta": 0.6, "p_injury_mirrored": 0.8, "view_spread": 0.2,
    "p_injury_members": None, "member_spread": None, "modalities": ["T2w"], "missing_modalities": [],
    "predicted_label": "injury", "threshold": 0.65, "temperature": 1.0, "calibrated": False, "warnings": [],
    "preprocessing": {
        "stored_shape": [290, 290, 203], "stored_spacing_mm": [0.5, 0.5, 0.5], "stored_orientation": "LPS",
        "field_of_view_mm": [145.0, 145.0, 101.5], "intensity_range": [0.0, 900.0], "orientation": "RAS",
        "shape": [128, 128, 128], "spacing_mm": [1.133, 1.133, 0.793], "intensity_mean": 0.0, "intensity_sd": 1.0,
        "brain_mask": "none", "background": "carries signal",
    },
}  # fmt: skip


def text(markup):
    """The text that a reader sees."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", markup)).split())


def model(synthetic):
    with torch.device("meta"):
        model = GloResNetForImageClassification(GloResNetConfig(image_size=96))
    model.config.provenance = {"cohort": "hospital", "synthetic": synthetic, "run": "r1", "fold": 2, "train_scans": 102}
    return model


def test_a_result_shows_everything_needed_to_interpret_it():
    shown = text(result_panel(ANSWER))
    for words in [
        "0.700 probability of injury, classified as injury", "at or above the decision threshold of 0.65",
        "original view 0.600", "mirrored left-right 0.800", "difference between the views 0.200", "Not calibrated",
        "290 × 290 × 203 voxels",
        "axes LPS", "128 × 128 × 128 voxels", "different sides of the threshold",
    ]:  # fmt: skip
        assert words in shown
    assert 'style="left: 65.0%"' in result_panel(ANSWER)  # the mark of the threshold


@pytest.mark.parametrize(("p", "words"), [(0.0004, "< 0.001"), (0.9996, "> 0.999"), (0.0, "< 0.001")])
def test_no_probability_is_rounded_to_certainty(p, words):
    assert f"{words} probability" in text(result_panel(ANSWER | {"p_injury": p, "predicted_label": "normal"}))


def test_calibration_and_warnings():
    shown = text(result_panel(ANSWER | {"calibrated": True, "temperature": 1.84, "warnings": ["It is upside down."]}))
    assert "Calibrated: temperature 1.84" in shown and "Not calibrated" not in shown
    warning, _, rest = shown.partition("Do not rely on this probability. It is upside down.")
    assert "0.700" not in warning and "0.700 probability of injury" in rest  # nobody reads the number first


def test_a_missing_modality_is_no_warning_in_the_table_of_scans():
    lacks = "The scan has no T1w: the answer rests on T2w alone."
    one = ANSWER | {"missing_modalities": ["T1w"], "warnings": [lacks]}
    two = one | {"warnings": [lacks, "It is blurred."]}
    entries = [{"scan": "a", "answer": one}, {"scan": "b", "answer": two}, {"scan": "c", "problem": "no"}]
    assert re.findall(r"\d+ warnings?:", answers_table(entries, 0)) == ["1 warning:"]


def test_the_members_of_an_ensemble_are_shown():
    shown = text(result_panel(ANSWER | {"p_injury_members": [0.2, 0.9], "member_spread": 0.495, "calibrated": True}))
    assert "2 ensemble members: 0.200 , 0.900 (standard deviation 0.495 )" in shown
    assert "the temperature of each member" in shown


def test_without_the_mirrored_view():
    shown = text(result_panel(ANSWER | {"p_injury_mirrored": None, "view_spread": None}))
    assert "does not use a mirrored view" in shown and "difference between the views" not in shown


def test_a_name_cannot_become_markup():
    for page in [
        result_panel(ANSWER | {"scan": "<img src=x>.nii"}),
        result_panel(problem="<img src=x> is not a volume"),
    ]:
        assert "<img" not in page and "&lt;img" in page


def test_the_masthead_names_the_model_and_warns_in_capitals_if_it_is_synthetic():
    shown = text(masthead(model(synthetic=True), "ORG/NAME"))
    assert "TRAINED ON SYNTHETIC PHANTOMS, NOT ON INFANTS" in shown
    for words in [
        "ORG/NAME",
        "r1, fold 2",
        "hospital (synthetic), 102 training scans",
        "ResNet-10, input of 96³ voxels",
        "For research use only",
    ]:
        assert words in shown
    assert "SYNTHETIC" not in masthead(model(synthetic=False), "ORG/NAME")


def test_the_masthead_warns_of_painted_injuries():
    painted = model(synthetic=False)
    assert "PAINTED" not in masthead(painted, "ORG/NAME") and caution(painted) == ""
    painted.config.provenance["painted"] = True
    shown = text(masthead(painted, "ORG/NAME"))
    assert "TRAINED ON PAINTED INJURIES, NOT ON REAL ONES" in shown and "hospital (painted injuries), 102" in shown
    assert "painted into normal scans" in caution(painted) and "phantom" not in caution(painted)


def test_the_masthead_names_a_baseline(tmp_path):
    """Its configuration is read from a model folder, so its class is not this project's."""
    provenance = {"cohort": "c", "synthetic": False, "run": "r", "fold": "refit", "train_scans": 9}
    BaselineConfig(architecture="densenet121", image_size=96, provenance=provenance).save_pretrained(tmp_path)
    shutil.copy(ROOT / "modeling_gloresnet" / "configuration_baseline.py", tmp_path)
    shutil.copy(ROOT / "modeling_gloresnet" / "configuration_gloresnet.py", tmp_path)
    config = AutoConfig.from_pretrained(tmp_path, trust_remote_code=True)
    assert "3D DenseNet-121, input of 96³ voxels" in text(masthead(SimpleNamespace(config=config), "ORG/NAME"))


def test_without_a_model_the_masthead_says_how_to_train_one():
    shown = text(masthead(None, "", "No model was found."))
    assert "No model was found." in shown and "accelerate launch train.py --fold 4" in shown


def test_the_csv_row_of_a_scan_has_its_warnings():
    answer = ANSWER | {"warnings": ["It is upside down.", "It is blurred."]}
    row = dict(zip(COLUMNS, table_row({"scan": "s.nii", "answer": answer, "problem": ""}), strict=True))
    assert row["warnings"] == "It is upside down. It is blurred." and row["p_injury"] == 0.7
    failed = dict(zip(COLUMNS, table_row({"scan": "s.nii", "answer": None, "problem": "It is cut."}), strict=True))
    assert failed["warnings"] is None and failed["message"] == "It is cut."


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz", "scan.NII", "scan.Nii.GZ", "scan.gz"])
def test_files_next_to_a_scan_lose_its_extension(name):
    assert next_to({"path": f"/tmp/{name}"}, ".json") == Path("/tmp/scan.json")
