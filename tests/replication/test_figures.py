import numpy as np
import pandas as pd
import pytest

from replication.figures import separation, write_figure
from replication.maps import centre_of_mass
from replication.tables import write_compact


@pytest.mark.parametrize(
    ("name", "files", "said"),
    [
        ("roc", ["roc"], "Not shown: ViT-Base 3D (not trained yet)"),
        ("tsne", ["tsne"], "t-SNE proves nothing"),
        ("gradcam", ["gradcam_cases", "gradcam_means"], "points nowhere"),
    ],
)
def test_a_figure_is_written_with_its_data_and_caption(bench, name, files, said):
    text = write_figure(bench, name).read_text()
    assert said in text and f"](figures/{files[0]}.png)" in text
    for file in files:
        for kind in ("svg", "png", "csv"):
            assert (bench.output / "figures" / f"{file}.{kind}").stat().st_size > 100
        assert len(pd.read_csv(bench.output / "figures" / f"{file}.csv"))


def test_the_tsne_marks_scans_that_the_model_did_not_see(bench):
    text = write_figure(bench, "tsne").read_text()
    table = pd.read_csv(bench.output / "figures" / "tsne.csv")
    assert (table["held_out"] == (table["fold"] == 0)).all()
    assert "perplexity 4, seed 42" in text  # (12 - 1) / 3
    scores = pd.read_csv(bench.output / "figures" / "tsne_separation.csv")
    assert scores["fold"].tolist() == [0, 1] and scores["logistic_auc"].between(0, 1).all()


def test_separation_is_measured_on_held_out_scans():
    class Labelled:
        def __init__(self, label):
            self.label = label

    scans = [Labelled(number % 2) for number in range(40)]
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(40, 5))
    separated = noise + 10 * np.array([[scan.label] for scan in scans])
    good = separation(scans, separated, scans[:20], scans[20:])
    assert good["knn_auc"] == good["logistic_auc"] == 1.0 and good["silhouette"] > 0.5
    assert separation(scans, noise, scans[:20], scans[20:])["silhouette"] < 0.2
    assert np.isnan(separation(scans, noise, scans[:20], scans[1:2])["knn_auc"])


def test_the_centre_of_mass_of_a_map():
    heat = np.zeros((4, 4, 4))
    heat[3, 0, 1] = 2
    assert centre_of_mass(heat) == {"centre_R": 0.875, "centre_A": 0.125, "centre_S": 0.375}


def test_the_compact_table_names_missing_comparisons(bench):
    text = write_compact(bench).read_text()
    assert "not compared, because a run is missing" in text and "not trained yet" in text
