"""The fields for further images: what is taken, what is refused, and what the result says about missing ones."""

from pathlib import Path

import gradio as gr
import nibabel
import numpy as np
import pytest
import torch
from torch import nn

from modeling_gloresnet import GloResNetConfig, GloResNetForImageClassification
from preprocessing import GloResNetImageProcessor
from screening.one_scan import screen_scan
from screening.out_of_distribution import training_appearance
from screening.pytorch import PyTorchModel
from tests.preprocessing.test_modalities import T2W_AFFINE, head, turned
from tests.screening.test_modalities import flirt
from viewer.fragments import masthead, result_panel
from viewer.further import FurtherFields
from viewer.scans import UploadError, place_further

NAMES = ["T2w", "T1w", "FA"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    base = tmp_path_factory.mktemp("further")
    nibabel.save(head(T2W_AFFINE, (36, 38, 34)), base / "t2w.nii.gz")
    fa = head(turned((0, 0, 0), (-2.2, 2.0, 2.1), (41, -32, -2)), (34, 31, 33), seed=2, contrast=(0.4, 0.1), noise=0.02)
    nibabel.save(fa, base / "fa.nii.gz")
    np.savetxt(base / "fa.mat", flirt(np.eye(4), fa, nibabel.load(base / "t2w.nii.gz")))
    return base


@pytest.fixture(scope="module")
def fields():
    fields = FurtherFields(NAMES)
    with gr.Blocks():
        fields.lay_out()
    return fields


@pytest.fixture
def upload(workspace):
    """Put a file where the page keeps uploads, and return what the browser then sends."""

    def put(name, content=b"x"):
        with workspace.receive_upload() as folder:
            path = folder / name
            path.write_bytes(content.read_bytes() if isinstance(content, Path) else content)
        return {"path": str(path), "meta": {"_type": "gradio.FileData"}}

    return put


def test_there_is_a_field_per_modality_and_none_for_t2w_alone(fields):
    assert [field.elem_id for field in fields.components] == ["t1w", "fa", "transform"]
    assert all("optional" in field.label for field in fields.components)
    alone, with_t1w = FurtherFields(["T2w"]), FurtherFields(["T2w", "T1w"])
    with gr.Blocks():
        alone.lay_out(), with_t1w.lay_out()
    assert alone.components == [] and [field.elem_id for field in with_t1w.components] == ["t1w"]


def test_images_and_transform_go_to_their_visitor(fields, upload, workspace, base):
    uploads = (None, upload("fa.nii.gz", base / "fa.nii.gz"), upload("fa.mat", base / "fa.mat"))
    further = fields.take(uploads, 1, "me", workspace)
    assert list(further) == ["FA"] and [Path(path).name for path in further["FA"]] == ["fa.nii.gz", "fa.mat"]
    assert not Path(uploads[1]["path"]).exists()
    placed = place_further(further, str(base / "t2w.nii.gz"))["FA"]
    np.testing.assert_allclose(placed.affine @ [0, 0, 0, 1], [*(-31.6, -32, -2), 1], atol=1e-4)  # RAS: its left end
    assert fields.take((None, None, None), 3, "me", workspace) == {}


@pytest.mark.parametrize(
    ("names", "scans", "message"),
    [
        ((None, "fa.nii.gz", None), 2, "belong to one scan, but 2 were uploaded"),
        (("t1w.zip", None, None), 1, "t1w.zip is none of .nii, .gz, .mgh, .mgz"),
        ((None, "fa.nii.gz", "fa.png"), 1, "fa.png is none of .mat, .txt"),
        (("t1w.nii.gz", None, "fa.mat"), 1, "The transform has no image. Add FA or MD as well"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(fields, upload, workspace, names, scans, message):
    with pytest.raises(UploadError, match=message):
        fields.take(tuple(name and upload(name) for name in names), scans, "me", workspace)


def test_problems_name_no_folder(base, tmp_path):
    (tmp_path / "bad.mat").write_text("1 2 3")
    with pytest.raises(ValueError, match="^bad.mat is not a matrix of FSL's FLIRT"):
        place_further({"FA": [str(base / "fa.nii.gz"), str(tmp_path / "bad.mat")]}, str(base / "t2w.nii.gz"))
    (tmp_path / "study").mkdir()
    with pytest.raises(ValueError, match="A transform belongs to a T2w scan in NIfTI"):
        place_further({"FA": [str(base / "fa.nii.gz"), str(base / "fa.mat")]}, str(tmp_path / "study"))


def test_the_result_says_what_is_missing_and_keeps_doubts_apart(base):
    torch.manual_seed(0)
    config = GloResNetConfig(image_size=32, stem_channels=4, widths=[4, 8, 8, 16], modalities=NAMES)
    config.provenance = {"cohort": "c", "synthetic": False, "run": "r", "fold": 0, "train_scans": 5}
    processor = GloResNetImageProcessor(image_size=32, modalities=NAMES)
    scan = str(base / "t2w.nii.gz")
    config.training_appearance = training_appearance(
        [GloResNetImageProcessor(image_size=32)(scan)["pixel_values"][0][0]]
    )
    model = PyTorchModel(GloResNetForImageClassification(config).eval())
    nn.init.ones_(model.module.presence.weight)
    alone = result_panel(screen_scan(model, processor, scan))
    assert "The scan has no T1w or FA: the answer rests on T2w alone." in alone
    assert "Do not rely on this probability" not in alone and "resembles the training scans" in alone
    answer = screen_scan(model, processor, scan, others={"FA": str(base / "fa.nii.gz")})
    answer["warnings"].append("It is doubtful.")
    panel = result_panel(answer)
    assert "The scan has no T1w: the answer rests on T2w and FA alone." in panel
    assert panel.count("<li>It is doubtful.</li>") == 1 and "Do not rely on this probability" in panel
    assert "3 channels: T2w, T1w, FA" in masthead(model, "m")
