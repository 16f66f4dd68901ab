"""The program predict.py: tables, messages and exit statuses."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

import predict
from modeling_gloresnet import GloResNetConfig, GloResNetForImageClassification
from preprocessing import GloResNetImageProcessor
from publishing.export import export_model
from screening import fast
from screening.loading import load_model
from screening.one_scan import screen_scan
from screening.out_of_distribution import training_appearance

ROOT = Path(predict.__file__).parent


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two tiny models, one of which requires a brain mask, and six scans."""
    base = tmp_path_factory.mktemp("predict")
    torch.manual_seed(3)
    model = GloResNetForImageClassification(
        GloResNetConfig(image_size=32, stem_channels=4, widths=[4, 8, 8, 16], head_init_std=3.0)
    )
    for name, brain_mask in [("model", "none"), ("masked", "required")]:
        export_model(model, GloResNetImageProcessor(image_size=32, brain_mask=brain_mask), base / name, "card")
    (base / "scans").mkdir()
    for number in range(6):
        write_scan(base / "scans" / f"s{number}.nii.gz", seed=number)
    return base


def write_scan(path, seed=0, data=None):
    data = np.random.default_rng(seed).gamma(2, 50, (14, 16, 12)).astype(np.float32) if data is None else data
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(data, np.diag([-1.0, 1.0, 1.2, 1.0])), path)
    return path


def run(*arguments):
    """The exit status of predict.py with these arguments, in float32 unless they say otherwise.

    The precision that `auto` chooses depends on the machine.
    """
    dtype = [] if "--dtype" in arguments else ["--dtype", "float32"]
    return predict.main([*map(str, arguments), *dtype])


def rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def shell(*arguments, cwd, **options):
    environment = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(cwd / "hf")}
    command = [sys.executable, str(ROOT / "predict.py"), *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def test_it_runs_in_another_folder_without_internet(folders, tmp_path):
    write_scan(tmp_path / "flat.nii.gz", data=np.ones((5, 5, 5), dtype=np.float32))
    scans = [folders / "scans" / "s2.nii.gz", tmp_path / "flat.nii.gz", "gone.nii", folders / "scans" / "s0.nii.gz"]
    process = shell(*scans, "--model", folders / "model", "--dtype", "float32", cwd=tmp_path)
    out, err = process.communicate()
    assert process.returncode == 1, err
    assert "2 of 4 scan(s) screened" in out and "2 failed" in out
    assert "screening: 100%" in err and "Traceback" not in err
    table = rows(tmp_path / "predictions.csv")
    columns = ["scan", "p_injury", "p_injury_no_tta", "predicted_label", "status", "message", "warnings"]
    assert list(table[0]) == columns
    assert [row["scan"] for row in table] == [str(scan) for scan in scans]
    assert [row["status"] for row in table] == ["ok", "error", "error", "ok"]
    assert "constant" in table[1]["message"] and "gone.nii does not exist" in table[2]["message"]
    assert table[1]["p_injury"] == table[1]["p_injury_no_tta"] == table[1]["predicted_label"] == ""

    model = GloResNetForImageClassification.from_pretrained(folders / "model")
    pixel_values = GloResNetImageProcessor.from_pretrained(folders / "model")(
        scans[0], return_tensors="pt"
    ).pixel_values
    augmented = model.predict_proba(pixel_values)[0, 1].item()
    plain = model.predict_proba(pixel_values, test_time_augmentation=False)[0, 1].item()
    assert abs(augmented - plain) > 1e-4
    assert float(table[0]["p_injury"]) == pytest.approx(augmented, abs=2e-6)
    assert float(table[0]["p_injury_no_tta"]) == pytest.approx(plain, abs=2e-6)
    assert table[0]["predicted_label"] == ("injury" if augmented >= 0.5 else "normal")
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")] == []


def test_batches_workers_and_bad_scans_do_not_change_the_answers(folders, tmp_path):
    scans = [folders / "scans" / f"s{number}.nii.gz" for number in (3, 1, 4)]
    (tmp_path / "bad.nii").write_text("no volume")
    common = ["--model", folders / "model", "--output"]
    run(*scans, *common, tmp_path / "a.csv", "--batch_size", 1, "--num_workers", 0)
    code = run(scans[0], tmp_path / "bad.nii", *scans[1:], *common, tmp_path / "b.csv", "--batch_size", 3)
    assert code == 1
    one, other = rows(tmp_path / "a.csv"), [row for row in rows(tmp_path / "b.csv") if row["status"] == "ok"]
    assert [row["scan"] for row in one] == [row["scan"] for row in other]
    for left, right in zip(one, other, strict=True):
        assert float(left["p_injury"]) == pytest.approx(float(right["p_injury"]), abs=2e-6)


def test_no_tta_uses_the_unmirrored_scan_only(folders, tmp_path):
    call = [folders / "scans", "--model", folders / "model", "--num_workers", 0, "--output"]
    assert run(*call, tmp_path / "tta.csv") == 0
    assert run(*call, tmp_path / "plain.csv", "--no_tta") == 0
    for augmented, plain in zip(rows(tmp_path / "tta.csv"), rows(tmp_path / "plain.csv"), strict=True):
        assert plain["p_injury"] == plain["p_injury_no_tta"]
        assert float(plain["p_injury"]) == pytest.approx(float(augmented["p_injury_no_tta"]), abs=2e-6)


def test_bfloat16_stays_close(folders, tmp_path):
    for dtype in ("float32", "bfloat16"):
        call = [folders / "scans", "--model", folders / "model", "--dtype", dtype, "--num_workers", 0]
        assert run(*call, "--output", tmp_path / f"{dtype}.csv") == 0
    exact, rounded = ([float(row["p_injury"]) for row in rows(tmp_path / f"{d}.csv")] for d in ("float32", "bfloat16"))
    assert exact != rounded
    # a tiny network with a steep head has larger rounding errors than a real one
    np.testing.assert_allclose(exact, rounded, atol=2e-2)


@pytest.mark.parametrize(
    "native, error, taken", [(True, 1e-3, "bfloat16"), (True, 6e-3, "float32"), (False, 0, "float32")]
)
def test_auto_uses_bfloat16_if_it_is_faster_and_accurate(folders, tmp_path, monkeypatch, native, error, taken):
    monkeypatch.setattr(fast, "has_native_bfloat16", lambda device: native)
    monkeypatch.setattr(fast, "bfloat16_error", lambda model, rounded: error)
    call = [folders / "scans", "--model", folders / "model", "--num_workers", 0, "--output"]
    for dtype in ("auto", taken):
        assert run(*call, tmp_path / f"{dtype}.csv", "--dtype", dtype) == 0
    assert rows(tmp_path / "auto.csv") == rows(tmp_path / f"{taken}.csv")


def test_a_bids_tree_is_screened_with_its_t2w_images_and_masks(folders, tmp_path):
    bids = tmp_path / "bids"
    for participant in ("sub-01", "sub-02"):
        stem = bids / participant / "ses-1" / "anat" / f"{participant}_ses-1"
        for suffix in ("T2w", "T1w", "desc-restore_T2w", "desc-biasfield_T2w"):
            write_scan(stem.with_name(f"{stem.name}_{suffix}.nii.gz"), seed=len(suffix))
    brain = np.zeros((14, 16, 12), dtype=np.float32)
    brain[3:11, 3:12, 3:9] = 1
    anat = bids / "sub-01" / "ses-1" / "anat"
    write_scan(anat / "sub-01_ses-1_desc-brain_mask.nii.gz", data=brain)
    assert run(bids, "--model", folders / "model", "--output", tmp_path / "plain.csv") == 0
    images = [row["scan"] for row in rows(tmp_path / "plain.csv")]
    assert [Path(image).name for image in images] == [f"sub-0{n}_ses-1_desc-restore_T2w.nii.gz" for n in (1, 2)]

    assert run(bids, "--model", folders / "masked", "--output", tmp_path / "masked.csv") == 1
    good, bad = rows(tmp_path / "masked.csv")
    model = GloResNetForImageClassification.from_pretrained(folders / "masked")
    processor = GloResNetImageProcessor.from_pretrained(folders / "masked")
    pixel_values = processor(good["scan"], mask=anat / "sub-01_ses-1_desc-brain_mask.nii.gz", return_tensors="pt")
    assert float(good["p_injury"]) == pytest.approx(model.predict_proba(**pixel_values)[0, 1].item(), abs=2e-6)
    assert bad["status"] == "error" and "no brain mask" in bad["message"]
    assert run(good["scan"], "--model", folders / "masked", "--output", tmp_path / "one.csv") == 0
    assert rows(tmp_path / "one.csv") == [good]


def test_parts_of_a_bids_tree_and_an_ambiguous_session(folders, tmp_path, monkeypatch):
    for run_number in (1, 2):
        write_scan(tmp_path / "bids" / "sub-02" / "anat" / f"sub-02_run-{run_number}_T2w.nii.gz")
    write_scan(tmp_path / "bids" / "sub-01" / "ses-1" / "anat" / "sub-01_ses-1_T2w.nii.gz")
    write_scan(tmp_path / "bids" / "derivatives" / "other" / "sub-01" / "anat" / "sub-01_T2w.nii.gz")
    monkeypatch.chdir(tmp_path)
    assert run("bids", "--model", folders / "model") == 1
    good, bad = rows("predictions.csv")
    assert good["scan"] == "bids/sub-01/ses-1/anat/sub-01_ses-1_T2w.nii.gz" and good["status"] == "ok"
    assert bad["scan"] == "bids/sub-02/anat" and "several T2-weighted images" in bad["message"]
    for part in ("bids/sub-01", "bids/sub-01/ses-1", "bids/sub-01/ses-1/anat", "bids/sub-0[1]"):
        assert run(part, "--model", folders / "model", "--num_workers", 0) == 0
        assert rows("predictions.csv") == [good]


def test_wrong_calls_exit_with_2_and_one_sentence(folders, tmp_path, monkeypatch, capsys):
    scan, model = folders / "scans" / "s0.nii.gz", folders / "model"
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    for arguments, needle in [
        ([], "required"),
        ([scan], "--model"),
        ([scan, "--model", model, "--bogus"], "--bogus"),
        ([scan, "--model", model, "--batch_size", "0"], "--batch_size"),
        ([scan, "--model", model, "--dtype", "float64"], "float64"),
        ([scan, "--model", model, "--output", "missing/p.csv"], "missing/p.csv"),
        ([scan, "--model", model, "--output", "empty"], "--output empty"),
        ([scan, "--model", model, "--output", f"{scan}/p.csv"], "give a file in a folder that exists"),
    ]:
        with pytest.raises(SystemExit) as caught:
            run(*arguments)
        assert caught.value.code == 2
        assert needle in capsys.readouterr().err
    (tmp_path / "broken").mkdir()
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / "broken" / name).write_text("{")
    for arguments, needle in [
        ([scan, "--model", "nowhere/at/all"], "nowhere/at/all does not exist"),
        ([scan, "--model", "./absent"], "./absent does not exist"),
        ([scan, "--model", scan], "does not exist"),
        ([scan, "--model", "empty"], "no config.json"),
        ([scan, "--model", "broken"], "cannot be loaded"),
        (["empty", "--model", model], "no scans found: empty holds"),
        (["no*such.nii", "--model", model], "no scans found"),
    ]:
        assert run(*arguments) == 2
        message = capsys.readouterr().err
        assert message.startswith("predict.py: ") and needle in message and message.endswith(".\n")
    assert not (tmp_path / "predictions.csv").exists()


def test_a_cache_that_cannot_be_written_is_named_instead_of_the_model(folders, tmp_path):
    (tmp_path / "hf").write_text("HF_HOME of the program is a file here")
    process = shell(folders / "scans" / "s0.nii.gz", "--model", folders / "model", cwd=tmp_path)
    _, err = process.communicate()
    assert process.returncode == 2 and "Traceback" not in err
    line = err.strip().splitlines()[-1]
    assert (
        f"{tmp_path / 'hf'}" in line
        and "set the environment variable HF_HOME" in line
        and "check the folder" not in line
    )


def test_an_empty_folder_among_others_is_counted(folders, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert run("empty", folders / "scans" / "s0.nii.gz", "--model", folders / "model") == 1
    assert [row["status"] for row in rows("predictions.csv")] == ["error", "ok"]


def test_warnings_are_those_of_the_page_and_counted_at_the_end(folders, tmp_path, capsys):
    images = [folders / "scans" / f"s{number}.nii.gz" for number in range(6)]
    processor = GloResNetImageProcessor(image_size=32)
    model = GloResNetForImageClassification.from_pretrained(folders / "model")
    cubes = processor(images, return_tensors="np").pixel_values[:, 0]
    model.config.training_appearance = training_appearance(cubes)
    model.config.provenance = {"cohort": "c", "synthetic": True, "run": "r", "fold": 0, "train_scans": 6}
    export_model(model, processor, tmp_path / "model", "card")
    write_scan(tmp_path / "upside.nii.gz", data=-nibabel.load(images[0]).get_fdata(dtype=np.float32))
    scans = [images[0], tmp_path / "upside.nii.gz", "gone.nii"]
    assert run(*scans, "--model", tmp_path / "model", "--output", tmp_path / "p.csv", "--num_workers", 2) == 1
    table = rows(tmp_path / "p.csv")
    model, processor = load_model(str(tmp_path / "model"))
    expected = [screen_scan(model, processor, str(scan))["warnings"] for scan in scans[:2]]
    assert expected[0] == [] and "The darkest 5 % of the volume is" in expected[1][0]
    assert [row["warnings"] for row in table] == ["", " ".join(expected[1]), ""]
    closing = capsys.readouterr().out.splitlines()[-1]
    assert "1 with warnings: do not rely on these, see the column warnings." in closing
    assert "trained on synthetic phantoms, not on infants" in closing
    assert run(images[0], "--model", folders / "model", "--output", tmp_path / "p.csv") == 0
    assert "no record of its training scans" in rows(tmp_path / "p.csv")[0]["warnings"]
    assert "phantom" not in capsys.readouterr().out


def test_doubts_about_header_and_mask_are_in_the_table(folders, tmp_path):
    anat = tmp_path / "sub-01" / "anat"
    path = write_scan(anat / "sub-01_T2w.nii.gz")
    image = nibabel.load(path)
    image = nibabel.Nifti1Image(image.get_fdata(dtype=np.float32), image.affine)
    image.set_sform(image.affine, code=1)
    image.set_qform(image.affine * [-1, 1, 1, 1], code=1)  # left and right exchanged
    nibabel.save(image, path)
    soft = np.zeros((14, 16, 12), dtype=np.float32)
    soft[3:11, 3:12, 3:9] = 0.9
    soft[4:10, 4:11, 4:8] = 1
    write_scan(anat / "sub-01_desc-brain_mask.nii.gz", data=soft)
    assert run(tmp_path, "--model", folders / "masked", "--output", tmp_path / "p.csv", "--num_workers", 0) == 0
    (row,) = rows(tmp_path / "p.csv")
    assert "left and right may be wrong" in row["warnings"] and "at least 0.5 count as brain" in row["warnings"]
    model, processor = load_model(str(folders / "masked"))
    answer = screen_scan(model, processor, str(path), str(anat / "sub-01_desc-brain_mask.nii.gz"))
    assert row["warnings"] == " ".join(answer["warnings"])


def test_no_session_is_left_out(folders, tmp_path, monkeypatch, capsys):
    names = [
        "01_T2w.NII.GZ",
        "02_desc-preproc_T2w.nii.gz",
        "03_T2W.nii",
        "04_T1w.nii",
        "05_run-1_T2w.nii",
        "05_run-2_T2w.nii",
    ]
    for name in names:
        written = write_scan(tmp_path / "scan.nii.gz" if name.lower().endswith(".gz") else tmp_path / "scan.nii")
        path = tmp_path / "bids" / f"sub-{name[:2]}" / "anat" / f"sub-{name}"
        path.parent.mkdir(parents=True, exist_ok=True)
        written.rename(path)
    monkeypatch.chdir(tmp_path)
    assert run("bids", "--model", folders / "model", "--num_workers", 0) == 1
    assert "3 of 5 scan(s) screened" in capsys.readouterr().out
    assert [row["status"] for row in rows("predictions.csv")] == ["ok", "ok", "ok", "error", "error"]
    assert run("bids", "--model", folders / "model", "--num_workers", 0, "--run", "2") == 1
    chosen = rows("predictions.csv")[4]
    assert chosen["scan"].endswith("sub-05_run-2_T2w.nii") and chosen["status"] == "ok"


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_keeps_the_old_table_and_leaves_no_partial_file(folders, tmp_path, stop):
    (tmp_path / "predictions.csv").write_text("the table of an earlier run")
    for number in range(3000):
        os.link(folders / "scans" / "s0.nii.gz", tmp_path / f"{number:04}.nii.gz")
    process = shell(".", "--model", folders / "model", cwd=tmp_path, start_new_session=True)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob(".predictions.csv.*.part")) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    os.killpg(process.pid, stop) if stop == signal.SIGINT else process.send_signal(stop)  # Ctrl-C reaches the group
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "interrupted, nothing was written" in err and "Traceback" not in err
    assert (tmp_path / "predictions.csv").read_text() == "the table of an earlier run"
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".part")]
