"""The benchmark runs from end to end on tiny scans; what it measures is not asserted, how it reports is."""

import json
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from benchmarks.contestants import Contestant, Series, interleave
from benchmarks.programs import seconds_until
from benchmarks.report import Row, compare, spread, to_markdown
from benchmarks.sections import best, expected_on_gpus

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scans")
    for number in range(2):
        data = np.random.default_rng(number).gamma(2, 50, (20, 22, 18)).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(data, np.diag([0.5, 0.5, 0.5, 1])), folder / f"s{number}_T2w.nii.gz")
    return folder


def test_it_runs_and_writes_a_table_and_json(scans, tmp_path):
    call = ["-m", "benchmarks", "many", "--quick", "--image_size", "16", "--scans", scans]
    result = subprocess.run(
        [sys.executable, *map(str, call), "--output", str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    content = json.loads((tmp_path / "benchmarks.json").read_text())
    assert content["machine"]["cores"] >= 1 and "load at the end" in content["machine"]
    assert (tmp_path / "benchmarks.md").read_text().strip() in result.stdout
    rows = {row["what"]: row for row in content["rows"]}
    assert rows["reference"]["ratio"] == 1 and "8 scans" in rows["float32"]["note"]
    assert rows[best()]["target"] == ">= 4x"
    assert [row["note"] for row in content["rows"] if row["seconds"] is None] == [
        "not measured: this processor has no bfloat16 of its own"
    ] * (best() == "float32")


def test_ours_and_the_reference_give_the_same_probability(scans, tmp_path):
    from benchmarks.__main__ import random_model

    folder = str(random_model(tmp_path / "model", 16))
    settings = {way: {"way": way, "folder": folder, "image_size": 16} for way in ("reference", "float32", "bfloat16")}
    results = interleave("scan", settings, [str(path) for path in sorted(scans.iterdir())])
    expected = results["reference"].answer
    assert results["float32"].answer == pytest.approx(expected, abs=1e-5)
    assert results["bfloat16"].answer == pytest.approx(expected, abs=5e-3)
    assert [len(series.seconds) for series in results.values()] == [2, 2, 2]


def test_a_peer_that_is_not_installed_is_said_so():
    results = {
        "reference": Series([2.0, 1.0, 4.0], None, 0),
        "ours": Series([1.0, 1.0, 0.5], None, 0),
        "monai": "not installed: monai",
    }
    rows = compare("1. x", results, {"ours": 3}, {}, share=2)
    assert rows[0].seconds == spread([2.0, 1.0, 4.0], 2) == (1.0, 0.5, 2.0)
    assert (rows[1].ratio, rows[1].target, rows[1].reached) == (2, ">= 3x", False)
    text = to_markdown(rows, {"cores": 2})
    assert "| monai |  |  |  |  | not installed: monai |" in text and "**no**" in text and "cores 2" in text


def test_a_contestant_that_fails_says_why():
    with Contestant("bound", {"path": "no-such-file"}) as contestant:
        with pytest.raises(RuntimeError, match="no-such-file"):
            contestant.wait_until_ready()


def test_expected_cost_is_computed_by_hand():
    rows = {row.what: row for row in expected_on_gpus(rate=1e14, share=0.5, subjects=125, epochs=100)}
    one_fold = 100 * 100 * 3 * 2 * 17.8e9 / 5e13
    assert rows["1 GPU(s)"].seconds[0] == pytest.approx(5 * one_fold)
    assert rows["8 GPU(s)"].seconds[0] == pytest.approx(one_fold)
    assert isinstance(rows["64 GPU(s)"], Row) and "12 a fold" in rows["64 GPU(s)"].note
    assert all("omputed, not measured" in row.section for row in rows.values())


def test_a_program_is_timed_until_it_speaks_and_never_when_it_fails(tmp_path):
    code = "import time; print('here'); time.sleep(0.2); open('ended', 'w')"
    assert seconds_until(["-c", code], "here", cwd=tmp_path) > 0
    assert (tmp_path / "ended").exists()
    with pytest.raises(RuntimeError, match="ended with 0: silence"):
        seconds_until(["-c", "print('silence')"], "here")
    with pytest.raises(RuntimeError, match="ended with 3: here"):
        seconds_until(["-c", "import sys; print('here'); sys.exit(3)"], "here")
