"""Curves and bands, checked with scikit-learn, and the files of figures."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_auc_score

from evaluation.curves import GRID, precision_recall_band, precision_recall_points, roc_band, roc_points
from evaluation.drawing import save_drawing
from evaluation.figures import forest_figure, p_said, reliability_figure, roc_figure
from evaluation.uncertainty import Interval, Resampling, bootstrap_metrics


def test_points_equal_scikit_learn(cohort_table):
    table = cohort_table()
    points = roc_points(table["label"], table["p_injury"])
    area = auc(points["false_positive_rate"], points["sensitivity"])
    assert area == pytest.approx(roc_auc_score(table["label"], table["p_injury"]))
    points = precision_recall_points(table["label"], table["p_injury"])
    steps = np.diff(np.r_[0, points["recall"]])
    average = average_precision_score(table["label"], table["p_injury"])
    assert np.sum(steps * points["precision"]) == pytest.approx(average)


def test_bands_contain_the_curve_and_narrow_with_more_families(cohort_table):
    wide, narrow = cohort_table(n=60, twin_pairs=5), cohort_table(n=600, twin_pairs=50)
    widths = []
    for table in (wide, narrow):
        band = roc_band(table["label"], table["p_injury"], table["family"], resampling=Resampling(300))
        assert (band["low"] <= band["sensitivity"] + 0.02).all() and (band["sensitivity"] <= band["high"] + 0.02).all()
        assert band["sensitivity"].is_monotonic_increasing and band["sensitivity"].iloc[-1] == 1
        widths.append((band["high"] - band["low"]).mean())
    assert widths[1] < 0.5 * widths[0]


def test_precision_band_is_the_precision_of_the_first_threshold_to_reach_a_recall(cohort_table):
    table = cohort_table(n=80, twin_pairs=8)
    band = precision_recall_band(table["label"], table["p_injury"], table["family"], resampling=Resampling(100))
    precision, recall, _ = precision_recall_curve(table["label"], table["p_injury"])
    for row in band.iloc[::7].to_dict("records"):
        first = np.flatnonzero(recall >= row["recall"] - 1e-12)[-1]  # recall falls along the arrays of scikit-learn
        assert row["precision"] == pytest.approx(precision[first])
    assert len(band) == len(GRID) - 1


def test_figures_are_saved_in_four_formats_with_the_same_bytes_each_time(cohort_table, tmp_path):
    table = cohort_table(n=60, twin_pairs=5)
    interval = bootstrap_metrics(table["label"], table["p_injury"], table["family"], resampling=Resampling(100))["auc"]

    def draw():
        return roc_figure(table, interval, {"0.5": np.full(60, 0.5)}, resampling=Resampling(100))

    address = save_drawing(draw(), tmp_path / "a")
    assert address.startswith("data:image/svg+xml;base64,") and address == save_drawing(draw(), tmp_path / "b")
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == ["roc.csv", "roc.pdf", "roc.png", "roc.svg"]
    assert all((tmp_path / "a" / n).read_bytes() == (tmp_path / "b" / n).read_bytes() for n in names)
    data = pd.read_csv(tmp_path / "a" / "roc.csv")
    assert {"pooled", "band", "fold 0", "fold 4"} <= set(data["curve"])


def test_a_figure_shows_the_number_of_scans(cohort_table):
    table = cohort_table(n=60, twin_pairs=5)
    title = reliability_figure(table).figure.axes[0].get_title(loc="left")
    assert title == f"n = 60 scans ({table['label'].sum()} injured)"


def test_forest_figure_with_undefined_values():
    rows = [
        ("all", Interval(0.8, 0.7, 0.9, 100)),
        ("few", Interval(0.6, None, None, 3)),
        ("none", Interval(None, None, None, 0)),
    ]
    drawing = forest_figure("parts", "caption", "title", rows, rows[0][1])
    texts = [text.get_text() for text in drawing.figure.axes[0].texts]
    assert texts == ["0.80 (0.70 to 0.90)", "0.60 (no interval)", "undefined"]
    assert drawing.data["auc"].tolist()[:2] == [0.8, 0.6]


def test_p_values_are_never_zero():
    assert (p_said(0.0004), p_said(0.0123)) == ("p < 0.001", "p = 0.012")
