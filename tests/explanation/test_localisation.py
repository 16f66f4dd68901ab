"""Localisation: the measures computed by hand on boxes, and the command on a tiny phantom run."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.ndimage import distance_transform_edt

from cohort.folds import make_splits, write_splits
from cohort.phantom import generate_phantom_cohort
from cohort.scans import find_scans, write_cohort
from evaluation.metrics import screening_metrics
from evaluation.uncertainty import Resampling
from explanation.localisation import MAPS, localise, main, measure, median_interval, random_twin, summarise
from modeling_gloresnet import GloResNetConfig, GloResNetForImageClassification
from preprocessing import GloResNetImageProcessor
from publishing.export import export_model
from training.recipe import load_recipe


def write_run(folder, data):
    """A finished run of two folds with untrained networks."""
    folder.mkdir()
    scans = find_scans(data)
    splits = make_splits(scans, num_folds=2)
    write_splits(splits, folder / "splits.json")
    write_cohort(scans, folder / "cohort.csv")
    load_recipe("demo", image_size=16, num_folds=2).save(folder / "recipe.yaml")
    (folder / "environment.json").write_text(json.dumps({"source": {"data_dir": str(data), "labels": None}}))
    for fold in range(2):
        torch.manual_seed(fold)
        where = folder / f"fold-{fold}"
        where.mkdir()
        config = GloResNetConfig(image_size=16, stem_channels=4, widths=[4, 8, 8, 16])
        export_model(
            GloResNetForImageClassification(config), GloResNetImageProcessor(image_size=16), where / "model", "card"
        )
        held_out = [scan for scan in scans if splits["participants"][scan.participant_id]["fold"] == fold]
        rows = pd.DataFrame(
            [[s.participant_id, s.session_id, s.family, fold, s.label, s.radiology_score, 0.5, 0.5] for s in held_out],
            columns=[
                *("participant_id", "session_id", "family", "fold", "label", "radiology_score"),
                *("p_injury", "p_injury_no_tta"),
            ],
        )
        rows.to_csv(where / "predictions.csv", index=False)
        metrics = screening_metrics(rows["label"].to_numpy(), rows["p_injury"].to_numpy())
        (where / "metrics.json").write_text(json.dumps({"fold": fold, "selection": "last", **metrics}))
        (where / "history.csv").write_text("epoch,val_accuracy\n1,0.5\n")
    return folder


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom") / "clear"
    return generate_phantom_cohort(folder, num_subjects=12, voxel_size=5.0, num_workers=1, progress=False)


@pytest.fixture(scope="module")
def run(cohort, tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "tiny", cohort)


def test_measures_computed_by_hand():
    brain = np.zeros((10, 10, 10), bool)
    brain[1:9, 1:9, 1:9] = True  # 512 voxels
    inside = np.zeros_like(brain)
    inside[1:3, 1:9, 1:9] = True  # a quarter of it
    distance = distance_transform_edt(~inside, sampling=(2.0, 2.0, 2.0))
    even = measure(np.ones(brain.shape), inside, brain, distance)
    assert even["energy_ratio"] == pytest.approx(1) and even["chance"] == pytest.approx(0.25)
    assert even["brain_energy"] == even["brain_chance"] == pytest.approx(0.512)
    assert even["hit_chance"] == pytest.approx(0.5)  # two more layers, at 2 and 4 mm, are near enough
    perfect = measure(inside * 3.0, inside, brain, distance)
    assert (perfect["energy_ratio"], perfect["brain_energy"], perfect["hit"]) == pytest.approx((4, 1, 1))
    heat = inside * 1.0
    heat[6, 5, 5] = 128.0  # one voxel, 8 mm away, has half the heat
    missed = measure(heat, inside, brain, distance)
    assert (missed["energy_ratio"], missed["hit"]) == pytest.approx((2, 0))
    nothing = measure(heat * 0, inside, brain, distance)
    assert np.isnan([nothing["energy_ratio"], nothing["hit"], nothing["brain_energy"]]).all()


def test_the_median_interval_draws_whole_families():
    values = pd.Series([1.0, 1.0, 1.0, 5.0])
    together = median_interval(values, pd.Series(["a", "a", "a", "b"]), Resampling(500))
    assert (together.estimate, together.low, together.high) == (1, 1, 5)  # a draw may be all b, or all a
    assert median_interval(pd.Series([], dtype=float), pd.Series([], dtype=str), Resampling(10)).estimate is None


def test_maps_of_an_injured_scan_come_from_the_model_that_held_it_out(run, cohort):
    table = localise(run)
    truth = pd.read_csv(cohort / "truth.tsv", sep="\t", dtype={"session_id": str})
    injured = truth[truth["label"] == 1]
    focal = injured[injured[["cyst_lesion_ml", "clot_lesion_ml", "punctate_lesion_ml"]].sum(axis=1) > 0]
    wide = injured[injured["injuries"].str.contains("ventriculomegaly")]
    for region, expected in (("focal lesion", focal), ("enlarged ventricles", wide)):
        for name in MAPS:
            part = table[(table["region"] == region) & (table["map"] == name)]
            assert sorted(part["participant_id"]) == sorted(expected["participant_id"])
    assert len(focal) > 0 and table["chance"].between(0, 1).all()
    folds = json.loads((run / "splits.json").read_text())["participants"]
    assert all(folds[row["participant_id"]]["fold"] == row["fold"] for row in table.to_dict("records"))
    assert table.equals(localise(run))
    summary = summarise(table, resampling=Resampling(100))
    assert set(summary["map"]) == set(MAPS) and (summary["scans"] > 0).all()


def test_a_random_twin_has_other_weights_and_keeps_the_random_state():
    model = GloResNetForImageClassification(GloResNetConfig(stem_channels=4, widths=[4, 8, 8, 16]))
    state = torch.random.get_rng_state()
    twin = random_twin(model, 3)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not torch.equal(twin.classifier.weight, model.classifier.weight)
    assert torch.equal(twin.classifier.weight, random_twin(model, 3).classifier.weight)


def test_the_command_writes_to_the_run_folder_and_not_to_a_model_folder(run, capsys):
    before = {path: path.stat().st_mtime_ns for path in run.glob("fold-*/**/*")}
    assert main([str(run)]) == 0
    assert "| enlarged ventricles | LayerCAM |" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in run.glob("fold-*/**/*")} == before
    assert set(pd.read_csv(run / "localisation.csv")["map"]) == set(MAPS)
    assert {path.suffix for path in (run / "figures").iterdir()} == {".svg", ".pdf", ".png", ".csv"}


def test_a_mistake_gives_one_sentence(run, shared_tiny_cohort, tmp_path, capsys):
    real = write_run(tmp_path / "real", shared_tiny_cohort)
    for folder, complaint in ((real, "was not trained on a phantom cohort"), (tmp_path / "nowhere", "does not exist")):
        assert main([str(folder)]) == 1
        said = capsys.readouterr().err
        assert complaint in said and said.count("\n") == 1
    for arguments in ([], [str(run), "--seed", "-1"]):
        with pytest.raises(SystemExit) as left:
            main(arguments)
        assert left.value.code == 2
    assert not (real / "localisation.csv").exists()


def test_a_missing_lesion_mask_is_named(run, cohort, capsys):
    mask = next(path for path in sorted(cohort.rglob("*desc-lesion_mask.nii.gz")) if _injured(path, cohort))
    mask.rename(mask.with_name("elsewhere"))
    try:
        assert main([str(run)]) == 1 and f"{mask} is missing" in capsys.readouterr().err
    finally:
        mask.with_name("elsewhere").rename(mask)


def _injured(path, cohort):
    truth = pd.read_csv(cohort / "truth.tsv", sep="\t")
    return truth.set_index("participant_id")["label"][path.name.split("_")[0].removeprefix("sub-")] == 1
