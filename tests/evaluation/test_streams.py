import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from evaluation.streams import evaluate_streams
from evaluation.uncertainty import Resampling


def predictions(n=120):
    random = np.random.default_rng(0)
    score = random.choice([1, 2, 3, 5], n)
    label = (score >= 3).astype(int)
    p_global = 1 / (1 + np.exp(-random.normal(2.0 * (score == 5) - 1, 1)))
    p_local = 1 / (1 + np.exp(-random.normal(2.0 * (score == 3) - 2, 1)))
    p_shares = random.uniform(0, 0.2, n)
    table = pd.DataFrame({"label": label, "family": [f"F{i // 2}" for i in range(n)], "radiology_score": score})
    table = table.assign(p_global=p_global, p_local=p_local, p_shares=p_shares)
    return table.assign(p_injury=1 - (1 - np.maximum(0, 2 * p_global - 1)) * (1 - p_local) * (1 - p_shares))


def test_each_stream_is_compared_with_the_fusion_by_radiology_score():
    table = predictions()
    parts, silent = evaluate_streams(table, Resampling(200))
    assert [part.name for part in parts] == ["All scans", "Score 3 against 1-2", "Score 5 against 1-2"] and silent == 0
    three = table[table["radiology_score"] != 5]
    auc, pair = parts[1].streams["Local stream alone"]
    assert np.isclose(auc.estimate, roc_auc_score(three["label"], three["p_local"]))
    expected = roc_auc_score(three["label"], three["p_injury"]) - auc.estimate
    assert np.isclose(pair.difference.estimate, expected)
    assert parts[1].n == len(three) and parts[1].n_injury == three["label"].sum()
    # the global stream does not see score 3, the local one does not see score 5
    assert auc.estimate > 0.85 > 0.7 > parts[1].streams["Global stream alone"][0].estimate
    assert parts[2].streams["Local stream alone"][0].estimate < 0.7


def test_scans_on_which_the_local_stream_is_silent_are_counted_and_left_out():
    table = predictions()
    table.loc[:4, ["p_local", "p_shares"]] = np.nan
    parts, silent = evaluate_streams(table, Resampling(100))
    assert silent == 5 and parts[0].n == len(table) - 5


def test_a_run_without_a_local_stream_has_no_streams():
    assert evaluate_streams(predictions().drop(columns="p_local"), Resampling(100)) == ([], 0)
