"""Damaged run folders: every program that reads one answers with one sentence, at once.

`FUZZ_MUTANTS=3000` in the environment tries more mutations.
"""

import dataclasses
import json
import os
import random
import shutil
import signal

import pytest
import yaml

import app
import train as train_script
from evaluation.external import read_external
from evaluation.metrics import write_cv_metrics
from evaluation.optimism import audit_optimism
from evaluation.records import CARD, read_environment, read_history, read_metrics, read_pooled, read_recipe
from evaluation.study import read_run
from explanation.embedding import main as embedding
from machine.programs import run_program
from publishing.leaks import private_words
from publishing.release import prepare_releases
from replication.measured import epochs_to_converge
from run_folder.files import InputError
from run_folder.layout import RunFolder
from tests.programs import SMALL
from training.recipe import load_recipe

CALLS = {  # program -> the files whose damage it must notice or survive
    "report": (
        *("environment.json", "splits.json", "recipe.yaml", "cohort.csv", "fold-0/metrics.json"),
        "fold-0/model/config.json",
    ),
    "publish": ("environment.json", "splits.json", "recipe.yaml", "fold-0/metrics.json", "fold-0/model/config.json"),
    "resume": ("environment.json", "splits.json", "recipe.yaml", "fold-0/metrics.json", "cv_metrics.json"),
    "page": ("cv_metrics.json", "fold-0/metrics.json"),
    "reproduce": ("fold-0/history.csv", "fold-0/predictions.csv"),
    "external": ("fold-0/model/config.json", "fold-0/metrics.json"),
    "embedding": ("recipe.yaml",),
}
VALUES = [None, "gone", -1, 10**9, 1.5, "x", [], {}, True, [None], {"a": None}]
CELLS = ["", "nan", "-1", "1e9", "inf", "x", "9" * 24]
WHOLE = ["folder", "loop", "queue", "missing", b"", bytes(range(256)), b'{"a": ' + b"[" * 10_000, b"a: &a [x]\nb: *a\n"]


@pytest.fixture
def run(finished_run, tmp_path):
    """A copy of a finished run, without its checkpoints and pictures."""
    leave_out = shutil.ignore_patterns("checkpoints", "figures", "*.safetensors")
    return RunFolder(shutil.copytree(finished_run, tmp_path / "runs" / "run", ignore=leave_out))


def places(content, above=(), levels=3):
    """The path of every value in a JSON object, to some depth; of lists, the first."""
    yield above
    if levels and isinstance(content, dict | list):
        entries = content.items() if isinstance(content, dict) else enumerate(content[:1])
        for key, value in list(entries)[:40]:
            yield from places(value, (*above, key), levels - 1)


def mutated(path, rng):
    """The content of a file with one seeded change."""
    if rng.random() < 0.15:
        return rng.choice(WHOLE)
    text = path.read_text()
    if path.suffix == ".csv":
        rows = [line.split(",") for line in text.splitlines()]
        rows[rng.randrange(len(rows))][rng.randrange(len(rows[0]))] = rng.choice(CELLS)
        return "".join(",".join(row) + "\n" for row in rows).encode()
    read, write = (json.loads, json.dumps) if path.suffix == ".json" else (yaml.safe_load, yaml.safe_dump)
    content = read(text)
    *above, last = rng.choice([place for place in places(content) if place])
    inner = content
    for key in above:
        inner = inner[key]
    if (value := rng.choice(VALUES)) == "gone":
        del inner[last]
    else:
        inner[last] = value
    return write(content).encode()


def put(path, content):
    path.unlink()
    if content == "folder":
        path.mkdir()
    elif content == "loop":
        path.symlink_to(path.name)
    elif content == "queue":
        os.mkfifo(path)
    elif content != "missing":
        path.write_bytes(content)


def call(program, run, cohort, output):
    """Run the part of a program that reads a run folder, and return its exit status."""

    def report():
        study = read_run(run.path)
        audit_optimism(study.histories, study.fold_metrics)
        write_cv_metrics(run.path)

    def external():
        (output / "p.csv").write_text("scan,p_injury,p_injury_no_tta,status,message\nsub-1.nii,0.5,0.5,ok,\n")
        (output / "l.csv").write_text("participant_id,label\n1,1\n")
        read_external(output / "p.csv", output / "l.csv", run.fold(0).model)

    def publish():
        prepare_releases(run.path, "org/name", "best")
        private_words(run.path)

    jobs = {
        "report": report,
        "external": external,
        "publish": publish,
        "page": lambda: app.newest_model(),
        "reproduce": lambda: (epochs_to_converge(run), read_run(run.path)),
    }
    if program == "resume":
        return train_script.main(["--data_dir", str(cohort), "--output_dir", str(run), *SMALL, "--refit"])
    if program == "embedding":
        return embedding([str(run), "--init", "random", "--output", str(output / "features.csv")])
    return run_program(program, lambda: jobs[program]() and None, failed=(InputError,))


def test_mutations_of_a_run_folder_are_one_sentence(run, shared_tiny_cohort, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pairs = [(program, name) for program, names in CALLS.items() for name in names]
    original = shutil.copytree(run.path, tmp_path / "original")
    refused = 0
    monkeypatch.setattr(train_script, "train_fold", lambda *_: pytest.fail("a fold was trained"))
    for number in range(int(os.environ.get("FUZZ_MUTANTS", "88"))):
        rng = random.Random(number)
        program, name = pairs[number % len(pairs)]
        shutil.rmtree(run.path)
        shutil.copytree(original, run.path)
        content = mutated(run.path / name, rng)
        if program == "resume" and name == "fold-0/metrics.json" and content in WHOLE[:4]:
            continue  # the fold would be trained again
        put(run.path / name, content)
        signal.alarm(20)  # generous: the machine may be busy
        capsys.readouterr()
        status = call(program, run, shared_tiny_cohort, tmp_path)
        signal.alarm(0)
        # without progress bars: the cohort's volumes may not be in this process's cache yet
        said = [line for line in capsys.readouterr().err.splitlines() if line and "%|" not in line]
        assert status in (0, 1, 2) and (status == 0 or len(said) == 1), (number, program, name, content[:300], said)
        refused += status != 0
    assert refused > 0


@pytest.mark.parametrize(
    ("name", "change", "read", "message"),
    [
        ("environment.json", {"source": None}, read_environment, "source does not name the cohort"),
        ("environment.json", {"source": {"data_dir": 3}}, read_environment, "data_dir of the source is not text"),
        ("environment.json", {"num_processes": -1}, read_environment, "num_processes is -1"),
        ("recipe.yaml", {"num_folds": 10**9}, read_recipe, "num_folds is 1000000000"),
        ("recipe.yaml", {"image_size": 10**6}, read_recipe, "image_size is 1000000"),
        ("recipe.yaml", {"learning_rate": -1}, read_recipe, "learning_rate is -1"),
        ("recipe.yaml", {"split": "x"}, read_recipe, "split is 'x'"),
        ("cv_metrics.json", {"pooled": None}, read_pooled, "no pooled figures"),
    ],
)
def test_values_that_no_run_records_are_named(run, name, change, read, message):
    path = run.path / name
    is_json = path.suffix == ".json"
    content = (json.loads if is_json else yaml.safe_load)(path.read_text()) | change
    path.write_text((json.dumps if is_json else yaml.safe_dump)(content))
    with pytest.raises(InputError, match=f"{name} is damaged .*{message}.*: restore it"):
        read(run)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"auc": 1.5}, "auc is 1.5"),
        ({"auc": None}, "auc is missing"),
        ({"n": 0}, "n is 0"),
        ({"confusion_matrix": {"tn": 1}}, "confusion_matrix"),
        ({"inner": [1]}, "inner is damaged"),
        ({"selection": "best"}, "does not say how the epoch was selected"),
    ],
)
def test_metrics_of_a_fold_that_cannot_be_are_named(run, change, message):
    path = run.fold(0).metrics
    read_metrics(run.fold(0))
    content = json.loads(path.read_text())
    content["undefined"].pop("auc", None)
    path.write_text(json.dumps(content | change))
    with pytest.raises(InputError, match=message):
        read_metrics(run.fold(0))


def test_a_history_holds_numbers_of_epochs_in_order(run):
    path = run.fold(0).history
    text = path.read_text()
    assert len(read_history(run.fold(0))) == 2
    for old, new, message in (("\n2,", "\n3,", "epochs are not 1, 2"), ("\n2,", "\nx,", "epoch must hold numbers")):
        path.write_text(text.replace(old, new))
        with pytest.raises(InputError, match=message):
            read_history(run.fold(0))


@pytest.mark.parametrize("name", ["paper", "demo", "clinical", "reproduce"])
def test_every_recipe_of_this_project_can_be_read_back(tmp_path, name):
    run = RunFolder(tmp_path)
    run.recipe.write_text(yaml.safe_dump(dataclasses.asdict(load_recipe(name))))
    assert read_recipe(run, required=CARD) == dataclasses.asdict(load_recipe(name))
