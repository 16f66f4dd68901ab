"""The benchmark runs from end to end on tiny scans. The tests check how it reports, not what it measures."""

import json
import os

import nibabel
import numpy as np
import psutil
import pytest

from benchmarks.__main__ import main, random_model
from benchmarks.contestants import JOBS, Contestant, Series, busy_programs, interleave, set_openmp
from benchmarks.dicom import measure_study, study
from benchmarks.growth import expected_on_gpus
from benchmarks.program_times import seconds_until
from benchmarks.report import Measurement, compare, spread, to_markdown
from benchmarks.setting import Setting, best
from benchmarks.shared import measure_shared
from machine.cores import SPINS, available_cores
from tests.processes import wait_until


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scans")
    for number in range(2):
        data = np.random.default_rng(number).gamma(2, 50, (20, 22, 18)).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(data, np.diag([0.5, 0.5, 0.5, 1])), folder / f"s{number}_T2w.nii.gz")
    return folder


def test_it_writes_a_table_and_json(scans, tmp_path, capsys):
    call = ["many", "--quick", "--image_size", "16", "--scans", scans, "--output", tmp_path]
    assert main([str(word) for word in call]) == 0
    content = json.loads((tmp_path / "benchmarks.json").read_text())
    assert content["machine"]["cores"] >= 1 and "load at the end" in content["machine"]
    assert (tmp_path / "benchmarks.md").read_text().strip() in capsys.readouterr().out
    rows = {row["what"]: row for row in content["rows"]}
    assert rows["reference"]["ratio"] == 1 and "8 scans" in rows["float32"]["note"]
    assert rows[best()]["target"] == ">= 4x"
    assert [row["note"] for row in content["rows"] if row["seconds"] is None] == [
        "not measured: this processor has no bfloat16 instructions"
    ] * (best() == "float32")


# the class of this warning is of the model folder, and pytest-xdist ends if it cannot import it
@pytest.mark.filterwarnings("ignore:.*The first or last slice:UserWarning")
def test_a_dicom_study_is_timed_as_a_folder_a_zip_and_compressed(scans, tmp_path, monkeypatch):
    answers = []

    def in_this_process(job, contestants, turns):
        assert (job, JOBS[job]) == ("study", "dicom")
        turn = study(**contestants["dicom"])
        answers.extend(turn(path) for path in turns)
        return {"dicom": Series(list(range(1, len(turns) + 1)), None, 0)}

    monkeypatch.setattr("benchmarks.dicom.interleave", in_this_process)
    folder = random_model(tmp_path / "model", 16)
    rows = measure_study(Setting(tmp_path, folder, [str(path) for path in sorted(scans.iterdir())], 16, 2, True, False))
    assert [row.what for row in rows] == ["a folder of slices", "a zip", "a folder of JPEG lossless slices"]
    assert [row.seconds[1:] for row in rows] == [(1, 4), (2, 5), (3, 6)] and rows[0].reached
    assert len(set(answers)) == 1 and "18 slices" in rows[0].note


def test_our_path_and_the_reference_path_give_the_same_probability(scans, tmp_path):
    folder = str(random_model(tmp_path / "model", 16))
    settings = {way: {"way": way, "folder": folder, "image_size": 16} for way in ("reference", "float32", "bfloat16")}
    before = {child.pid for child in psutil.Process().children()}
    results = interleave("scan", settings, [str(path) for path in sorted(scans.iterdir())], busy=1)
    assert {child.pid for child in psutil.Process().children()} <= before
    expected = results["reference"].answer
    assert results["float32"].answer == pytest.approx(expected, abs=1e-5)
    assert results["bfloat16"].answer == pytest.approx(expected, abs=5e-3)
    assert [len(series.seconds) for series in results.values()] == [2, 2, 2]
    assert all(0 < used < 60 for series in results.values() for used in series.cpu_seconds)


def test_busy_programs_compute_until_the_block_ends():
    others = {child.pid for child in psutil.Process().children()}
    with busy_programs(2):
        busy = [child for child in psutil.Process().children() if child.pid not in others]
        assert len(busy) == 2
        wait_until(lambda: all(sum(child.cpu_times()[:2]) > 0.05 for child in busy))
    assert not any(child.is_running() for child in busy)


def test_the_pair_is_also_timed_while_others_compute(tmp_path, monkeypatch):
    asked = {}

    def fake(job, contestants, turns, busy):
        asked.update(job=job, names=list(contestants), busy=busy)
        return {name: Series([2.0, 1.0, 3.0], 0.5, 0, [4.0, 1.0, 2.0]) for name in contestants}

    monkeypatch.setattr("benchmarks.shared.race", fake)
    rows = measure_shared(Setting(tmp_path, tmp_path / "model", [], 16, 3, False, False))
    assert asked == {"job": "network", "busy": available_cores(), "names": [row.what for row in rows]}
    assert {"reference", "float32", "bfloat16", "openvino int8"} < set(asked["names"])
    assert all((row.seconds[0], row.note) == (2.0, "2000 ms of CPU time") for row in rows)


def test_only_our_ways_change_how_openmp_waits(monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setenv("GOMP_SPINCOUNT", SPINS)  # as `python -m benchmarks` sets it
    set_openmp("reference")
    assert "GOMP_SPINCOUNT" not in os.environ
    set_openmp("float32")
    assert os.environ["GOMP_SPINCOUNT"] == SPINS


def test_the_report_names_libraries_that_are_not_installed():
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


def test_the_error_of_a_failed_contestant_quotes_its_log():
    with Contestant("bound", {"path": "no-such-file"}) as contestant:
        with pytest.raises(RuntimeError, match="no-such-file"):
            contestant.wait_until_ready()


def test_expected_cost_matches_a_hand_calculation():
    rows = {row.what: row for row in expected_on_gpus(rate=1e14, share=0.5, subjects=125, epochs=100)}
    one_fold = 100 * 100 * 3 * 2 * 17.8e9 / 5e13
    assert rows["1 GPU(s)"].seconds[0] == pytest.approx(5 * one_fold)
    assert rows["8 GPU(s)"].seconds[0] == pytest.approx(one_fold)
    assert isinstance(rows["64 GPU(s)"], Measurement) and "12 per fold" in rows["64 GPU(s)"].note
    assert all("omputed, not measured" in row.section for row in rows.values())


def test_a_program_is_timed_until_it_prints_the_words_and_an_error_is_raised_if_it_fails(tmp_path):
    code = "import time; print('here'); time.sleep(0.2); open('ended', 'w')"
    assert seconds_until(["-c", code], "here", cwd=tmp_path) > 0
    assert (tmp_path / "ended").exists()
    with pytest.raises(RuntimeError, match="ended with status 0: silence"):
        seconds_until(["-c", "print('silence')"], "here")
    with pytest.raises(RuntimeError, match="ended with status 3: here"):
        seconds_until(["-c", "import sys; print('here'); sys.exit(3)"], "here")


def test_a_wrong_call_exits_with_2_and_a_sentence(tmp_path, capsys):
    for call, sentence in [
        (["sleep"], "unknown section sleep; choose from bounds, scan"),
        (["--scans", str(tmp_path)], "contains no *_T2w.nii.gz files"),
        (["--output", __file__], "is a file; give a folder"),
    ]:
        with pytest.raises(SystemExit) as caught:
            main(call)
        assert caught.value.code == 2 and sentence in capsys.readouterr().err
