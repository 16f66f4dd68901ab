"""The page of a model that frames the head: DICOM studies, warnings of the frame, and its outline."""

import json
import re
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from gradio_client import Client, handle_file

from cohort.phantom import make_phantom_scan
from modeling_gloresnet import GloResNetConfig, GloResNetForImageClassification
from preprocessing import GloResNetImageProcessor
from publishing.export import export_model
from screening.loading import load_model
from screening.one_scan import screen_scan
from screening.out_of_distribution import training_appearance
from tests.dicomfiles.deliveries import PRIVATE, enhanced, save, slices_of
from tests.viewer.served import start, stop

MINUTE = 60_000  # milliseconds


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A model, a phantom as NIfTI, MGH and DICOM, and two whose head is cut at the top."""
    base = tmp_path_factory.mktemp("framed")
    image = make_phantom_scan(40, {}, seed=3, voxel_size=2.5).image()
    image = nibabel.Nifti1Image(np.asanyarray(image.dataobj).astype(np.int16), image.affine)
    nibabel.save(image, base / "whole.nii.gz")
    nibabel.save(nibabel.MGHImage(np.asanyarray(image.dataobj).astype(np.float32), image.affine), base / "whole.mgz")
    save(slices_of(image), base / "loose")
    save([enhanced(image)], base / "multiframe")
    shutil.make_archive(str(base / "study 7"), "zip", base / "loose")
    half = nibabel.Nifti1Image(np.asanyarray(image.dataobj) // 2, image.affine)
    save(slices_of(image) + slices_of(half, series=9), base / "two series")
    shutil.make_archive(str(base / "two series"), "zip", base / "two series")
    head = np.flatnonzero((np.asanyarray(image.dataobj) > 200).any((0, 1)))
    for name, share in (("cut", 0.1), ("half", 0.4)):
        top = head[-1] - round(share * 90 / 2.5)  # the head is about 90 mm high
        nibabel.save(image.slicer[:, :, :top], base / f"{name}.nii.gz")
    torch.manual_seed(0)
    config = GloResNetConfig(image_size=32, stem_channels=4, widths=[4, 8, 8, 16], head_init_std=2.0)
    config.provenance = {"cohort": "phantom-test", "synthetic": True, "run": "r1", "fold": 3, "train_scans": 8}
    processor = GloResNetImageProcessor(image_size=32, framing="head")
    cube = processor(base / "whole.nii.gz", return_tensors="np").pixel_values[0, 0]
    config.training_appearance = training_appearance([cube, cube + 0.01 * np.roll(cube, 1, 0)])
    export_model(GloResNetForImageClassification(config), processor, base / "model", "card")
    return base


@pytest.fixture(scope="module")
def served(base):
    served = start("--model", base / "model", cwd=base, temp=base / "temp")
    yield served
    printed = stop(served)
    assert not any(word in printed for word in PRIVATE)


@pytest.fixture
def page(served, browser):
    yield from opened(browser, served)


def opened(browser, served):
    context = browser.new_context(viewport={"width": 1280, "height": 1000})
    page = context.new_page()
    page.set_default_timeout(MINUTE)
    page.goto(served.url)
    page.wait_for_selector("#upload")
    yield page
    context.close()


def drop(page, *files):
    page.set_input_files("#upload input[type=file]", [str(file) for file in files])


def wanted(base, name):
    return screen_scan(*load_model(str(base / "model")), str(base / name))


def test_studies_of_every_form_give_the_answer_of_the_nifti_and_nothing_private(base, served, page):
    p_injury = wanted(base, "whole.nii.gz")["p_injury"]
    for number, (files, name) in enumerate(
        [
            ([base / "study 7.zip"], "study 7.zip"),
            (sorted((base / "loose").iterdir()), "DICOM study"),
            (sorted((base / "multiframe").iterdir()), "DICOM study"),
            ([base / "whole.mgz"], "whole.mgz"),
        ]
    ):
        drop(page, *files)
        if number:
            page.wait_for_selector(f"#table tbody tr:nth-child({number + 1})")
        page.wait_for_selector(f"#result .scan-name:text-is('{name}')")
        shown = float(re.search(r"[\d.]+", page.inner_text("#result .headline")).group())
        assert shown == pytest.approx(p_injury, abs=6e-4), name
        page.wait_for_selector("#viewer [data-state=ready]")
        page.get_by_role("button", name="Heat map (NIfTI)").and_(page.locator(":enabled")).wait_for()
        if name == "DICOM study":  # its files are gone, and their names with them
            kept = [path.name for path in (base / "temp").rglob("*") if path.is_file()]
            assert "DICOM study.nii.gz" in kept and not any(kept_name.endswith(".dcm") for kept_name in kept)
    with page.expect_download() as caught:
        page.get_by_role("button", name="All results (CSV)").click()
    everything = page.content() + Path(caught.value.path()).read_text()
    assert not any(word in everything for word in PRIVATE)

    client = Client(served.url, verbose=False)
    loose = [handle_file(path) for path in sorted((base / "loose").iterdir())]
    for sent, name in [(loose, "DICOM study"), (handle_file(base / "study 7.zip"), "study 7.zip")]:
        answer = client.predict(sent, api_name="/screen")
        assert answer["p_injury"] == pytest.approx(p_injury, abs=1e-5) and answer["scan"] == name
        assert not any(word in json.dumps(answer) for word in PRIVATE)
    two = [handle_file(base / "whole.nii.gz"), handle_file(base / "cut.nii.gz")]
    assert "Send one at a time" in client.predict(two, api_name="/screen")["message"]


def test_a_study_with_several_series_asks_for_one_of_them(base, served, page):
    wait = page.wait_for_selector
    assert not page.locator("#series").is_visible()
    drop(page, base / "two series.zip")
    problem = wait("#result .problem").inner_text()
    assert re.search(r"has 2 T2-weighted series: series 5 \(.*\), series 9 \(.*\)", problem)
    assert "in the field Series, and upload the study again" in problem
    field = page.get_by_label("Series of the DICOM study")
    field.fill("7")
    drop(page, base / "two series.zip")
    wait("#result .problem:has-text('no MR series of the number')")
    assert field.input_value() == "" and "7" not in page.inner_text("#result .problem").split()
    field.fill(" 9 ")
    drop(page, base / "two series.zip")
    wait("#result .headline")
    # half the intensities: the same standardised cube
    shown = float(re.search(r"[\d.]+", page.inner_text("#result .headline")).group())
    assert shown == pytest.approx(wanted(base, "whole.nii.gz")["p_injury"], abs=0.01)
    assert not page.locator("#series").is_visible()  # a number of one study must not choose a series of the next one
    drop(page, base / "two series.zip")
    wait("#series")
    page.get_by_role("button", name="Clear").click()
    wait("#series", state="hidden")
    assert not any(word in page.content() for word in PRIVATE)


def test_a_cut_head_is_said_above_the_probability_or_refused(base, page):
    drop(page, base / "cut.nii.gz")
    page.wait_for_selector("#result .headline")
    text = page.inner_text("#result")
    assert "The head touches the edge of the scan at the top" in text
    assert text.index("Do not rely on this probability") < text.index("probability of injury")
    drop(page, base / "half.nii.gz")
    problem = page.wait_for_selector("#result .problem").inner_text()
    assert (
        re.search(r"half\.nii\.gz shows (too little of|no complete) .*head", problem)
        and page.locator("#viewer [data-state=empty]").count()
    )


def test_the_outline_is_shown_for_this_model(base, page):
    drop(page, base / "whole.nii.gz")
    page.wait_for_selector("#viewer [data-state=ready]")
    assert page.locator("#viewer .grn-frame").is_visible()
    frame = page.evaluate("JSON.stringify(document.querySelector('#viewer .grn-frame').innerText)")
    assert "Frame: what the network saw" in frame
    # the corners of the frame in the answer: a cube of 150 mm that holds the head
    first, last = map(np.array, wanted(base, "whole.nii.gz")["preprocessing"]["frame_corners_mm"])
    assert np.allclose(np.abs(last - first), 150, atol=0.01)
    data = nibabel.load(base / "whole.nii.gz")
    head = nibabel.affines.apply_affine(data.affine, np.argwhere(np.asanyarray(data.dataobj) > 200))
    assert (first[0] < head.min(0)[0]) and (last[0] > head.max(0)[0]) and last[2] > head.max(0)[2]
