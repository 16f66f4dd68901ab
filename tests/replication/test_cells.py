import time
from pathlib import Path

import pytest

from replication import cells
from replication.cells import Bench, Cell, medicalnet_problem
from replication.rows import BASELINE, FULL, all_cells, compact_rows, table_2, table_3, table_4, table_6, with_twins
from run_folder.files import WriteError


def new_bench(**changes):
    given = {"recipe_name": "reproduce", "overrides": {}, "data_dir": Path("bids"), "labels": None}
    return Bench(**given | {"output": Path("out")} | changes)


def test_cells_with_equal_settings_share_one_run():
    assert FULL == table_2()[-2].cell == table_3()[-1].cell == table_6()[2].cell == table_6()[1].cell
    assert BASELINE == table_3()[2].cell == table_4()[2].cell == table_6()[0].cell
    every = all_cells(new_bench())
    assert len(every) == len(set(every))
    # the recipe can make two cells equal; another cohort is another run
    bench = new_bench(overrides={"mixup_prob": 0.0})
    assert bench.folder(Cell()) == bench.folder(Cell(mixup=False))
    assert new_bench().folder(Cell()) != new_bench().folder(Cell(mixup=False))
    assert new_bench().folder(Cell()) != new_bench(data_dir=Path("other")).folder(Cell())


def test_unavailable_weights_are_found_within_seconds(monkeypatch, tmp_path):
    started = time.perf_counter()
    assert "needs weights: resnet_18_23dataset.pth of TencentMedicalNet" in medicalnet_problem("resnet18", None)
    assert medicalnet_problem("resnet50", tmp_path) == f"needs weights: resnet_50_23dataset.pth is not in {tmp_path}"
    (tmp_path / "resnet_10_23dataset.pth").touch()
    assert new_bench(weights=tmp_path).weights_problem(FULL) is None
    assert new_bench(weights=tmp_path).settings(FULL)["init"] == str(tmp_path / "resnet_10_23dataset.pth")
    monkeypatch.setattr(cells.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(cells.constants, "ENDPOINT", "http://127.0.0.1:9")
    medicalnet_problem.cache_clear()
    cells.hub_answers.cache_clear()
    assert medicalnet_problem("resnet10", None).endswith("and the Hub cannot be reached")
    medicalnet_problem.cache_clear()
    cells.hub_answers.cache_clear()
    assert time.perf_counter() - started < 10


def test_a_row_without_weights_stays_and_gets_a_twin(tmp_path):
    rows = with_twins(table_6(), new_bench(weights=tmp_path))
    assert [row.ours for row in rows] == [False, True] * 3
    assert all(not row.cell.medicalnet and not row.paper for row in rows if row.ours)
    (tmp_path / "resnet_10_23dataset.pth").touch()
    medicalnet_problem.cache_clear()
    assert with_twins(table_6(), new_bench(weights=tmp_path)) == table_6()
    assert len(compact_rows(new_bench(weights=tmp_path))) == 3


def test_a_cell_that_fails_gives_the_reason_and_does_not_stop_the_others(tmp_path, monkeypatch):
    script = tmp_path / "train.py"
    script.write_text("import sys; print('train.py: no room', file=sys.stderr); sys.exit(1)")
    monkeypatch.setattr(cells, "TRAIN", script)
    bench = new_bench(output=tmp_path)
    assert bench.run(Cell()) is None and bench.predictions(Cell()) is None
    assert bench.problems[Cell()] == "train.py ended with status 1: no room"
    small = new_bench(output=tmp_path, overrides={"image_size": 40})
    assert small.run(Cell("swin_unet_encoder")) is None
    assert "the nearest are 32 and 64" in small.problems[Cell("swin_unet_encoder")]


def test_a_full_disk_stops_the_others(tmp_path, monkeypatch):
    script = tmp_path / "train.py"
    reason = (
        "x could not be written: its disk is full; 0.0 MB are left. Free some space, then run the same command again."
    )
    script.write_text(f"import sys; print('train.py: {reason}', file=sys.stderr); sys.exit(1)")
    monkeypatch.setattr(cells, "TRAIN", script)
    with pytest.raises(WriteError, match="its disk is full"):
        new_bench(output=tmp_path).run(Cell())


@pytest.mark.parametrize("recipe", ["reproduce", "paper"])
def test_training_sees_as_many_patches_as_volumes(recipe):
    bench = new_bench(recipe_name=recipe)
    whole, patches = (bench.recipe(Cell("resnet18", patches=flag)).num_train_epochs for flag in (False, True))
    assert patches == max(2, round(whole / 8))
