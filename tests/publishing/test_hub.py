"""Publish to a Hub on loopback, and load from it without this project."""

import functools
import hashlib
import json
import os
import re
import shutil
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import yaml
from safetensors.torch import load_file, save_file

from modeling_gloresnet import GloResNetForImageClassification
from preprocessing import GloResNetImageProcessor
from publishing.leaks import private_words
from publishing.release import prepare_releases
from run_folder.files import InputError
from tests.programs import PROJECT, Program, run_program

ROOT = Path(__file__).parent.parent.parent

STRANGER = """
import json, os, sys
from huggingface_hub import hf_hub_download, snapshot_download
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification, pipeline
for name in ("modeling_gloresnet", "preprocessing", "publishing", "training", "cohort"):
    try:
        __import__(name)
    except ImportError:
        continue
    sys.exit(f"{name} can be imported")
name, trust = "lab/net", {"trust_remote_code": True}
card = open(hf_hub_download(name, "README.md")).read()
lines = card.split("```python")[1].split("```")[0]
used = {}
exec(lines, used)
inputs = AutoImageProcessor.from_pretrained(name, **trust)("scan.nii.gz", return_tensors="pt")
answer = {
    "card": used["probability"],
    "lines": len([line for line in lines.splitlines() if line.strip()]),
    "pooler": list(AutoModel.from_pretrained(name, **trust)(**inputs).pooler_output.shape),
    "files": sorted(os.listdir(snapshot_download(name))),
}
for how in ({}, {"revision": "fold-0"}, {"revision": "fold-1"}):
    model = AutoModelForImageClassification.from_pretrained(name, **how, **trust)
    row = pipeline("image-classification", model=name, **how, **trust)("scan.nii.gz")
    answer[how.get("revision", "main")] = [
        model.predict_proba(inputs["pixel_values"])[0, 1].item(), {r["label"]: r["score"] for r in row}["injury"]
    ]
ensemble = AutoModelForImageClassification.from_pretrained("lab/ensemble", **trust)
answer["ensemble"] = ensemble.predict_proba(inputs["pixel_values"])[0, 1].item()
answer["members"] = ensemble.predict_members(inputs["pixel_values"]).mean(dim=1)[:, 0, 1].tolist()
answer["ensemble_pipeline"] = {r["label"]: r["score"] for r in pipeline(model="lab/ensemble", **trust)("scan.nii.gz")}
for part in (ensemble, AutoImageProcessor.from_pretrained("lab/ensemble", **trust)):
    part.save_pretrained("saved")
answer["saved"] = sorted(os.listdir("saved"))
answer["saved_pipeline"] = {r["label"]: r["score"] for r in pipeline(model="saved", **trust)("scan.nii.gz")}
try:
    AutoModel.from_pretrained("lab/ensemble", **trust)
except ValueError as error:
    answer["refusal"] = str(error)
print(json.dumps(answer))
"""


@pytest.fixture(scope="module")
def published(shared_hub, finished_run, publish, tmp_path_factory):
    """All folds at lab/net, published by the command itself; the ensemble and the refit in their own repositories."""
    home = tmp_path_factory.mktemp("home")
    command = [ROOT / "publish.py", finished_run, "--hub_model_id", "lab/net", "--what", "all"]
    result = run_program(command, home, os.environ | shared_hub.environment(home))
    assert result.returncode == 0, result.stderr
    for answer in publish(
        shared_hub,
        *((finished_run, "--hub_model_id", f"lab/{what}", "--what", what) for what in ("ensemble", "refit")),
    ):
        assert answer.code == 0, answer.err
    return shared_hub, result


def test_each_branch_of_a_private_repository_gets_one_commit_with_its_weights_in_lfs(published, finished_run):
    hub, result = published
    cv = json.loads((finished_run / "cv_metrics.json").read_text())
    assert hub.messages("lab/net")[1:] == [f"Publish fold {cv['best_fold']} of 2, the best"]
    assert hub.messages("lab/net", "fold-1")[-1] == "Publish fold 1 of 2"
    assert hub.repositories["model", "lab/net"].private and "lab/net is private" in result.stdout
    weights = (finished_run / "fold-1" / "model" / "model.safetensors").read_bytes()
    assert hub.repositories["model", "lab/net"].find("fold-1")["files"]["model.safetensors"] == (
        hashlib.sha256(weights).hexdigest()
    )
    assert hub.files("lab/net", "fold-1")["model.safetensors"] == weights


def test_folds_and_ensemble_load_over_http_and_the_code_on_the_card_runs(published, finished_run, tmp_path):
    hub, _ = published
    volume = np.random.default_rng(0).normal(100, 20, (20, 30, 25)).astype(np.float32)
    nib.save(nib.Nifti1Image(volume, np.diag([-1, 1, 2, 1])), tmp_path / "scan.nii.gz")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | hub.environment(tmp_path / "hf")
    result = run_program(["-c", STRANGER], tmp_path, environment)
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout.splitlines()[-1])

    def expected(fold):
        folder = finished_run / f"fold-{fold}" / "model"
        model = GloResNetForImageClassification.from_pretrained(folder)
        pixel_values = GloResNetImageProcessor.from_pretrained(folder)(tmp_path / "scan.nii.gz", return_tensors="pt")
        return model.predict_proba(pixel_values["pixel_values"])[0, 1].item()

    folds = [expected(0), expected(1)]
    best = folds[json.loads((finished_run / "cv_metrics.json").read_text())["best_fold"]]
    assert answer["card"] == best and answer["lines"] == 5
    assert answer["main"] == [best, best]
    assert answer["fold-0"] == [folds[0]] * 2 and answer["fold-1"] == [folds[1]] * 2
    assert answer["pooler"] == [1, 320]
    assert "model.safetensors" in answer["files"] and "modeling_gloresnet.py" in answer["files"]
    assert answer["members"] == pytest.approx(folds, abs=1e-6)
    assert answer["ensemble"] == pytest.approx(np.mean(folds), abs=1e-6)
    assert answer["ensemble_pipeline"]["injury"] == answer["saved_pipeline"]["injury"] == answer["ensemble"]
    assert {*answer["saved"], ".gitattributes", "README.md"} == set(hub.files("lab/ensemble"))
    assert "ensemble of 2 networks" in answer["refusal"]


def test_nothing_that_left_names_an_infant_or_a_path(published, finished_training, finished_run):
    hub, _ = published
    sent = b"\n".join(hub.received)
    cohort = pd.read_csv(finished_run / "cohort.csv", dtype=str)
    private = [*cohort["participant_id"], *cohort["family"], *cohort["image"].map(os.path.basename)]
    private += [str(Path.home()), "predictions.csv", "participant_id"]
    private += [str(folder) for run in (finished_run, finished_training.trained) for folder in (run, run.parent)]
    assert len(private) > 30 and len(sent) > 5e7
    assert [word for word in private if word.encode() in sent] == []
    for name, revision in (("lab/net", "main"), ("lab/net", "fold-0"), ("lab/ensemble", "main"), ("lab/refit", "main")):
        for path in hub.files(name, revision):
            assert re.fullmatch(
                r"\.gitattributes|README\.md|(preprocessor_)?config\.json|\w+_gloresnet\.py|model\.safetensors", path
            )


def test_the_cards_hold_the_figures_of_all_folds(published, finished_run):
    hub, _ = published
    cv = json.loads((finished_run / "cv_metrics.json").read_text())
    cards = {
        name: hub.files(*name)["README.md"].decode()
        for name in (("lab/net", "main"), ("lab/net", "fold-1"), ("lab/ensemble", "main"), ("lab/refit", "main"))
    }
    for (name, branch), card in cards.items():
        metadata = yaml.safe_load(card.split("---")[1])
        results = metadata["model-index"][0]["results"]
        splits = {result["dataset"]["split"]: result["metrics"] for result in results}
        own = {f"fold{cv['best_fold']}"} if (name, branch) == ("lab/net", "main") else set()
        own = {"fold1"} if branch == "fold-1" else own
        assert set(splits) == {"cross-validation"} | own
        mean = next(m["value"] for m in splits["cross-validation"] if m["type"] == "roc_auc")
        assert mean == pytest.approx(cv["mean_sd"]["auc"]["mean"], abs=1e-4)
        pooled = cv["report"]["thresholds"]["0.5"]["metrics"]["auc"]
        shown = f"{pooled['estimate']:.3f} ({pooled['low']:.3f} to {pooled['high']:.3f})"
        assert f"| **pooled** | 12 (6) | {shown} |" in card
        assert f'name = "{name}"' in card and "{{" not in card and "{%" not in card
        assert "| Male | 6 (100.0 %) | 0 (0.0 %) |" in card and "core-hours" in card
    assert 'revision="fold-1"' in cards["lab/net", "fold-1"] and "(this model)" in cards["lab/net", "fold-1"]
    assert "the best: highest AUC of 2 folds" in cards["lab/net", "main"]
    assert "These figures estimate **a single member**, not this ensemble" in cards["lab/ensemble", "main"]
    assert "All 12 scans, none held out" in cards["lab/refit", "main"]
    # the cards in the run folder are updated too
    assert "**pooled**" in (finished_run / "fold-0" / "model" / "README.md").read_text()


def test_publishing_again_updates_our_files_and_keeps_the_others(finished_run, hub, publish, tmp_path):
    hub.add("lab/net", {"LICENSE": b"theirs", "old_gloresnet.py": b"ours, from before", "model.safetensors": b"old"})
    call = (finished_run, "--hub_model_id", "lab/net")
    fold = 1 - json.loads((finished_run / "cv_metrics.json").read_text())["best_fold"]
    first, second, other = publish(hub, call, call, (*call, "--fold", fold, "--commit_message", "The other"))
    assert first.code == second.code == other.code == 0, (first, second, other)
    assert "lab/net exists and stays public" in first.out
    assert "nothing has changed, so no commit was made" in second.out
    assert hub.messages("lab/net")[-1] == "The other" and len(hub.messages("lab/net")) == 4
    files = hub.files("lab/net")
    assert files["LICENSE"] == b"theirs" and "old_gloresnet.py" not in files and len(files["model.safetensors"]) > 1e6
    assert hub.count("PUT /lfs/") == 2


def test_a_converted_file_is_sent_along_and_removed_with_the_next_publication(finished_run, hub, publish):
    call = (finished_run, "--hub_model_id", "lab/net", "--fold", 0)
    files = [finished_run / "fold-0" / name for name in ("model.xml", "model.bin")]
    try:
        (absent,) = publish(hub, (*call, "--export", "openvino"))
        for file in files:
            file.write_bytes(b"/model/stem/Conv")  # names of layers look like paths
        (sent,) = publish(hub, (*call, "--export", "openvino"))
        assert hub.files("lab/net")["model.bin"] == b"/model/stem/Conv"
        files[0].write_text(f"<net>{private_words(finished_run)[0]}</net>")
        leaking, again = publish(hub, (*call, "--export", "openvino"), call)
    finally:
        for file in files:
            file.unlink(missing_ok=True)
    assert absent.code == 2 and "model.xml is missing: run python -m publishing.convert" in absent.err
    assert (sent.code, again.code) == (0, 0), (sent, again)
    assert leaking.code == 1 and "model.xml holds" in leaking.err
    assert "model.xml" not in hub.files("lab/net") and "config.json" in hub.files("lab/net")


def test_an_ensemble_is_kept_until_a_fold_changes(finished_run):
    """So that a converted file of it, which must not be older, can be published."""
    (release,) = prepare_releases(finished_run, "lab/net", "ensemble")
    written = (release.folder / "config.json").stat().st_mtime_ns
    prepare_releases(finished_run, "lab/net", "ensemble")
    assert (release.folder / "config.json").stat().st_mtime_ns == written
    os.utime(finished_run / "fold-1" / "model" / "model.safetensors")  # as if this fold had been trained again
    prepare_releases(finished_run, "lab/net", "ensemble")
    assert (release.folder / "config.json").stat().st_mtime_ns > written


def test_interrupted_uploads_continue_without_sending_weights_twice(finished_run, hub, publish):
    call = (finished_run, "--hub_model_id", "lab/net")
    hub.fail("PUT /lfs", "drop")  # huggingface_hub itself retries this request
    hub.fail("POST .*/commit", "drop")
    hub.fail("POST .*/commit", 503)
    dropped, busy, done = publish(hub, call, call, call)
    assert dropped.code == 1 and "The Hub cannot be reached" in dropped.err and dropped.err.count("publish.py:") == 1
    assert busy.code == 1 and "busy or out of order (HTTP 503" in busy.err
    assert done.code == 0 and len(hub.messages("lab/net")) == 2
    assert hub.count("PUT /lfs/.* 200") == 1


def test_a_killed_upload_is_completed_by_the_same_command(finished_run, hub, publish, tmp_path):
    call = [ROOT / "publish.py", finished_run, "--hub_model_id", "lab/net", "--what", "all"]
    process = Program(call, tmp_path, os.environ | hub.environment(tmp_path))
    while process.poll() is None and not hub.count("PUT /lfs"):
        time.sleep(0.01)
    process.kill()
    process.wait()
    (done,) = publish(hub, call[1:])
    assert done.code == 0, done.err
    assert set(hub.repositories["model", "lab/net"].branches) == {"main", "fold-0", "fold-1"}


def test_every_refusal_of_the_hub_gives_one_sentence(finished_run, hub, publish):
    hub.add("lab/table", {"a.csv": b"1"}, kind="dataset")
    hub.add("them/net", {"README.md": b"theirs"})
    calls = [(finished_run, "--hub_model_id", name) for name in ("them/new", "them/net", "lab/table")]
    calls += [
        (finished_run, "--hub_model_id", "no-slash"),
        ("token=hf_wrong", finished_run, "--hub_model_id", "lab/new"),
    ]
    expected = [
        "may not write to the model them/new",
        "may not write to the model them/net",
        "a conflict for lab/table",
    ]
    expected += ["'no-slash' is not the name of a Hub repository", "does not know this token"]
    for answer, words in zip(publish(hub, *calls), expected, strict=True):
        assert answer.code == (2 if "no-slash" in words else 1)
        assert words in answer.err and "Traceback" not in answer.err
    assert hub.files("them/net")["README.md"] == b"theirs"
    (answer,) = publish(hub, (finished_run, "--hub_model_id", "lab/new"), HF_ENDPOINT="http://127.0.0.1:9")
    assert answer.code == 1 and "cannot be reached at http://127.0.0.1:9" in answer.err
    assert ("model", "lab/new") not in hub.repositories


def test_unpublishable_runs_are_refused_before_anything_is_sent(finished_run, hub, publish, tmp_path):
    partial, foreign = tmp_path / "partial", tmp_path / "foreign"
    copied = functools.partial(shutil.copytree, finished_run, ignore=shutil.ignore_patterns("checkpoints"))
    copied(partial)
    shutil.rmtree(partial / "fold-1")
    shutil.rmtree(partial / "refit")
    copied(foreign)
    (foreign / "fold-0" / "model" / "predictions.csv").write_text("participant_id\n")
    where = ("--hub_model_id", "lab/net")
    named, fine, *wrong = publish(
        hub,
        (foreign, *where, "--fold", "0"),
        (partial, *where, "--fold", "0"),
        (partial, *where),
        (partial, *where, "--fold", "1"),
        (tmp_path / "nowhere", *where),
        (finished_run, *where, "--fold", "1", "--what", "all"),
        (finished_run, *where, "--commit_message", f"of {pd.read_csv(finished_run / 'cohort.csv')['family'][0]}"),
    )
    assert named.code == 1 and "holds predictions.csv, which does not belong in a model repository" in named.err
    assert fine.code == 0, fine.err  # one finished fold can be published, with only its own figures
    assert "cross-validation" not in hub.files("lab/net")["README.md"].decode().split("---")[1]
    words = ("fold-1/predictions.csv missing", "has no finished fold 1", "does not exist", "give only one of them")
    for answer, said in zip(wrong[:4], words, strict=True):
        assert answer.code == 2 and said in answer.err and "Traceback" not in answer.err
    assert wrong[4].code == 1 and "The commit message holds" in wrong[4].err
    assert len(hub.messages("lab/net")) == 2


def test_predict_loads_the_ensemble_like_any_other_model(published, finished_run, tmp_path):
    scan = next(Path(pd.read_csv(finished_run / "cohort.csv")["image"][0]).parent.glob("*_T2w.nii.gz"))
    call = [ROOT / "predict.py", scan, "--model", finished_run / "ensemble" / "model", "--output", "out.csv"]
    call += ["--dtype", "float32"]  # auto might choose bfloat16
    result = run_program(call, tmp_path, os.environ, PROJECT)
    assert result.returncode == 0, result.stderr
    pixel_values = GloResNetImageProcessor(image_size=16)(scan, return_tensors="pt")["pixel_values"]
    members = [
        GloResNetForImageClassification.from_pretrained(finished_run / f"fold-{k}" / "model").predict_proba(
            pixel_values
        )
        for k in (0, 1)
    ]
    row = pd.read_csv(tmp_path / "out.csv").iloc[0]
    assert row["p_injury"] == pytest.approx(float(sum(members)[0, 1]) / 2, abs=1e-6)


def test_a_damaged_model_is_not_published(finished_run, tmp_path):
    run = shutil.copytree(finished_run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    weights = run / "fold-0" / "model" / "model.safetensors"
    tensors = load_file(weights)
    save_file({name: tensor for name, tensor in tensors.items() if "classifier" not in name}, weights, {"format": "pt"})
    for what, fold in (("best", 0), ("ensemble", None), ("all", None)):
        with pytest.raises(InputError, match="fold-0/model cannot be loaded: .* 2 are missing .*classifier.weight"):
            prepare_releases(run, "lab/net", what, fold)
