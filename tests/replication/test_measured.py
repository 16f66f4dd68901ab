import math

import numpy as np
import pandas as pd
import pytest

from evaluation import published
from evaluation.uncertainty import Resampling
from replication.cells import Cell
from replication.measured import Value, convergence, epochs_to_converge, screening_values, train_accuracy


def test_the_published_numbers_are_those_of_the_paper():
    assert published.TABLE_3["IV"] == ("75.18%", "81.82%", ".861", ".534")
    assert published.TABLE_3["I"][0] == published.TABLE_2_MEANS["3D ResNet-18"][0] == "50.00%"
    assert published.TABLE_4 == {
        "resnet50": ("95%", "62.45%"),
        "resnet18": ("85%", "50.00%"),
        "resnet10": ("82%", "72.20%"),
    }
    assert published.TABLE_5["medicalnet"] == ("67.22%", "15")
    assert published.TABLE_6["mixup"] == ("71.40%", ".72")
    assert published.number("75.18%") == pytest.approx(0.7518) and published.number(".534") == 0.534
    assert published.number("did not converge") is None


def test_a_value_agrees_if_the_papers_is_inside_our_interval():
    value = Value(0.7, 0.1, 0.7, 0.6, 0.8)
    assert [value.agrees(printed) for printed in ("75.18%", ".81", "did not converge", "")] == ["yes", "no", "-", "-"]
    assert Value(1.0, 0.0, 1.0, 1.0, 1.0).agrees(".41") == "-" and Value(mean=0.7).agrees(".7") == "-"
    assert Value(words="did not converge").agrees("did not converge") == "yes"


def test_means_pooled_values_and_peaks_computed_by_hand():
    table = pd.DataFrame(
        {
            "fold": [0, 0, 0, 0, 1, 1, 1, 1],
            "label": [0, 0, 1, 1, 0, 0, 1, 1],
            "p_injury": [0.1, 0.2, 0.9, 0.4, 0.1, 0.6, 0.3, 0.4],
            "p_injury_no_tta": [0.1, 0.2, 0.9, 0.8, 0.1, 0.2, 0.9, 0.8],
            "family": list("abcdefgh"),
        }
    )
    values = screening_values(table, tta=True, resampling=Resampling(200))
    assert values["accuracy"].mean == values["accuracy"].pooled == 0.5  # 3 of 4 and 1 of 4
    assert values["accuracy"].sd == pytest.approx(math.sqrt(0.125))
    assert values["peak_accuracy"].mean == values["best_accuracy"].mean == 0.75
    assert values["mcc"].mean is not None and values["peak_auc"].mean == 1.0
    assert screening_values(table, tta=False, resampling=Resampling(200))["accuracy"].pooled == 1.0


@pytest.mark.parametrize(
    ("losses", "epoch"),
    [
        ([0.69, 0.68, 0.70], None),  # has learnt nothing at the end
        ([0.69, 0.40, 0.12, 0.10, 0.11], 3),  # 0.11 + 0.1 (0.693 - 0.11) = 0.168
        ([0.69, 0.10, 0.30, 0.10], 4),  # rises again
        ([0.10, 0.10], 1),
    ],
)
def test_convergence_by_the_stated_rule(losses, epoch):
    assert convergence(np.array(losses)) == epoch


def test_training_accuracy_uses_the_training_scans_of_each_fold(bench):
    run = bench.folder(Cell())
    value = train_accuracy(run)
    table = pd.read_csv(run.train_predictions)
    scored = pd.read_csv(run.fold(0).predictions, dtype={"participant_id": str})
    trained = set(table[table["fold"] == 0]["participant_id"])
    assert trained and not trained & set(scored["participant_id"]) and len(trained) + len(scored) == 12
    right = (table["p_injury_no_tta"] >= 0.5) == (table["label"] == 1)
    assert value.mean == pytest.approx(right.groupby(table["fold"]).mean().mean())
    assert epochs_to_converge(run).mean is not None or epochs_to_converge(run).words
