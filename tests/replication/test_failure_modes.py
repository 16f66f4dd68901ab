import dataclasses
import json
import shutil
import warnings

import numpy as np
import pandas as pd
import pytest

from modeling_gloresnet import GloResNetConfig, GloResNetForImageClassification
from publishing.export import export_model
from replication import phantoms
from replication.cells import Cell
from replication.failure_modes import contrast_kept, false_alarms, painted_spots, write_errors
from replication.figures import main_row
from replication.measured import train_accuracy
from replication.phantoms import DIAMETERS, PAINTED, Job, jobs, measure_head
from run_folder.layout import RunFolder
from screening.loading import load_pytorch_model


@pytest.fixture(scope="module")
def head():
    return measure_head(Job(0, 32, "none", voxel_size=1.5))


def test_small_lesions_vanish_at_coarse_voxel_spacing(head):
    kept = contrast_kept(pd.DataFrame(head.contrasts)).set_index(["diameter_mm", "image_size"])["retained"]
    assert kept[1.5, "32^3"] < kept[1.5, "128^3"] < kept[4.0, "128^3"]
    assert kept[6.0, "no resize"] == pytest.approx(1, abs=0.1)
    assert kept[2.0, "32^3"] < 0.1


def test_inputs_of_a_head_differ_only_in_lesions_or_motion(head):
    records = pd.DataFrame(head.records)
    plain, still = head.inputs[0], head.inputs[len(DIAMETERS) + 1]
    assert records["motion"].iloc[len(DIAMETERS) + 1] == 0
    np.testing.assert_array_equal(plain, still)
    moved = records["kind"] == "motion"
    changes = [np.abs(volume - plain).max() for volume in head.inputs[moved]]
    assert changes[-1] > changes[1] > 0
    assert np.allclose([volume.mean() for volume in head.inputs], 0, atol=1e-4)


def test_lesions_are_far_apart(head):
    assert pd.DataFrame(head.contrasts).groupby(["diameter", "image_size"]).size().between(3, 8).all()


def test_painted_spots_change_a_head_more_if_they_are_larger_and_darker(head):
    records = pd.DataFrame(head.records)
    painted = records[records["kind"] == "painted"]
    assert set(zip(painted["diameter"], painted["contrast"], strict=True)) == {cell[1:3] for cell in PAINTED}
    change = pd.Series([np.abs(head.inputs[row] - head.inputs[0]).sum() for row in painted.index])
    by_size = change.groupby(painted["diameter"].to_numpy()).mean()
    by_contrast = change.groupby(painted["contrast"].to_numpy()).mean()
    assert by_size[4.0] > by_size[1.5] and by_contrast[0.3] > by_contrast[0.15]
    table = painted_spots(records.assign(p_injury=0.5))
    assert (table["kind"] == "none").sum() == 1 and len(table) == 1 + len(painted)
    assert table["diameter_mm"].isna().sum() == 1 and set(table["family"]) == {"0"}


def test_a_rate_has_its_wilson_interval():
    records = pd.DataFrame({"kind": "motion", "motion": 0.0, "p_injury": [0.9, 0.1, 0.1, 0.1]})
    row = false_alarms(records).iloc[0]
    assert row["false_positive_rate"] == 0.25
    assert (row["low"], row["high"]) == pytest.approx((0.0456, 0.6994), abs=1e-3)


def test_a_network_with_a_local_stream_is_measured_by_its_global_stream_and_the_text_says_so(
    bench, tmp_path, monkeypatch
):
    own = dataclasses.replace(bench, overrides=bench.overrides | {"local_stream": "on"}, output=tmp_path / "bench")
    plain = bench.run(main_row(bench).cell)
    run = RunFolder(shutil.copytree(plain.path, own.folder(Cell()).path))
    run.cell.write_text(json.dumps(dataclasses.asdict(Cell())))
    for fold in run.existing_folds():
        model, processor = load_pytorch_model(str(fold.model))
        config = GloResNetConfig.from_dict(model.config.to_dict() | {"local_stream": True, "local_scorers": 1})
        with_stream = GloResNetForImageClassification(config)
        config.provenance["preprocessing"]["local_stream"] = True
        with_stream.load_state_dict(model.state_dict(), strict=False)
        processor.local_stream = True
        export_model(with_stream, processor, fold.model, "card")
    few = [Job(0, 16, "none", voxel_size=2.5), Job(0, 16, "none", "punctate", "many", 2.5)]
    monkeypatch.setattr("replication.failure_modes.jobs", lambda *arguments: few)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "This model has a local stream")
        text = write_errors(own, 1, 2.5).read_text()
        own.recipe(Cell()).save(run.recipe)
        run.train_predictions.unlink(missing_ok=True)
        assert train_accuracy(run).words == "of the global stream alone"
    assert "answers are those of the global stream alone" in text


def test_the_analysis_is_written_and_measured_only_once(bench, monkeypatch):
    few = [Job(0, 16, "none", voxel_size=2.5), Job(0, 16, "none", "punctate", "many", 2.5)]
    monkeypatch.setattr("replication.failure_modes.jobs", lambda *arguments: few)
    text = write_errors(bench, 1, 2.5).read_text()
    assert "| punctate | many | largest lesion, mm:" in text and "no resize" in text
    assert (bench.output / "figures" / "errors.svg").is_file()
    assert "never clinical evidence" in text and (bench.output / "figures" / "errors-painted.svg").is_file()
    painted = pd.read_csv(bench.output / "errors-painted.csv")
    assert painted["contrast"].isna().sum() == 4 and painted["scans"].sum() == 16
    assert len(pd.read_csv(bench.output / "errors-response.csv")) == len(DIAMETERS)
    monkeypatch.setattr(phantoms, "_measure_into", None)
    assert write_errors(bench, 1, 2.5).read_text() == text
    assert len(jobs(2, 32, "none")) == 6 + 2 * 13
