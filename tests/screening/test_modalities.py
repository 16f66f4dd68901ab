"""Screening with further modalities: which images are used, which are missing, and what the answer says about it."""

import csv
import re

import nibabel
import numpy as np
import pytest
import torch
from torch import nn

import predict
from modeling_gloresnet import GloResNetConfig, GloResNetForImageClassification
from preprocessing import GloResNetImageProcessor
from publishing.export import export_model
from screening.errors import ModelError
from screening.loading import load_model
from screening.modalities import FurtherImages
from screening.one_scan import screen_scan
from screening.pytorch import PyTorchModel
from tests.preprocessing.test_modalities import T2W_AFFINE, head, moved, turned

NAMES = ["T2w", "T1w", "FA"]
MISSING = "The scan has no T1w or FA: the answer rests on T2w alone."


def make_model(**settings):
    torch.manual_seed(4)
    config = GloResNetConfig(
        image_size=32, stem_channels=4, widths=[4, 8, 8, 16], head_init_std=2.0, modalities=NAMES, **settings
    )
    model = GloResNetForImageClassification(config).eval()
    nn.init.normal_(model.presence.weight)
    return model


def flirt(world, moving, reference):
    """FLIRT's matrix of a motion in world space, by hand, for two images stored left-handed as FSL expects."""
    scaled = [np.diag([*nibabel.affines.voxel_sizes(image.affine), 1.0]) for image in (moving, reference)]
    assert all(np.linalg.det(image.affine) < 0 for image in (moving, reference))
    return scaled[1] @ np.linalg.inv(reference.affine) @ world @ moving.affine @ np.linalg.inv(scaled[0])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model for three modalities, and two sessions: one has all, with diffusion in another root, one has T2w only."""
    base = tmp_path_factory.mktemp("modalities")
    export_model(make_model(), GloResNetImageProcessor(image_size=32, modalities=NAMES), base / "model", "card")
    t2w = head(T2W_AFFINE, (36, 38, 34))
    t1w = head(turned(), (32, 29, 35), seed=1, contrast=(60.0, 90.0))
    world = nibabel.affines.from_matvec(turned((0, 0, 9), (1, 1, 1), (0, 0, 0))[:3, :3], (11.0, -7.0, 5.0))
    placed = head(
        turned((3, 2, 4), (-2.2, 2.0, 2.1), (41, -32, -2)), (34, 31, 33), seed=2, contrast=(0.4, 0.1), noise=0.02
    )
    acquired = nibabel.Nifti1Image(placed.dataobj, np.linalg.inv(world) @ placed.affine)
    for name, image in {"t2w": t2w, "t1w": t1w, "fa_placed": placed, "fa": acquired}.items():
        nibabel.save(image, base / f"{name}.nii.gz")
    np.savetxt(base / "fa.mat", flirt(world, acquired, t2w))
    for path, source in {
        "anatomy/sub-A/anat/sub-A_desc-restore_T2w.nii.gz": "t2w.nii.gz",
        "anatomy/sub-A/anat/sub-A_desc-restore_space-T2w_T1w.nii.gz": "t1w.nii.gz",
        "dmri/sub-A/dwi/sub-A_model-DTI_FA.nii.gz": "fa.nii.gz",
        "dmri/sub-A/xfm/sub-A_from-dwi_to-T2w_mode-image.mat": "fa.mat",
        "anatomy/sub-B/anat/sub-B_desc-restore_T2w.nii.gz": "t2w.nii.gz",
    }.items():
        (base / path).parent.mkdir(parents=True, exist_ok=True)
        (base / path).symlink_to(base / source)
    return base


def expected(folder, images, **options):
    model, processor = make_model(), GloResNetImageProcessor(image_size=32, modalities=NAMES)
    inputs = processor({name: folder / f"{image}.nii.gz" for name, image in images.items()}, return_tensors="pt")
    return model.predict_proba(**inputs, **options)[0, 1].item()


def rows(*arguments, status=0):
    assert predict.main([*map(str, arguments), "--dtype", "float32", "--num_workers", "0"]) == status
    with open(arguments[arguments.index("--output") + 1], newline="") as file:
        return list(csv.DictReader(file))


def test_the_answer_is_that_of_the_network(folder):
    model, processor = PyTorchModel(make_model()), GloResNetImageProcessor(image_size=32, modalities=NAMES)
    scan = str(folder / "t2w.nii.gz")
    others = {"T1w": str(folder / "t1w.nii.gz"), "FA": str(folder / "fa_placed.nii.gz")}
    answer = screen_scan(model, processor, scan, others=others)
    assert answer["p_injury"] == pytest.approx(
        expected(folder, {"T2w": "t2w", "T1w": "t1w", "FA": "fa_placed"}), abs=1e-6
    )
    assert answer["modalities"] == NAMES and not answer["missing_modalities"]
    assert not any("The scan has no" in sentence for sentence in answer["warnings"])
    alone = screen_scan(model, processor, scan)
    assert alone["p_injury"] == pytest.approx(expected(folder, {"T2w": "t2w"}), abs=1e-6)
    assert alone["modalities"] == ["T2w"] and alone["missing_modalities"] == ["T1w", "FA"]
    assert MISSING in alone["warnings"]
    assert abs(alone["p_injury"] - answer["p_injury"]) > 1e-3


def test_a_tree_finds_its_images_and_says_what_is_missing(folder, tmp_path, capsys):
    output = tmp_path / "p.csv"
    both = rows(folder / "anatomy", "--also", folder / "dmri", "--model", folder / "model", "--output", output)
    assert [row["status"] for row in both] == ["ok", "ok"]
    complete = expected(folder, {"T2w": "t2w", "T1w": "t1w", "FA": "fa_placed"})
    assert float(both[0]["p_injury"]) == pytest.approx(complete, abs=1e-5)
    assert float(both[1]["p_injury"]) == pytest.approx(expected(folder, {"T2w": "t2w"}), abs=1e-6)
    assert "The scan has no" not in both[0]["warnings"] and MISSING in both[1]["warnings"]
    assert "1 without all modalities." in capsys.readouterr().out
    without_diffusion = rows(folder / "anatomy", "--model", folder / "model", "--output", output)
    assert "The scan has no FA: the answer rests on T2w and T1w alone." in without_diffusion[0]["warnings"]


def test_the_images_of_one_scan_are_named(folder, tmp_path):
    call = [folder / "t2w.nii.gz", "--model", folder / "model", "--output", tmp_path / "p.csv"]
    t1w, fa, matrix = (
        f"{name}={folder / file}" for name, file in (("T1w", "t1w.nii.gz"), ("FA", "fa.nii.gz"), ("FA", "fa.mat"))
    )
    (row,) = rows(*call, "--with", t1w, fa, "--transform", matrix)
    complete = expected(folder, {"T2w": "t2w", "T1w": "t1w", "FA": "fa_placed"})
    assert float(row["p_injury"]) == pytest.approx(complete, abs=1e-5)
    (row,) = rows(*call, "--with", t1w)
    assert "The scan has no FA: the answer rests on T2w and T1w alone." in row["warnings"]
    (row,) = rows(*call)
    assert MISSING in row["warnings"] and row["status"] == "ok"
    nibabel.save(moved(nibabel.load(folder / "t1w.nii.gz"), (150, 0, 0)), tmp_path / "away.nii.gz")
    (row,) = rows(*call, "--with", f"T1w={tmp_path / 'away.nii.gz'}", status=1)
    assert row["status"] == "error" and row["p_injury"] == "" and "(T1w) covers 0 % of the head" in row["message"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--with", "T1w"], "--with takes T1w.FA.MD=FILE, not 'T1w'"),
        (["--with", "PD={}/t1w.nii.gz"], "not 'PD="),
        (["--with", "T1w=gone.nii"], "there is no such file"),
        (["--with", "T1w={}/t1w.nii.gz", "T1w={}/t1w.nii.gz"], "names T1w twice"),
        (["--with", "T1w={}/t1w.nii.gz", "--with", "T1w={}/t1w.nii.gz"], "names T1w twice"),
        (["--with", "T1w={}/t1w.nii.gz", "--report", "{}/report"], "--report answers by the T2w series alone"),
        (["--transform", "FA={}/fa.mat"], "--transform FA=... has no image"),
        (["--also", "gone"], "--also gone is not a folder"),
        (["--with", "MD={}/t1w.nii.gz"], "takes T2w, T1w and FA, not MD"),
        (["{}/t1w.nii.gz", "--with", "T1w={}/t1w.nii.gz"], "2 scans were asked for"),
    ],
)
def test_wrong_calls(folder, tmp_path, capsys, flags, message):
    call = [folder / "t2w.nii.gz", *(flag.format(folder) for flag in flags), "--model", folder / "model"]
    try:
        status = predict.main([*map(str, call), "--output", str(tmp_path / "p.csv")])
    except SystemExit as error:
        status = error.code
    assert status == 2 and not (tmp_path / "p.csv").exists()
    assert re.search(message, capsys.readouterr().err)


def test_odd_trees_and_files_are_understood_or_refused(folder, tmp_path, monkeypatch):
    scan = str(folder / "anatomy/sub-A/anat/sub-A_desc-restore_T2w.nii.gz")
    (tmp_path / "link").symlink_to(folder / "dmri")
    image = nibabel.load(folder / "fa.nii.gz")
    image.set_qform(moved(image, (9, 0, 0)).affine, code=1)  # a doubt
    nibabel.save(image, tmp_path / "fa.nii.gz")
    found = FurtherImages(NAMES, roots=[folder / "dmri", tmp_path / "link"])(scan)
    assert list(found) == ["T1w", "FA"]
    named = {"FA": str(tmp_path / "fa.nii.gz")}
    with monkeypatch.context() as without:
        # scans are read in threads, which share what it sets: it would collect the warnings of other scans
        without.setattr("warnings.catch_warnings", None)
        found = FurtherImages(NAMES, named, {"FA": str(folder / "fa.mat")})(scan)
    assert any("disagree" in sentence for sentence in found["FA"].warnings) and found["FA"].source == named["FA"]
    with pytest.raises(ValueError, match="is given as T2w and as T1w"):
        FurtherImages(NAMES, {"T1w": scan})(scan)
    other = tmp_path / "sub-A/anat/sub-B_T2w.nii.gz"
    other.parent.mkdir(parents=True)
    other.symlink_to(folder / "t2w.nii.gz")
    with pytest.raises(ValueError, match="named after another subject"):
        FurtherImages(NAMES, roots=[folder / "dmri"])(str(other))


def test_settings_that_contradict_each_other_are_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="prepares .'T2w'., but the model expects .'T2w', 'T1w', 'FA'."):
        export_model(make_model(), GloResNetImageProcessor(image_size=32), tmp_path / "model", "card")
    export_model(make_model(), GloResNetImageProcessor(image_size=32, modalities=NAMES), tmp_path / "model", "card")
    GloResNetImageProcessor(image_size=32).save_pretrained(tmp_path / "model")
    with pytest.raises(ModelError, match="prepares T2w, but config.json says that the model expects T2w, T1w, FA"):
        load_model(str(tmp_path / "model"))


def test_doubts_about_a_moved_image_reach_the_answer(folder, tmp_path):
    image = nibabel.load(folder / "fa.nii.gz")
    doubtful = nibabel.Nifti1Image(image.get_fdata(dtype=np.float32), image.affine)
    doubtful.set_qform(image.affine + np.outer([9, 0, 0, 0], [0, 0, 0, 1]), code=1)
    doubtful.set_sform(image.affine, code=1)
    nibabel.save(doubtful, tmp_path / "fa.nii.gz")
    named, matrix = {"FA": str(tmp_path / "fa.nii.gz")}, {"FA": str(folder / "fa.mat")}
    scan, processor = str(folder / "t2w.nii.gz"), GloResNetImageProcessor(image_size=32, modalities=NAMES)
    answer = screen_scan(PyTorchModel(make_model()), processor, scan, others=FurtherImages(NAMES, named, matrix)(scan))
    assert [s for s in answer["warnings"] if s.startswith("FA: The sform (code 1) and the qform (code 1) disagree")]


def test_a_model_for_t2w_takes_no_other_image(folder):
    assert (
        FurtherImages(["T2w"], roots=[folder / "dmri"])(
            str(folder / "anatomy/sub-A/anat/sub-A_desc-restore_T2w.nii.gz")
        )
        == {}
    )
    model = GloResNetForImageClassification(
        GloResNetConfig(image_size=32, stem_channels=4, widths=[4, 8, 8, 16])
    ).eval()
    with pytest.raises(ValueError, match="modality 'T1w', but this model takes T2w: leave it out"):
        screen_scan(
            PyTorchModel(model), GloResNetImageProcessor(image_size=32), str(folder / "t2w.nii.gz"), others={"T1w": "x"}
        )
