"""Which files and text may be published, and which are refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from modeling_gloresnet import BaselineConfig, BaselineForImageClassification
from preprocessing import GloResNetImageProcessor
from publishing.export import export_model
from publishing.leaks import LeakError, check_contents, check_text, model_files, private_words

ROOT = Path(__file__).parent.parent.parent
COHORT = """participant_id,session_id,family,image
CC00063AN06,15102,CC00063,/data/bids/sub-CC00063AN06_ses-15102_T2w.nii.gz
7,1,7,/data/bids/sub-7_ses-1_T2w.nii.gz
20260101,1,fam,
"""


@pytest.fixture
def words(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "cohort.csv").write_text(COHORT)
    (run / "environment.json").write_text(json.dumps({"source": {"data_dir": "/data/neonates", "labels": None}}))
    return private_words(run)


def test_a_folder_of_another_architecture_is_published_whole(tmp_path, words):
    model = BaselineForImageClassification(BaselineConfig(architecture="densenet121", image_size=32))
    export_model(model, GloResNetImageProcessor(image_size=32), tmp_path / "model", "a card")
    files = model_files(tmp_path / "model")
    assert {"configuration_baseline.py", "modeling_baseline.py", "model.safetensors"} <= set(files)
    assert set(files) == {path.name for path in (tmp_path / "model").iterdir()}
    check_contents(files, words)


@pytest.mark.parametrize(
    "text",
    [
        "trained on CC00063AN06",
        "cc00063an06.png",
        "of family CC00063",
        "sub-7 was missed",
        "born 20260101",
        "read from /data/neonates",
        "see /home/ann/runs",
        '{"init":"/mnt/disk/x.pth"}',
        "in ~/thesis",
        r"C:\Users\ann",
        "trained on CC00063AN06a and others",
        "scanCC00063AN06.png",
        "XCC00063AN06",
        "sub-CC00063AN06b_T2w",
        "the twins of CC00063x",
        "sub-7b was missed",
        "born20260101a",
        "file:///data/x.nii",
        "FILE://nas/scans",
        "smb://nas/scans",
        r"on \\nas01\neonates$",
        r"""{"path": "\\\\nas01\\scans"}""",
        "ask ann.lee+mri@clinic.example.org",
        "<ann@clinic.org>",
        "mailto:ann@clinic.org",
    ],
)
def test_ids_and_paths_are_found(words, text):
    with pytest.raises(LeakError, match="README.md holds .*must not be published"):
        check_text("README.md", text, words)


@pytest.mark.parametrize(
    "text",
    [
        "7 of 20 scans, fold 1, 128^3",
        "https://huggingface.co/lab/net/resolve/main/x and http://a.b/home/ann",
        "1/2 [softmax f(x) + softmax f(flip x)], and/or, sub-X_sessions.tsv",
        "CC00063AN061 and 120260101",
        "the twins of CC00063xy, of XCC00063 and of CC000631",
        "sub-70, sub-7bc, mysub-7",
        "lab/net@3f2a1b4c and lab/net@v1.0, a decorator @torch.no_grad(), weights@features.mean()",
        r"a line break \n, \d+\w, \alpha\beta and a table row 1 & 2 \\ \hline",
        "https://arxiv.org/abs/2606.02498 and hf://lab/net/model.safetensors",
        "a division a // b / c, a comment // like this, (B, 1, R, A, S) -> (V, B)",
        "../../LICENSE",
    ],
)
def test_text_that_only_looks_like_an_id_or_path_is_accepted(words, text):
    check_text("README.md", text, words)


def test_only_files_of_a_model_repository_are_published(tmp_path):
    for name in ("config.json", "model.safetensors", "modeling_gloresnet.py", "README.md", ".DS_Store"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "__pycache__").mkdir()
    assert set(model_files(tmp_path)) == {"config.json", "model.safetensors", "modeling_gloresnet.py", "README.md"}
    (tmp_path / "thumbnail.png").write_text("")
    with pytest.raises(LeakError, match="thumbnail.png, which does not belong in a model repository"):
        model_files(tmp_path)


def test_a_link_is_not_published(tmp_path):
    (tmp_path / "secret").write_text("of another folder")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "README.md").symlink_to(tmp_path / "secret")
    with pytest.raises(LeakError, match="holds README.md as a link"):
        model_files(tmp_path / "model")


def test_the_code_and_the_card_of_a_model_raise_no_alarm(words):
    rng = np.random.default_rng(0)
    ids = [f"CC{n:05d}XX{n % 90:02d}" for n in rng.integers(0, 99999, 200)]  # like those of the dHCP
    ids += [f"{n:05x}" for n in rng.integers(0x10000, 0xFFFFF, 200)]  # as short parts of a hash
    files = [path for room in ("modeling_gloresnet", "preprocessing") for path in (ROOT / room).glob("*.py")]
    check_contents({path.name: path for path in [*files, ROOT / "model_card.md"]}, words + ids)
    hashes = " ".join(rng.bytes(32).hex() for _ in range(100))
    check_text("README.md", hashes, ids)


def test_the_header_of_the_weights_is_checked(tmp_path, words):
    header = json.dumps({"__metadata__": {"made_from": "CC00063AN06"}}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(LeakError, match="model.safetensors holds 'CC00063AN06'"):
        check_contents({"model.safetensors": tmp_path / "model.safetensors"}, words)
