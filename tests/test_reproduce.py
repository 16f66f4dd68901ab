"""reproduce.py on a cohort of tiny volumes."""

import contextlib
import io
import json
import sys
from subprocess import CompletedProcess
from types import SimpleNamespace

import pandas as pd
import pytest

import reproduce
from replication import cells
from tests.programs import PROJECT, run_program

SMALL = "--image_size 16 --num_folds 2 --num_train_epochs 1 --per_device_train_batch_size 4".split()


@pytest.fixture
def call(monkeypatch, capsys):
    """Call `main` in a given working folder. Returns the exit status and what was printed."""

    def run(*flags, folder):
        monkeypatch.chdir(folder)
        try:
            status = reproduce.main([str(flag) for flag in flags])
        except SystemExit as ended:  # argparse
            status = ended.code
        return CompletedProcess(flags, status, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def table_6(shared_tiny_cohort, tmp_path_factory):
    """Table 6 without MedicalNet's weights: two runs for three rows. The programs that train are forked."""
    folder, printed = tmp_path_factory.mktemp("reproduce"), io.StringIO()

    def run(call, env, **_):
        assert call[0] == sys.executable
        return run_program(call[1:], folder, env, PROJECT)

    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.chdir(folder)
        patch.setattr(cells, "subprocess", SimpleNamespace(run=run, DEVNULL=None, PIPE=None))
        assert reproduce.main(["--table", "6", "--data_dir", str(shared_tiny_cohort), *SMALL]) == 0
    return folder / "reproduction", printed.getvalue()


def test_a_table_is_written_and_equal_cells_are_trained_once(table_6):
    output, printed = table_6
    runs = sorted(path.name.rsplit("-", 1)[0] for path in (output / "runs").iterdir())
    assert runs == ["resnet10-random", "resnet10-random-nomixup"]
    assert printed.count(": training resnet10") == 2
    assert not list((output / "runs").glob("*/fold-*/checkpoints"))
    table = pd.read_csv(output / "table-6.csv")
    assert len(table) == 6 * 2  # three rows and their twins, two metrics
    empty = table[table["problem"].fillna("").str.startswith("needs weights: resnet_10_23dataset.pth")]
    assert len(empty) == 3 * 2 and empty["mean"].isna().all() and (empty["agrees"] == "-").all()
    assert set(empty["paper"]) == {"67.22%", ".62", "71.40%", ".72", "75.18%", ".76"}
    twins = table[table["problem"].isna()]
    assert twins["mean"].notna().all() and (twins["low"] <= twins["pooled"]).all() and twins["paper"].isna().all()
    markdown = (output / "table-6.md").read_text()
    assert "random initial weights instead (ours)" in markdown and "needs weights" in markdown
    assert markdown.startswith("# Table 6. Mixup and test-time augmentation, on bids\n")


def test_values_with_and_without_tta_are_read_from_the_same_run(table_6):
    output, _ = table_6
    table = pd.read_csv(output / "table-6.csv").query("metric == 'accuracy' and mean.notna()")
    run = table[table["row"].str.startswith("+ mixup;")]["run"].item()
    rows = pd.concat(pd.read_csv(path) for path in (output / "runs" / run).glob("fold-*/predictions.csv"))
    right = (rows["p_injury_no_tta"] >= 0.5) == (rows["label"] == 1)
    pooled = table[table["row"].str.startswith("+ mixup;")]["pooled"].item()
    assert pooled == pytest.approx(right.mean())


def test_a_second_call_trains_nothing_again(table_6, shared_tiny_cohort, call):
    output, _ = table_6
    before = (output / "table-6.csv").read_bytes()
    flags = ("--table", 6, "--table", 5, "--table", 1, "--data_dir", shared_tiny_cohort, *SMALL)
    result = call(*flags, folder=output.parent)
    assert result.returncode == 0 and ": training" not in result.stdout, result.stderr
    assert (output / "table-6.csv").read_bytes() == before
    table = pd.read_csv(output / "table-5.csv")
    assert set(table["row"]) == {"Random", "MedicalNet"}  # MedicalNet has no twin, because it would repeat Random
    printed = table.set_index(["row", "metric"])["paper"]
    assert printed["Random", "epochs_to_converge"] == "did not converge"
    assert "32.91 ± 2.98" in (output / "table-1.md").read_text()
    assert "needs weights" in (output / "README.md").read_text()


def test_the_plan_trains_nothing_and_gives_the_cost(shared_tiny_cohort, tmp_path, call):
    flags = ("--plan", "--recipe", "paper", "--image_size", 64, "--data_dir", shared_tiny_cohort)
    result = call(*flags, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "not trained yet" in result.stdout and "Computed, not measured" in result.stdout
    assert not (tmp_path / "reproduction" / "runs").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "nothing to do: give --all"),
        (("--table", "7"), "invalid choice"),
        (("--all", "--init", "random"), "--init is decided by the tables"),
        (("--all", "--split", "site"), "--split site leaves out sites"),
        (("--all", "--data_dir", "nowhere"), "--data_dir nowhere is not a folder"),
        (("--all", "--patches_per_axis", "0"), "--patches_per_axis is 0"),
        (("--table", "6", "--recipe", "none", "--data_dir", "."), "There is no recipe none"),
    ],
)
def test_a_wrong_call_gives_one_sentence(flags, message, tmp_path, call):
    result = call(*flags, folder=tmp_path)
    assert result.returncode == 2 and message in result.stderr and "Traceback" not in result.stderr
    assert not (tmp_path / "reproduction" / "runs").exists()


def test_each_run_records_its_cell(table_6):
    output, _ = table_6
    records = [json.loads(path.read_text()) for path in sorted((output / "runs").glob("*/cell.json"))]
    assert sorted(record["mixup"] for record in records) == [False, True]
