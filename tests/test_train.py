"""train.py as a user runs it, on tiny volumes."""

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from sklearn.metrics import accuracy_score, roc_auc_score

import train as train_script
from machine.cores import available_cores
from modeling_gloresnet import GloResNetForImageClassification
from preprocessing import GloResNetImageProcessor
from screening.out_of_distribution import DESCRIPTORS
from tests.programs import SMALL, exit_status, run_train, start_train
from training.recipe import load_recipe

ROOT = Path(__file__).parent.parent


def arguments(cohort, run, *flags):
    return ["--data_dir", str(cohort), "--output_dir", str(run), *SMALL, *flags]


def train(cohort, run, *flags):
    return run_train(arguments(cohort, run, *flags), cwd=run.parent)


@pytest.fixture
def finished(finished_training):
    """Both folds of a small run, and its training."""
    return finished_training.run, finished_training


def test_the_run_folder_holds_every_documented_file(finished):
    run, result = finished
    for name in ("splits.json", "recipe.yaml", "environment.json", "cohort.csv", "cv_metrics.json", "report.html"):
        assert (run / name).is_file(), name
    for fold in (0, 1):
        for name in ("predictions.csv", "metrics.json", "history.csv", "model/model.safetensors", "model/README.md"):
            assert (run / f"fold-{fold}" / name).is_file(), name
        assert {p.name for p in (run / f"fold-{fold}" / "checkpoints").iterdir()} == {"epoch-001", "epoch-002"}
    assert "\n11 families, 1 sibling pairs\n" in result.stdout
    assert "fold 0: n " in result.stdout and "all 2 folds, pooled out-of-fold: n 12, AUC" in result.stdout
    assert yaml.safe_load((run / "recipe.yaml").read_text())["num_threads"] == available_cores()
    history = pd.read_csv(run / "fold-0" / "history.csv")
    assert history["epoch"].tolist() == [1, 2] and history["selected"].tolist() == [0, 1]
    # cosine schedule from 2e-3 (the paper's value) to 1e-6 in two epochs: halfway after the first
    assert history["learning_rate"].tolist() == pytest.approx([2e-3, (2e-3 + 1e-6) / 2])


def test_every_scan_is_predicted_once_by_a_fold_that_never_saw_its_family(finished):
    run, _ = finished
    predictions = pd.concat(pd.read_csv(run / f"fold-{k}" / "predictions.csv") for k in (0, 1))
    assert list(predictions.columns) == [
        *("participant_id", "session_id", "family", "fold"),
        *("label", "radiology_score", "p_injury", "p_injury_no_tta"),
    ]
    cohort = pd.read_csv(run / "cohort.csv")
    assert sorted(predictions["participant_id"]) == sorted(cohort["participant_id"])
    assert predictions.groupby("family")["fold"].nunique().max() == 1
    assert predictions["label"].tolist() == (predictions["radiology_score"] >= 3).astype(int).tolist()


def test_predictions_are_those_of_the_exported_model(finished, shared_tiny_cohort):
    run, _ = finished
    model = GloResNetForImageClassification.from_pretrained(run / "fold-1" / "model")
    processor = GloResNetImageProcessor.from_pretrained(run / "fold-1" / "model")
    assert model.config.provenance["fold"] == 1
    assert set(model.config.training_appearance) == {*DESCRIPTORS, "longest_edge_mm"}
    assert model.config.training_appearance["longest_edge_mm"] == [0.5, 0.5]
    for row in pd.read_csv(run / "fold-1" / "predictions.csv", dtype={"session_id": str}).itertuples():
        scan = next((shared_tiny_cohort / f"sub-{row.participant_id}").glob("ses-1/anat/*_T2w.nii.gz"))
        volume = processor(scan, return_tensors="pt")["pixel_values"]
        assert model.predict_proba(volume)[0, 1].item() == pytest.approx(row.p_injury, abs=1e-6)
        assert model.predict_proba(volume, False)[0, 1].item() == pytest.approx(row.p_injury_no_tta, abs=1e-6)


def test_metrics_follow_from_the_predictions(finished):
    run, training = finished
    predictions = pd.concat(pd.read_csv(run / f"fold-{k}" / "predictions.csv") for k in (0, 1))
    pooled = json.loads((run / "cv_metrics.json").read_text())["pooled"]
    assert pooled["auc"] == pytest.approx(roc_auc_score(predictions["label"], predictions["p_injury"]))
    assert pooled["accuracy"] == pytest.approx(accuracy_score(predictions["label"], predictions["p_injury"] >= 0.5))
    card = (run / "fold-0" / "model" / "README.md").read_text()
    fold = json.loads((run / "fold-0" / "metrics.json").read_text())
    assert f"| ROC AUC | {fold['auc']:.3f} |" in card and "dataset_split" not in card.split("---")[2]
    assert str(training.trained) not in card and "CC00" not in card


def test_a_finished_run_is_not_trained_again_and_other_settings_are_refused(finished, shared_tiny_cohort):
    run, _ = finished
    before = (run / "fold-0" / "metrics.json").stat().st_mtime_ns
    again = train(shared_tiny_cohort, run)
    assert again.returncode == 0 and "fold 1: n " in again.stdout
    assert (run / "fold-0" / "metrics.json").stat().st_mtime_ns == before
    other = train(shared_tiny_cohort, run, "--learning_rate", "1e-4")
    assert other.returncode == 2
    assert "learning_rate: 0.0001, not 0.002" in other.stderr and "--overwrite" in other.stderr
    assert "Traceback" not in other.stderr


def test_overwrite_starts_a_new_run_and_keeps_other_files(tiny_cohort, tmp_path):
    run = tmp_path / "run"
    assert train(tiny_cohort, run, "--fold", "0").returncode == 0
    (run / "notes.txt").write_text("mine")
    result = train(tiny_cohort, run, "--fold", "1", "--learning_rate", "1e-4", "--overwrite")
    assert result.returncode == 0, result.stderr
    assert not (run / "fold-0").exists() and (run / "fold-1" / "metrics.json").is_file()
    assert (run / "notes.txt").read_text() == "mine"


def test_a_folder_with_other_files_is_refused(tiny_cohort, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("years")
    result = train(tiny_cohort, tmp_path / "home")
    assert result.returncode == 2 and "is not empty and holds no run" in result.stderr
    assert [p.name for p in (tmp_path / "home").iterdir()] == ["thesis.txt"]


def test_a_run_killed_at_any_moment_continues_to_the_same_bytes(finished, shared_tiny_cohort, tmp_path):
    reference = (finished[0] / "fold-0" / "predictions.csv").read_bytes()
    run = tmp_path / "run"
    chance = random.Random(0)
    for _ in range(2):
        process = start_train(arguments(shared_tiny_cohort, run, "--fold", "0"), cwd=tmp_path)
        try:
            process.wait(timeout=finished[1].seconds / 3 * chance.uniform(0.1, 0.9))  # it trained three folds
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    result = train(shared_tiny_cohort, run, "--fold", "0")
    assert result.returncode == 0, result.stderr
    assert (run / "fold-0" / "predictions.csv").read_bytes() == reference


@pytest.mark.parametrize("moment", ["after_first_epoch", "half_a_checkpoint", "before_metrics"])
def test_every_kind_of_unfinished_run_continues_to_the_same_bytes(finished, shared_tiny_cohort, tmp_path, moment):
    reference = (finished[0] / "fold-0" / "predictions.csv").read_bytes()
    run = tmp_path / "run"
    if moment == "before_metrics":
        shutil.copytree(finished[0], run, ignore=shutil.ignore_patterns("refit"))
        (run / "fold-0" / "metrics.json").unlink()
        shutil.rmtree(run / "fold-0" / "model")
    else:
        process = start_train(arguments(shared_tiny_cohort, run, "--fold", "0"), cwd=tmp_path)
        checkpoints = run / "fold-0" / "checkpoints"
        while process.poll() is None and not (checkpoints / "epoch-001").is_dir():
            time.sleep(0.005)
        process.kill()
        process.wait()
        assert (checkpoints / "epoch-001").is_dir() or (checkpoints / "epoch-002").is_dir()
        if moment == "half_a_checkpoint":
            (checkpoints / ".epoch-002.partial").mkdir(exist_ok=True)
            (checkpoints / ".epoch-002.partial" / "model.safetensors").write_bytes(b"half")
    result = train(shared_tiny_cohort, run, "--fold", "0")
    assert result.returncode == 0, result.stderr
    assert (run / "fold-0" / "predictions.csv").read_bytes() == reference
    assert not list(run.glob("fold-0/**/.*partial*"))


@pytest.mark.parametrize("checkpoints", [0.7, 1.5])
def test_a_full_disk_is_one_sentence_and_the_same_command_continues(
    finished, shared_tiny_cohort, small_disk, checkpoints
):
    """The disk has room for the weights and a part of the state of AdamW, or for one checkpoint of two."""
    reference = finished[0] / "fold-0"
    size = sum(file.stat().st_size for file in (reference / "checkpoints" / "epoch-002").iterdir())
    run = small_disk(int(checkpoints * size)) / "run"
    full = train(shared_tiny_cohort, run, "--fold", "0")
    assert full.returncode == 1 and "Traceback" not in full.stderr
    assert f"epoch-00{int(checkpoints) + 1} could not be written" in full.stderr and "disk" in full.stderr
    assert len(list((run / "fold-0" / "checkpoints").glob("*"))) == int(checkpoints)
    small_disk(10 * size)
    result = train(shared_tiny_cohort, run, "--fold", "0")
    assert result.returncode == 0, result.stderr
    for name in ("predictions.csv", "model/model.safetensors"):
        assert (run / "fold-0" / name).read_bytes() == (reference / name).read_bytes()


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_two_processes_share_the_batches_and_predict_every_scan_once(shared_tiny_cohort, tmp_path):
    run = tmp_path / "run"
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", "2", f"--master_port={free_port()}"]
    flags = ["--fold", "0", "--num_threads", "1", "--per_device_train_batch_size", "2"]
    call = [sys.executable, *launcher, str(ROOT / "train.py"), *arguments(shared_tiny_cohort, run, *flags)]
    result = subprocess.run(
        call, capture_output=True, text=True, cwd=tmp_path, env=os.environ | {"ACCELERATE_USE_CPU": "true"}
    )
    assert result.returncode == 0, result.stderr
    assert json.loads((run / "environment.json").read_text())["num_processes"] == 2
    predictions = pd.read_csv(run / "fold-0" / "predictions.csv")
    scored = json.loads((run / "splits.json").read_text())["participants"]
    assert sorted(predictions["participant_id"]) == sorted(k for k, v in scored.items() if v["fold"] == 0)
    assert predictions["participant_id"].is_unique
    alone = train(shared_tiny_cohort, run, *flags)
    assert alone.returncode == 2 and "number of processes: 1, not 2" in alone.stderr


def test_a_diverging_run_stops_and_keeps_its_last_good_checkpoint(shared_tiny_cohort, tmp_path):
    run = tmp_path / "run"
    result = train(shared_tiny_cohort, run, "--fold", "0", "--learning_rate", "1e30", "--num_train_epochs", "50")
    assert result.returncode == 1
    assert "Training diverged" in result.stderr and "--learning_rate below 1e+30" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (run / "fold-0" / "metrics.json").exists()


@pytest.mark.parametrize("rule", ["inner", "paper"])
def test_selection_rules(shared_tiny_cohort, tmp_path, rule):
    run = tmp_path / "run"
    result = train(
        shared_tiny_cohort, run, "--fold", "0", "--selection", rule, "--num_train_epochs", "4", "--num_folds", "3"
    )
    assert result.returncode == 0, result.stderr
    metrics = json.loads((run / "fold-0" / "metrics.json").read_text())
    history = pd.read_csv(run / "fold-0" / "history.csv")
    column = history["inner_loss"].idxmin() if rule == "inner" else history["val_accuracy"].idxmax()
    assert metrics["selected_epoch"] == history["epoch"][column]
    model = GloResNetForImageClassification.from_pretrained(run / "fold-0" / "model")
    if rule == "inner":
        assert model.config.temperature == pytest.approx(metrics["inner"]["temperature"])
        assert metrics["inner"]["n"] + metrics["train_scans"] + metrics["n"] == 12
    else:
        assert "optimistic" in result.stdout and "Optimistic" in (run / "fold-0" / "model" / "README.md").read_text()
        assert model.config.temperature == 1


def test_options_of_the_recipe_reach_the_training(shared_tiny_cohort, tmp_path):
    run = tmp_path / "run"
    flags = "--fold 0 --mixed_precision bf16 --gradient_accumulation_steps 2 --gradient_checkpointing"
    result = train(shared_tiny_cohort, run, *flags.split(), "--brain_mask", "required", "--report_to", "tensorboard")
    assert result.returncode == 0, result.stderr
    assert list((run / "fold-0").rglob("events.out.tfevents*"))
    assert GloResNetImageProcessor.from_pretrained(run / "fold-0" / "model").brain_mask == "required"
    assert GloResNetForImageClassification.from_pretrained(run / "fold-0" / "model").dtype == torch.float32


@pytest.mark.parametrize(
    ("flags", "kept"),
    [
        ([], True),
        (["--gradient_checkpointing"], False),
        (["--freed_memory", "return"], False),
        (["--freed_memory", "keep", "--gradient_checkpointing"], True),
    ],
)
def test_freed_memory_is_kept_unless_memory_is_to_be_saved(flags, kept):
    options, settings = train_script.parse_arguments(flags)
    assert train_script.keeps_freed_memory(options.freed_memory, load_recipe("demo", **settings)) == kept


def test_unreadable_scans_are_counted_and_listed(tiny_cohort, tmp_path):
    broken = sorted(tiny_cohort.glob("sub-*/ses-1/anat/*_T2w.nii.gz"))[3]
    broken.write_bytes(broken.read_bytes()[:200])
    run = tmp_path / "run"
    result = train(tiny_cohort, run, "--fold", "0")
    assert result.returncode == 0, result.stderr
    assert "1 unreadable" in result.stdout
    cohort = pd.read_csv(run / "cohort.csv")
    assert cohort["status"].value_counts().to_dict() == {"used": 11, "unreadable": 1}
    assert broken.name in cohort.loc[cohort["status"] == "unreadable", "reason"].item()


def test_one_session_with_several_images_is_counted_or_chosen_by_run(tiny_cohort, tmp_path):
    image = sorted(tiny_cohort.glob("sub-*/ses-1/anat/*_T2w.nii.gz"))[3]
    stem = image.name.split("_desc-")[0]
    for number in (1, 2):
        shutil.copyfile(image, image.with_name(f"{stem}_run-{number}_desc-restore_T2w.nii.gz"))
    image.unlink()
    counted, chosen = tmp_path / "counted", tmp_path / "chosen"
    result = train(tiny_cohort, counted, "--fold", "0")
    assert result.returncode == 0 and "1 several images, 11 used" in result.stdout
    result = train(tiny_cohort, chosen, "--fold", "0", "--run", "2")
    assert result.returncode == 0 and "12 found, 12 labelled, 12 used" in result.stdout
    images = pd.read_csv(chosen / "cohort.csv")["image"].map(lambda path: Path(path).name)
    assert f"{stem}_run-2_desc-restore_T2w.nii.gz" in set(images)
    assert json.loads((chosen / "environment.json").read_text())["source"]["run"] == "2"
    for flags, difference in (((), "run: None, not '2'"), (("--run", "1"), "run: '1', not '2'")):
        result = train(tiny_cohort, chosen, "--fold", "0", *flags)
        assert result.returncode == 2 and difference in result.stderr


def test_a_changed_scan_is_noticed(finished, shared_tiny_cohort, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished[0], run, ignore=shutil.ignore_patterns("checkpoints"))
    splits = json.loads((run / "splits.json").read_text())
    subject, entry = next(iter(splits["participants"].items()))
    entry["sessions"]["1"]["sha256"] = "0" * 64  # as if the file had been different when the folds were assigned
    (run / "splits.json").write_text(json.dumps(splits))
    result = train(shared_tiny_cohort, run, "--fold", "1")
    assert result.returncode == 1 and subject in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--fold", "5"], "There is no fold 5 of 2"),
        (["--fold", "one"], "--fold is one"),
        (["--phantom", "clear"], "give only one of them"),
        (["--recipe", "nowhere"], "There is no recipe nowhere"),
        (["--image_size", "8"], "image_size is 8: it must be from 16 to 512"),
        (["--mixed_precision", "fp16"], "needs a CUDA GPU"),
        (["--mixed_precision", "tf32"], "mixed_precision tf32 needs a CUDA GPU"),
        (["--labels", "nowhere.csv"], "--labels nowhere.csv is not a file"),
        (["--report_to", "wandb"], "needs its package: pip install wandb"),
    ],
)
def test_wrong_calls_print_one_sentence_and_exit_2(shared_tiny_cohort, tmp_path, flags, message, capsys):
    assert exit_status(train_script.main, arguments(shared_tiny_cohort, tmp_path / "run", *flags)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_an_empty_folder_and_missing_weights_fail_with_one_sentence(tmp_path, shared_tiny_cohort):
    (tmp_path / "empty").mkdir()
    result = train(tmp_path / "empty", tmp_path / "run")
    assert result.returncode == 1 and "Traceback" not in result.stderr
    flags = ["--architecture", "resnet10", "--init", "nowhere.pth"]
    result = train(shared_tiny_cohort, tmp_path / "other", *flags)
    assert result.returncode == 1 and "no MedicalNet weights at nowhere.pth" in result.stderr
