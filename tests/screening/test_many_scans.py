"""Rows of scans that cannot be read and of answers that are not probabilities; test_predict.py tests the rest."""

from types import SimpleNamespace

import numpy as np
import pytest

from screening import many_scans
from screening.many_scans import COLUMNS, screen, write_table
from screening.model import predicted_label
from screening.one_scan import ScanInputs
from screening.requests import Request

CONFIG = SimpleNamespace(id2label={0: "normal", 1: "injury"}, threshold=0.5, training_appearance=None)
NO_RECORD = "The model has no record of its training scans: it is not known whether this scan is similar to them."


def read_inputs(processor, scan, mask, others):
    """Reads a "scan" whose name is its probability of injury."""
    doubts = ("Its sform and qform disagree.",) if scan == "0.5" else ()
    return ScanInputs(SimpleNamespace(warnings=doubts), np.full((1, 2, 2, 2), float(scan), np.float32))


class Model:
    """Answers with the value of the first voxel, the same in both views."""

    config = CONFIG

    def answer(self, inputs, test_time_augmentation=None):
        p_injury = inputs["pixel_values"][:, 0, 0, 0, 0]
        views = np.stack([1 - p_injury, p_injury], axis=1)[None]
        return {"members": np.concatenate([views, views])[None]}


def test_every_request_has_a_row_in_order(monkeypatch):
    monkeypatch.setattr(many_scans, "read_inputs", read_inputs)
    requests = [Request("0.25"), Request("anat", "no image"), Request("nan"), Request("word"), Request("0.5")]
    rows = list(screen(requests, Model(), SimpleNamespace(brain_mask="none"), batch_size=3))
    assert [row["scan"] for row in rows] == ["0.25", "anat", "nan", "word", "0.5"]
    assert [row["status"] for row in rows] == ["ok", "error", "error", "error", "ok"]
    assert [row["p_injury"] for row in rows] == ["0.25", "", "", "", "0.5"]
    assert [row["predicted_label"] for row in rows] == ["normal", "", "", "", "injury"]
    assert rows[1]["message"] == "no image" and "could not convert" in rows[3]["message"]
    assert "nan, which is not a probability" in rows[2]["message"]
    doubts = f"Its sform and qform disagree. {NO_RECORD}"
    assert [row["warnings"] for row in rows] == [NO_RECORD, "", NO_RECORD, "", doubts]


def test_the_threshold_belongs_to_injury():
    assert [predicted_label(p, CONFIG, "scan") for p in (0.0, 0.4999, 0.5, 1.0)] == ["normal"] * 2 + ["injury"] * 2
    for p_injury in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="^scan: the model returned"):
            predicted_label(p_injury, CONFIG, "scan")


def test_a_table_that_fails_leaves_the_old_one(tmp_path):
    output = tmp_path / "predictions.csv"
    row = dict.fromkeys(COLUMNS, "x")
    counts = write_table([row, row, row | {"warnings": ""}], output, total=3)
    assert counts == {"x": 6, "warnings": 2}  # statuses and labels are counted together
    before = output.read_bytes()
    assert before == b"scan,p_injury,p_injury_no_tta,predicted_label,status,message,warnings\r\n" + (
        b"x,x,x,x,x,x,x\r\n" * 2 + b"x,x,x,x,x,x,\r\n"
    )

    def failing():
        yield row
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_table(failing(), output, total=2)
    assert output.read_bytes() == before and list(tmp_path.iterdir()) == [output]
