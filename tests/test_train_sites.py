"""train.py --split site, as a user runs it, on tiny volumes."""

import json

import pandas as pd
import pytest
import yaml

from tests.programs import SMALL, run_train

AT = SMALL.index("--num_folds")
SETTINGS = [*SMALL[:AT], *SMALL[AT + 2 :], "--num_train_epochs", "1", "--split", "site"]


@pytest.fixture
def command(shared_tiny_cohort, tmp_path):
    """The arguments of a run on three sites of four scans."""
    participants = sorted(path.name for path in shared_tiny_cohort.glob("sub-*"))
    rows = [f"{p}\t{'csa'[i // 4]}\t{i % 2}" for i, p in enumerate(participants)]
    (tmp_path / "labels.tsv").write_text("\n".join(["participant_id\tsite\tlabel", *rows]) + "\n")
    paths = ["--data_dir", shared_tiny_cohort, "--labels", tmp_path / "labels.tsv", "--output_dir", tmp_path / "run"]
    return [*map(str, paths), *SETTINGS]


def test_each_fold_leaves_out_a_site_and_the_run_continues_with_the_same_command(command, tmp_path):
    first = run_train([*command, "--fold", "1"], cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "fold 1 leaves out c (2 normal, 2 injury)" in first.stdout
    result = run_train(command, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    run = tmp_path / "run"
    assert "all 3 folds, pooled out-of-fold: n 12" in result.stdout and (run / "report.html").is_file()
    assert yaml.safe_load((run / "recipe.yaml").read_text())["num_folds"] == 3
    assert json.loads((run / "splits.json").read_text())["sites"] == ["a", "c", "s"]
    sites = pd.read_csv(run / "cohort.csv").set_index("participant_id")["site"]
    for fold, site in enumerate("acs"):
        scans = pd.read_csv(run / f"fold-{fold}" / "predictions.csv")
        assert set(scans["participant_id"]) == set(sites.index[sites == site])

    refused = run_train([*command, "--num_folds", "3"], cwd=tmp_path)
    assert refused.returncode == 2 and "--split site makes one fold per site: leave out --num_folds." in refused.stderr
