"""train.py and the Hub: --refit, --push_to_hub, and MedicalNet's weights over HTTP."""

import os
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch

import train as train_script
from modeling_gloresnet import MEDICALNET, GloResNetConfig, GloResNetForImageClassification, GloResNetModel
from tests.programs import SMALL, exit_status, run_program, run_train

ROOT = Path(__file__).parent.parent


def arguments(cohort, run, *flags):
    return ["--data_dir", str(cohort), "--output_dir", str(run), *SMALL, *flags]


def train_with(environment, cohort, run, *flags):
    return run_program([ROOT / "train.py", *arguments(cohort, run, *flags)], run.parent, os.environ | environment)


def weights(folder):
    return GloResNetForImageClassification.from_pretrained(folder).state_dict()


def test_the_refit_trains_on_all_scans_and_continues_where_it_stopped(finished_run, shared_tiny_cohort, tmp_path):
    folder = finished_run / "refit"
    config = GloResNetConfig.from_pretrained(folder / "model")
    assert config.provenance["fold"] == "refit" and config.provenance["train_scans"] == 12
    history = pd.read_csv(folder / "history.csv")
    assert history["epoch"].tolist() == [1, 2] and "val_auc" not in history
    assert not (folder / "predictions.csv").exists() and not (folder / "metrics.json").exists()
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    shutil.rmtree(run / "refit" / "model")  # as if killed between the last checkpoint and the export
    again = run_train(arguments(shared_tiny_cohort, run, "--refit"), tmp_path)
    assert again.returncode == 0 and "refit on all 12 scans" in again.stdout, again.stderr
    before, after = weights(folder / "model"), weights(run / "refit" / "model")
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert "All 12 scans, none held out" in (run / "refit" / "model" / "README.md").read_text()


def test_training_publishes_the_requested_fold_or_the_refit(finished_run, shared_tiny_cohort, hub, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run, ignore=shutil.ignore_patterns("checkpoints"))
    for flags, message in (
        (["--fold", "1"], "Publish fold 1 of 2"),
        (["--refit"], "Publish the network trained on all scans"),
    ):
        push = ["--push_to_hub", "--hub_model_id", "lab/net", *flags]
        result = train_with(hub.environment(tmp_path / "home"), shared_tiny_cohort, run, *push)
        assert result.returncode == 0, result.stderr
        assert hub.messages("lab/net")[-1] == message and message in result.stdout


def test_a_failed_push_keeps_the_run_and_says_how_to_repeat_it(finished_run, shared_tiny_cohort, hub, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run, ignore=shutil.ignore_patterns("checkpoints"))
    push = ["--push_to_hub", "--hub_model_id", "them/net"]
    result = train_with(hub.environment(tmp_path / "home"), shared_tiny_cohort, run, *push)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert "may not write to the model them/net" in result.stderr
    assert f"python publish.py {run} --hub_model_id them/net --what best" in result.stderr
    assert (run / "fold-0" / "metrics.json").is_file() and (run / "report.html").is_file()


@pytest.mark.parametrize(
    ("flags", "message", "token"),
    [
        (["--push_to_hub"], "are needed together", "x"),
        (["--hub_model_id", "lab/net"], "are needed together", "x"),
        (["--push_to_hub", "--hub_model_id", "net"], "give ORG/NAME", "x"),
        (["--push_to_hub", "--hub_model_id", "lab/net"], "no Hub token", ""),
        (["--refit", "--fold", "1"], "leave out --fold", "x"),
        (["--refit", "--selection", "paper"], "--refit trains on all scans, so --selection paper has none left", "x"),
    ],
)
def test_wrong_calls_stop_before_training(shared_tiny_cohort, tmp_path, flags, message, token, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", token)
    call = arguments(shared_tiny_cohort, tmp_path / "run", *flags)
    assert exit_status(train_script.main, call) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


FETCH = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
from modeling_gloresnet import MEDICALNET, GloResNetForImageClassification
model = GloResNetForImageClassification.from_medicalnet(MEDICALNET)
print(model.gloresnet.layer4[0].conv2.weight.double().sum().item(), model.gloresnet.stem.conv1.weight.mean().item())
try:
    GloResNetForImageClassification.from_medicalnet("lab/empty")
except FileNotFoundError as error:
    print(error)
"""


def test_medicalnet_weights_are_downloaded(shared_tiny_cohort, hub, tmp_path):
    torch.manual_seed(0)
    encoder = GloResNetModel(GloResNetConfig())
    state = {f"module.{name.removeprefix('stem.')}": value for name, value in encoder.state_dict().items()}
    state["module.conv_seg.0.weight"] = torch.zeros(2, 2)
    torch.save({"state_dict": state, "epoch": 1}, tmp_path / "weights.pth")
    hub.add(MEDICALNET, {"resnet_10_23dataset.pth": (tmp_path / "weights.pth").read_bytes(), "README.md": b"-"})
    hub.add("lab/empty", {"README.md": b"-"})
    environment = os.environ | hub.environment(tmp_path / "home")
    result = run_program(["-c", FETCH, ROOT], tmp_path, environment)
    assert result.returncode == 0, result.stderr
    total, mean = map(float, result.stdout.splitlines()[0].split())
    assert total == pytest.approx(encoder.layer4[0].conv2.weight.double().sum().item(), rel=1e-9)
    assert mean == pytest.approx(encoder.stem.conv1.weight.mean().item(), rel=1e-6)
    assert "resnet_10_23dataset.pth is unavailable in the Hub repository lab/empty" in result.stdout

    # MedicalNet weights at the start; the file is downloaded once, and at this learning rate the weights hardly change
    run = tmp_path / "run"
    flags = ["--fold", "0", "--architecture", "resnet10", "--init", "medicalnet", "--learning_rate", "1e-6"]
    result = train_with(hub.environment(tmp_path / "home"), shared_tiny_cohort, run, *flags)
    assert result.returncode == 0, result.stderr
    assert hub.count("GET /TencentMedicalNet/.*pth 200") == 1
    trained = GloResNetForImageClassification.from_pretrained(run / "fold-0" / "model").gloresnet
    assert torch.allclose(trained.layer4[0].conv2.weight, encoder.layer4[0].conv2.weight, atol=1e-4)
    assert "MedicalNet's ResNet-10" in (run / "fold-0" / "model" / "README.md").read_text()
