"""Several runs compared with chance: which results are inside the null, and which are outside."""

import pytest

from evaluation.chance import BEST_EPOCH, chance_over_runs, main
from evaluation.study import read_run
from run_folder.files import InputError


def make_studies(make_run, signal, n=5):
    return [read_run(make_run(f"s{k}", n=60, twin_pairs=8, signal=signal, noise_seed=k, epochs=15)) for k in range(n)]


def test_without_signal_only_the_best_epoch_is_outside_the_null(make_run):
    table = chance_over_runs(make_studies(make_run, 0.0), permutations=300).set_index("statistic")
    unbiased = table.drop(index=BEST_EPOCH)
    assert unbiased["inside"].all()
    assert not table.loc[BEST_EPOCH, "inside"] and table.loc[BEST_EPOCH, "p_value"] == pytest.approx(1 / 301)
    assert table.loc[BEST_EPOCH, "observed"] > table.loc["mean_accuracy", "observed"]


def test_results_with_signal_are_outside_the_null(make_run):
    table = chance_over_runs(make_studies(make_run, 1.5, n=2), permutations=200).set_index("statistic")
    assert not table["inside"].any() and (table["p_value"] < 0.02).all()


def test_runs_of_the_same_scans_share_their_permutations(make_run):
    run = read_run(make_run(n=60, twin_pairs=8))
    shuffled = type(run)(**{**run.__dict__, "table": run.table.sample(frac=1, random_state=0)})
    one, two = chance_over_runs([run], 100), chance_over_runs([run, shuffled], 100)
    # the same predictions twice: the null is as wide as for one run, not narrower
    assert two[["low", "high"]].to_numpy() == pytest.approx(one[["low", "high"]].to_numpy())


def test_command(make_run, capsys, tmp_path):
    run = make_run(n=40, twin_pairs=4)
    assert main([str(run), "--permutations", "50"]) == 0
    assert "best_epoch_mean_accuracy" in capsys.readouterr().out
    assert main([str(tmp_path / "none")]) == 1
    assert "does not exist" in capsys.readouterr().err
    with pytest.raises(InputError, match="no run"):
        chance_over_runs([])
