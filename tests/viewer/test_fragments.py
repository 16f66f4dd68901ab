"""The page's plain HTML: what it must say, and that a file's name cannot become markup."""

import html
import re

import pytest
import torch

from modeling_gloresnet import GloResNetConfig, GloResNetForImageClassification
from viewer.fragments import masthead, result_panel

ANSWER = {
    "scan": "scan.nii.gz", "p_injury": 0.7, "p_injury_no_tta": 0.6, "p_injury_mirrored": 0.8, "view_spread": 0.2,
    "p_injury_members": None, "member_spread": None,
    "predicted_label": "injury", "threshold": 0.65, "temperature": 1.0, "calibrated": False, "warnings": [],
    "preprocessing": {
        "stored_shape": [290, 290, 203], "stored_spacing_mm": [0.5, 0.5, 0.5], "stored_orientation": "LPS",
        "field_of_view_mm": [145.0, 145.0, 101.5], "intensity_range": [0.0, 900.0], "orientation": "RAS",
        "shape": [128, 128, 128], "spacing_mm": [1.133, 1.133, 0.793], "intensity_mean": 0.0, "intensity_sd": 1.0,
        "brain_mask": "none", "background": "carries signal",
    },
}  # fmt: skip


def text(markup):
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", markup)).split())


def model(synthetic):
    with torch.device("meta"):
        model = GloResNetForImageClassification(GloResNetConfig(image_size=96))
    model.config.provenance = {"cohort": "hospital", "synthetic": synthetic, "run": "r1", "fold": 2, "train_scans": 102}
    return model


def test_a_result_says_all_that_is_needed_to_read_it():
    shown = text(result_panel(ANSWER))
    for words in [
        "0.700 probability of injury, called injury", "at or above the decision threshold of 0.65", "as scanned 0.600",
        "mirrored left to right 0.800", "spread of the two views 0.200", "Not calibrated", "290 × 290 × 203 voxels",
        "axes LPS", "128 × 128 × 128 points", "different sides of the threshold",
    ]:  # fmt: skip
        assert words in shown
    assert 'style="left: 65.0%"' in result_panel(ANSWER)  # the threshold's mark


@pytest.mark.parametrize(("p", "words"), [(0.0004, "< 0.001"), (0.9996, "> 0.999"), (0.0, "< 0.001")])
def test_no_probability_is_rounded_to_certainty(p, words):
    assert f"{words} probability" in text(result_panel(ANSWER | {"p_injury": p, "predicted_label": "normal"}))


def test_calibration_and_warnings():
    shown = text(result_panel(ANSWER | {"calibrated": True, "temperature": 1.84, "warnings": ["It is upside down."]}))
    assert "Calibrated: temperature 1.84" in shown and "Not calibrated" not in shown
    assert "do not rely on the number. It is upside down." in shown


def test_an_ensembles_members_are_shown():
    shown = text(result_panel(ANSWER | {"p_injury_members": [0.2, 0.9], "member_spread": 0.495, "calibrated": True}))
    assert "the 2 members 0.200 , 0.900 , standard deviation 0.495" in shown
    assert "each member's temperature" in shown


def test_without_the_mirrored_view():
    shown = text(result_panel(ANSWER | {"p_injury_mirrored": None, "view_spread": None}))
    assert "without the mirrored view" in shown and "spread" not in shown


def test_a_name_cannot_become_markup():
    for page in [result_panel(ANSWER | {"scan": "<img src=x>.nii"}), result_panel(problem="<img src=x> is no volume")]:
        assert "<img" not in page and "&lt;img" in page


def test_the_masthead_names_the_model_and_shouts_what_is_synthetic():
    shown = text(masthead(model(synthetic=True), "ORG/NAME"))
    assert "TRAINED ON SYNTHETIC PHANTOMS, NOT ON INFANTS" in shown
    for words in [
        "ORG/NAME",
        "r1, fold 2",
        "hospital (synthetic), 102 training scans",
        "ResNet-10, 96³",
        "research use",
    ]:
        assert words in shown
    assert "SYNTHETIC" not in masthead(model(synthetic=False), "ORG/NAME")


def test_without_a_model_it_says_how_to_get_one():
    shown = text(masthead(None, "", "There is none."))
    assert "There is none." in shown and "accelerate launch train.py --fold 4" in shown
