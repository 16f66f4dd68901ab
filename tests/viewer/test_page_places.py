"""The page of a model with a local stream: which stream spoke, the places, and what is missing."""

import json
import re
from pathlib import Path

import nibabel
import pytest
import torch
from gradio_client import Client, handle_file

from modeling_gloresnet import GloResNetConfig, GloResNetForImageClassification
from preprocessing import GloResNetImageProcessor
from publishing.export import export_model
from screening.loading import load_model
from screening.one_scan import screen_scan
from tests.brains import brain_with_spot
from tests.viewer.served import start, stop
from tests.viewer.test_fragments import ANSWER, text
from viewer.fragments import LEAST, about_pictures, result_panel

PLACES = [
    {"probability": p, "position_mm": [1.0, 2.0, 3.0], "side": "left"} for p in (0.4, LEAST, LEAST - 1e-6)
]  # fmt: skip
BOTH = ANSWER | {"streams": ["global", "local"], "p_global": 0.6, "p_local": 0.4, "p_shares": None, "places": PLACES}
SILENT = BOTH | {"streams": ["global"], "p_local": None, "places": []}


def test_the_panel_says_what_each_stream_says():
    shown = text(result_panel(BOTH, searches=True))
    assert "Global stream: the whole head 0.600 Local stream: the most suspicious small place 0.400 Together" in shown
    assert "The 2 most suspicious places reach a probability of 0.05." in shown and "not a diagnosis" in shown
    assert "shares" not in shown and "Intensity shares" in text(result_panel(BOTH | {"p_shares": 0.2}, searches=True))
    assert "One place reaches" in text(result_panel(BOTH | {"places": PLACES[:1]}, searches=True))


def test_the_panel_says_that_no_place_is_suspicious_enough():
    shown = text(result_panel(BOTH | {"p_local": 0.012, "places": [PLACES[0] | {"probability": 0.012}]}, searches=True))
    assert "No place reaches a probability of 0.05; the highest has 0.012. This does not exclude" in shown


def test_the_panel_says_why_the_local_stream_is_silent():
    few = "answered by the global stream alone: it has 7 places that could be a small lesion, fewer than 50."
    shown = text(result_panel(SILENT | {"warnings": [few]}, searches=True))
    assert f"Do not rely on this probability. {few}" in shown
    assert "the most suspicious small place silent Only the global stream gave this answer" in shown


def test_a_model_without_a_local_stream_has_the_panel_of_before():
    assert result_panel(SILENT) == result_panel(ANSWER) and "stream" not in result_panel(SILENT)
    assert "stream" not in about_pictures(explains=True, searches=False) + about_pictures(False, False)


def test_a_converted_model_says_that_the_maps_are_missing_and_the_places_are_not():
    assert about_pictures(explains=False, searches=True) == (
        "Heat maps are not available for converted models and other architectures. Scans are shown without a map. Rings"
        " mark the places that the local stream found."
    )


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A model whose local stream finds some places of a brain suspicious, and two brains, one too coarse for it."""
    base = tmp_path_factory.mktemp("places")
    nibabel.save(brain_with_spot(), base / "brain.nii.gz")
    nibabel.save(brain_with_spot(1.5), base / "coarse.nii.gz")
    processor = GloResNetImageProcessor(image_size=32, local_stream=True)
    inputs = processor(base / "brain.nii.gz", return_tensors="pt")
    torch.manual_seed(0)
    config = GloResNetConfig(image_size=32, stem_channels=4, widths=[4, 8, 8, 16], local_stream=True)
    config.provenance = {"cohort": "phantom-test", "synthetic": True, "run": "r1", "fold": 3, "train_scans": 8}
    model = GloResNetForImageClassification(config)
    logits = model.local(inputs["local_patches"], inputs["local_valid"])[0].sort(descending=True).values
    slope = 4 / (logits[0] - logits[20]).item()  # the highest at 0.62, the 20th at 0.03
    config.local_calibration = [slope, 0.5 - slope * logits[0].item()]
    model.local.slope, model.local.offset = config.local_calibration
    export_model(model, processor, base / "model", "card")
    return base


@pytest.fixture(scope="module")
def served(base):
    served = start("--model", base / "model", cwd=base, temp=base / "temp")
    yield served
    assert "Warning" not in stop(served)  # the local stream is warmed up too


def test_the_page_lists_the_places_of_the_answer(base, served, browser_without_webgl):
    answer = screen_scan(*load_model(str(base / "model")), str(base / "brain.nii.gz"))
    listed = [place for place in answer["places"] if place["probability"] >= 0.05]
    assert 1 < len(listed) < len(answer["places"])
    page = browser_without_webgl.new_page(viewport={"width": 1280, "height": 1000})
    page.set_default_timeout(60_000)
    page.goto(served.url)
    page.wait_for_selector("#upload")
    assert "with a local stream" in page.inner_text(".masthead")
    page.set_input_files("#upload input[type=file]", str(base / "brain.nii.gz"))
    page.wait_for_selector("#viewer [data-state=ready]")
    for name in ("global", "local"):
        cell = page.locator(f"#result .streams tr:has-text('{name.capitalize()} stream') td")
        assert float(re.search(r"[\d.]+", cell.inner_text()).group()) == pytest.approx(answer[f"p_{name}"], abs=6e-4)
    assert f"The {len(listed)} most suspicious places" in page.inner_text("#result")
    rows = page.locator("#viewer .grn-listed tbody tr").all_inner_texts()
    for row, place in zip(rows, listed, strict=True):
        words = row.split()
        assert float(words[3]) == pytest.approx(place["probability"], abs=6e-4) and words[4] == place["side"]
        shown = [
            float(mm) * (1 if letter in "RAS" else -1) for letter, mm in zip(words[5::2], words[6::2], strict=True)
        ]
        assert shown == pytest.approx(place["position_mm"])
    with page.expect_download() as caught:
        page.get_by_role("button", name="Result (JSON)").click()
    downloaded = Path(caught.value.path()).read_text()
    assert [p["position_mm"] for p in json.loads(downloaded)["places"]] == [p["position_mm"] for p in answer["places"]]
    page.set_input_files("#upload input[type=file]", str(base / "coarse.nii.gz"))
    page.wait_for_selector("#result :text('Only the global stream gave this answer')")
    assert "answered by the global stream alone: its voxels are up to 1.5 mm long" in page.inner_text(
        "#result .warnings"
    )
    page.wait_for_selector("#viewer [data-state=ready]:has(.grn-name:text-is('coarse.nii.gz'))")
    assert not page.locator("#viewer .grn-places").is_visible()
    page.close()


def test_a_program_gets_the_streams_and_places(base, served):
    client = Client(served.url, verbose=False)
    for name in ("brain.nii.gz", "coarse.nii.gz"):
        answer = client.predict(handle_file(base / name), api_name="/screen")
        json.dumps(answer, allow_nan=False)
        expected = screen_scan(*load_model(str(base / "model")), str(base / name))
        assert answer["streams"] == expected["streams"] and len(answer["places"]) == len(expected["places"])
        for key in ("p_global", "p_local", "p_shares"):
            assert answer[key] == (expected[key] and pytest.approx(expected[key], abs=1e-5))
