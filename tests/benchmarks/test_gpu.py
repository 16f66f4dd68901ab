"""The GPU benchmark in its dry run, whole. The tests check what it reports, not what it measures."""

import json

import pytest
import torch

from benchmarks import gpu, gpu_arguments, gpu_training
from benchmarks.__main__ import main
from benchmarks.gpu_plan import timed

CPU = torch.device("cpu")


def test_a_dry_run_measures_every_section_and_calls_itself_one(tmp_path, capsys):
    assert main(["gpu", "--dry", "--output", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "gpu.json").read_text())
    text = (tmp_path / "gpu.md").read_text()
    assert report["dry"] and report["machine"]["card"] == "none used" and "commit" in report["machine"]
    assert gpu.DRY in text and text.strip() in capsys.readouterr().out
    rows = {section["name"]: section["rows"] for section in report["sections"]}
    assert list(rows) == list(gpu.SECTIONS) == list(gpu_arguments.NAMES)
    assert all("repeats" in row for section in rows.values() for row in section)
    assert [row["way"] for row in rows["pair"]] == ["plain, float32", "prepared, float32", "prepared, bfloat16"]
    assert all(row["within the bound"] for row in rows["pair"] + rows["maps"])
    assert len(rows["steps"]) == 4 and all(0 <= row["waiting"] < 1 for row in rows["epoch"])
    assert [row["exact"] for row in rows["resume"]] == [True]  # a CPU adds in the same order each time
    reference, rounded = rows["fold"]
    assert len(reference["losses"]) == 2 and reference["losses"] != rounded["losses"]
    assert rounded["difference, first"] == pytest.approx(abs(rounded["losses"][0] - reference["losses"][0]))


def test_a_failing_row_or_section_is_reported_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    def out_of_memory():
        raise RuntimeError("CUDA out of memory.\nTried to allocate")

    def row(plan):
        """A row that fails."""
        yield gpu_training.attempt({"batch": 32}, out_of_memory)
        yield {"batch": 8, "fast": False}

    def section(plan):
        """A section that fails."""
        yield {"batch": 4}
        out_of_memory()

    monkeypatch.setattr(gpu, "SECTIONS", {"row": row, "section": section, "last": lambda plan: iter([{"batch": 2}])})
    monkeypatch.setattr(gpu, "dry_plan", lambda folder: None)
    assert main(["gpu", "--dry", "--output", str(tmp_path)]) == 1
    text = capsys.readouterr().out
    assert "| 32 | RuntimeError: CUDA out of memory. Tried to allocate |  |" in text and "| 8 |  | **no** |" in text
    assert "**This section failed.** RuntimeError: CUDA out of memory." in text and "| 4 |" in text and "| 2 |" in text
    assert json.loads((tmp_path / "gpu.json").read_text())["sections"][2]["rows"] == [{"batch": 2}]


def test_a_slow_step_is_repeated_less_often():
    assert len(timed(lambda: None, CPU, 3, warm_up=1)) == 3
    assert len(timed(lambda: None, CPU, 3, warm_up=0, limit=0)) == 1


def test_a_wrong_call_exits_with_2_and_a_sentence(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for call, sentence in [
        ([], "torch finds no CUDA GPU here: run it on a machine with one, or add --dry"),
        (["--dry", "sleep"], "unknown section sleep; choose from pair, maps"),
        (["--dry", "--output", __file__], "is a file; give a folder"),
    ]:
        with pytest.raises(SystemExit) as caught:
            main(["gpu", *call])
        assert caught.value.code == 2 and sentence in capsys.readouterr().err
