"""The phantom cohort on disk: plan, layout, determinism, interruption, refusals, and the command."""

import collections
import csv
import dataclasses
import gzip
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from cohort.phantom import (
    PhantomFolderError,
    generate_phantom_cohort,
    is_phantom,
    phantom_description,
    plan_cohort,
)
from cohort.phantom.__main__ import main

ROOT = Path(__file__).resolve().parents[2]
TINY = {"num_subjects": 6, "voxel_size": 5.0, "progress": False}


def digest(folder):
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def rows(path):
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return generate_phantom_cohort(tmp_path_factory.mktemp("phantom") / "clear", num_workers=1, **TINY)


def first_sessions(plan):
    return [scan for scan in plan if scan.scan_number == 1 and scan.label is not None]


def test_dhcp_counts_match_the_paper():
    plan = plan_cohort("dhcp")
    first = first_sessions(plan)
    assert len(first) == 128
    assert collections.Counter(scan.radiology_score for scan in first) == {"1": 42, "2": 32, "3": 29, "4": 2, "5": 23}
    families = collections.defaultdict(list)
    for scan in first:
        families[scan.family_id].append(scan)
    assert len(families) == 108
    pairs = [members for members in families.values() if len(members) == 2]
    assert len(pairs) == 20 and sum(a.label == b.label for a, b in pairs) == 14
    for pair in pairs:
        assert sorted(scan.participant_id[7] for scan in pair) == ["A", "B"]
        assert len({(scan.birth_age, scan.scan_age) for scan in pair}) == 1
    assert all(scan.participant_id[7] == "X" for members in families.values() if len(members) == 1 for scan in members)
    injuries = {scan.radiology_score: {injury.name for injury in scan.injuries} for scan in first}
    assert injuries["3"] == {"punctate"} and injuries["4"] == set()
    assert all(not scan.injuries for scan in first if scan.label == 0)
    extra = [scan for scan in plan if scan not in first]
    assert sum(scan.scan_number == 2 for scan in extra) == 14
    assert 2 <= sum(scan.radiology_score == "Q" for scan in extra) <= 6
    by_infant = collections.defaultdict(list)
    for scan in plan:
        by_infant[scan.participant_id].append(scan)
    changed = [a.radiology_score != b.radiology_score for a, b in (v for v in by_infant.values() if len(v) == 2)]
    assert 0 < sum(changed) < len(changed)


@pytest.mark.parametrize("preset", ["clear", "dhcp", "null"])
def test_ids_and_covariates(preset):
    plan = plan_cohort(preset)
    assert all(re.fullmatch(r"CC\d{5}[A-Z]{2}\d{2}", scan.participant_id) for scan in plan)
    assert all(re.fullmatch(r"CC\d{5}[ABX][A-Z]\d{2}", scan.participant_id) for scan in plan)
    assert len({(scan.participant_id, scan.session_id) for scan in plan}) == len(plan)
    assert all(scan.family_id == scan.participant_id[:7] for scan in plan)
    assert all(
        23 <= scan.birth_age < 37
        and 29 <= scan.scan_age <= 45
        and scan.scan_age >= scan.birth_age
        and 0.4 <= scan.birth_weight <= 4.2
        for scan in plan
    )
    first = first_sessions(plan)
    moved = sum(scan.motion > 0 for scan in first)
    assert 0.10 <= moved / len(first) <= 0.15


def test_covariates_match_table_one():
    first = first_sessions(plan_cohort("dhcp"))
    names = ("birth_age", "birth_weight", "scan_age")
    birth, weight, scan_age = (np.array([getattr(scan, name) for scan in first]) for name in names)
    assert birth.mean() == pytest.approx(32.51, abs=0.6) and birth.std() == pytest.approx(3.35, abs=0.5)
    assert weight.mean() == pytest.approx(1.84, abs=0.12) and weight.std() == pytest.approx(0.70, abs=0.15)
    assert scan_age.mean() == pytest.approx(36.36, abs=0.6) and scan_age.std() == pytest.approx(3.4, abs=0.5)
    assert np.mean([scan.sex == "Male" for scan in first]) == pytest.approx(0.61, abs=0.01)
    assert np.corrcoef(birth, weight)[0, 1] > 0.8


def test_covariates_are_independent_of_the_label():
    """Over many seeds, the mean correlation with the label is zero for every covariate."""
    correlations = collections.defaultdict(list)
    for seed in range(40):
        first = first_sessions(plan_cohort("clear", seed=seed, use_full_grid=True))
        label = np.array([scan.label for scan in first])
        values = {
            "scan_age": [s.scan_age for s in first],
            "birth_age": [s.birth_age for s in first],
            "birth_weight": [s.birth_weight for s in first],
            "male": [s.sex == "Male" for s in first],
            "motion": [s.motion for s in first],
            "grid": [s.grid.ras_shape[2] for s in first],
            "participant": [int(s.participant_id[2:7]) for s in first],
            "session": [int(s.session_id) for s in first],
            "twin": [s.singleton == "Multiple" for s in first],
            "origin": [s.grid.origin[0] for s in first],
        }
        for name, value in values.items():
            correlations[name].append(np.corrcoef(label, np.array(value, float))[0, 1])
    for name, found in correlations.items():
        assert abs(np.mean(found)) < 3.5 * 0.146 / np.sqrt(40), (
            name
        )  # 0.146 = 1 / sqrt(47), the standard error of one seed


def test_null_labels_are_permuted_over_families():
    clear, null = plan_cohort("clear"), plan_cohort("null")
    # the same infants and images: only the scores differ
    assert [(s.participant_id, s.injuries, s.scan_age) for s in clear] == [
        (s.participant_id, s.injuries, s.scan_age) for s in null
    ]
    assert sum(s.label for s in null) == 20

    def patterns(plan):
        families = collections.defaultdict(list)
        for scan in plan:
            families[scan.family_id].append(scan.radiology_score)
        return collections.Counter(tuple(sorted(scores)) for scores in families.values())

    assert patterns(clear) == patterns(null)


def test_null_labels_are_related_to_injury_by_chance_only():
    """Over seeds, the correlation has the mean and SD of a free permutation: 0 and 1 / sqrt(n - 1)."""
    correlations = []
    for seed in range(150):
        plan = plan_cohort("null", seed=seed)
        label, injured = [s.label for s in plan], [bool(s.injuries) for s in plan]
        correlations.append(np.corrcoef(label, injured)[0, 1])
    expected = 1 / np.sqrt(47)
    assert abs(np.mean(correlations)) < 4 * expected / np.sqrt(150)
    assert 0.8 * expected < np.std(correlations) < 1.2 * expected


def test_motion_confounding():
    plan = plan_cohort("clear", motion_confounding=1.0)
    assert all((scan.motion > 0) == (scan.label == 1) for scan in plan)
    half = plan_cohort("clear", motion_confounding=0.5)
    share = {label: np.mean([s.motion > 0 for s in half if s.label == label]) for label in (0, 1)}
    assert share[1] == pytest.approx(0.5625, abs=0.03) and share[0] == pytest.approx(0.0625, abs=0.03)


def test_clear_injuries_are_macroscopic():
    for scan in plan_cohort("clear"):
        if scan.label:
            assert scan.radiology_score == "5"
            assert all(
                (i.name, i.severity)
                in {
                    ("ventriculomegaly", "moderate"),
                    ("ventriculomegaly", "severe"),
                    ("cystic_pvl", "large"),
                    ("cystic_pvl", "confluent"),
                    ("ivh", "major"),
                    ("atrophy", "severe"),
                }
                for i in scan.injuries
            )
        else:
            assert scan.radiology_score in "12" and not scan.injuries


def test_layout_matches_the_release(cohort):
    description = json.loads((cohort / "dataset_description.json").read_text())
    assert description["GeneratedBy"][0]["Name"] == "gloresnet-phantom" and description["Complete"] is True
    assert is_phantom(cohort) and phantom_description(cohort)["preset"] == "clear"
    assert "NOT clinical evidence" in (cohort / "README").read_text()
    participants = rows(cohort / "participants.tsv")
    assert list(participants[0]) == ["participant_id", "birth_age", "birth_weight", "singleton", "sex"]
    assert len(participants) == 6
    truths = {row["participant_id"]: row for row in rows(cohort / "truth.tsv")}
    for participant in (row["participant_id"] for row in participants):
        sessions = rows(cohort / f"sub-{participant}" / f"sub-{participant}_sessions.tsv")
        assert list(sessions[0]) == [
            "session_id",
            "scan_age",
            "scan_head_circumference",
            "scan_number",
            "radiology_score",
            "sedation",
        ]
        session, truth = sessions[0]["session_id"], truths[participant]
        stem = cohort / f"sub-{participant}/ses-{session}/anat/sub-{participant}_ses-{session}"
        image = nib.load(f"{stem}_desc-restore_T2w.nii.gz")
        masks = [
            nib.load(f"{stem}_{suffix}.nii.gz")
            for suffix in ("desc-brain_mask", "desc-drawem9_dseg", "desc-lesion_mask")
        ]
        assert all(mask.shape == image.shape and np.array_equal(mask.affine, image.affine) for mask in masks)
        assert image.shape == (29, 29, 21) and image.header["descrip"].item().startswith(b"synthetic")
        assert image.header.get_zooms() == (5.0, 5.0, 5.0) and image.get_data_dtype() == np.int16
        brain, dseg, lesions = (np.asarray(mask.dataobj) for mask in masks)
        assert brain.sum() * 0.125 == pytest.approx(float(truth["intracranial_ml"]), rel=1e-3)
        assert (dseg == 5).sum() * 0.125 == pytest.approx(float(truth["lateral_ventricles_ml"]), abs=1e-3)
        assert (lesions == 2).sum() * 0.125 == pytest.approx(float(truth["clot_lesion_ml"]), abs=1e-3)
        assert truth["radiology_score"] == sessions[0]["radiology_score"]
        assert 20 < float(sessions[0]["scan_head_circumference"]) < 45


def test_same_bytes_for_any_number_of_workers(cohort, tmp_path):
    again = generate_phantom_cohort(tmp_path / "two", num_workers=2, **TINY)
    assert digest(again) == digest(cohort)
    packed = next(cohort.rglob("*_T2w.nii.gz")).read_bytes()
    assert packed[4:8] == b"\0\0\0\0" and gzip.decompress(packed)  # no time stamp
    other = generate_phantom_cohort(tmp_path / "other", seed=43, num_workers=1, **TINY)
    assert digest(other) != digest(cohort)


def test_rerun_generates_only_what_is_missing(cohort, tmp_path):
    output = generate_phantom_cohort(tmp_path / "cohort", num_workers=1, **TINY)
    before = digest(output)
    images = sorted(output.rglob("*_T2w.nii.gz"))
    times = {image: image.stat().st_mtime_ns for image in images}
    images[0].unlink()
    generate_phantom_cohort(output, num_workers=1, **TINY)
    assert digest(output) == before
    assert [image for image in images if image.stat().st_mtime_ns != times[image]] == images[:1]
    description = (output / "dataset_description.json").stat().st_mtime_ns
    generate_phantom_cohort(output, num_workers=1, **TINY)  # finished: nothing is written
    assert (output / "dataset_description.json").stat().st_mtime_ns == description


def test_killed_and_continued(cohort, tmp_path):
    output = tmp_path / "killed"
    command = [
        sys.executable,
        "-m",
        "cohort.phantom",
        "--output",
        str(output),
        "--num_subjects",
        "6",
        "--voxel_size",
        "5",
        "--num_workers",
        "1",
    ]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while not list(output.glob("sub-*/ses-*")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert is_phantom(output)
    # what a kill leaves while a session or a table is written
    (output / "sub-CC00000XX00" / ".ses-1.partial").mkdir(parents=True)
    (output / "sub-CC00000XX00" / ".ses-1.partial" / "half").write_text("x")
    (output / "sub-CC00000XX00" / ".sub-CC00000XX00_sessions.tsv.1.part").write_text("x")
    (output / ".truth.tsv.1.part").write_text("x")
    generate_phantom_cohort(output, num_workers=1, **TINY)
    (output / "sub-CC00000XX00").rmdir()  # empty again
    assert digest(output) == digest(cohort)


def test_refused_folders(cohort, tmp_path):
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "scan.nii.gz").write_bytes(b"")
    with pytest.raises(PhantomFolderError, match="not empty and is not a generated phantom"):
        generate_phantom_cohort(foreign, **TINY)
    assert os.listdir(foreign) == ["scan.nii.gz"]
    with pytest.raises(PhantomFolderError, match="seed 42, but 7 was requested"):
        generate_phantom_cohort(cohort, seed=7, **TINY)
    with pytest.raises(PhantomFolderError, match="preset clear, but null"):
        generate_phantom_cohort(cohort, preset="null", **TINY)
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(PhantomFolderError, match="is a file"):
        generate_phantom_cohort(file, **TINY)
    (foreign / "dataset_description.json").write_text('{"Name": "real", "GeneratedBy": [{"Name": "dHCP"}]}')
    assert not is_phantom(foreign) and not is_phantom(tmp_path / "missing")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num_subjects", "1"], "number of subjects is 1"),
        (["--voxel_size", "0"], "voxel size is 0"),
        (["--motion_confounding", "2"], "motion confounding is 2"),
        (["--seed", "-1"], "seed is -1"),
        (["--full_grid", "--voxel_size", "1"], "full grids have voxels of 0.5 mm"),
        (["--num_workers", "0"], "number of workers is 0"),
    ],
)
def test_wrong_calls_exit_2(arguments, message, tmp_path, capsys):
    assert main(["--output", str(tmp_path / "out"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_unwritable_output_exits_1(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["--output", str(tmp_path / "file" / "below"), "--num_subjects", "2"]) == 1
    assert "could not be written" in capsys.readouterr().err


def test_varied_fields_of_view(tmp_path):
    """Other grids and tilts in each scan, the same bytes each time, and everything else as in the fixed cohort."""
    settings = TINY | {"num_subjects": 4, "field_of_view": "varied", "num_workers": 1}
    folder = generate_phantom_cohort(tmp_path / "varied", **settings)
    assert digest(folder) == digest(generate_phantom_cohort(tmp_path / "again", **settings))
    assert phantom_description(folder)["field_of_view"] == "varied"
    with pytest.raises(PhantomFolderError, match="field_of_view varied, but fixed was requested"):
        generate_phantom_cohort(folder, **TINY | {"num_subjects": 4})
    plan, varied = plan_cohort(num_subjects=40), plan_cohort(num_subjects=40, field_of_view="varied")
    assert [dataclasses.replace(scan, field_of_view=None) for scan in varied] == plan
    angles = [abs(scan.field_of_view.nod) for scan in varied]
    assert max(angles) <= 15 and np.std(angles) > 2
    shapes = {nib.load(path).shape for path in folder.glob("sub-*/ses-*/anat/*_T2w.nii.gz")}
    assert len(shapes) == 4
    for path in folder.glob("sub-*/ses-*/anat/*brain_mask.nii.gz"):  # no head is cut
        brain = nib.load(path).get_fdata() > 0
        assert not any(brain.take(end, axis=axis).any() for axis in range(3) for end in (0, -1))


def test_a_fixed_cohort_does_not_mention_the_field_of_view(cohort):
    assert "field_of_view" not in (cohort / "dataset_description.json").read_text()
    assert "field_of_view" not in (cohort / "truth.tsv").read_text()
    generate_phantom_cohort(cohort, field_of_view="fixed", **TINY)  # the same cohort as without the option


def test_contact_sheet(tmp_path, monkeypatch):
    image = pytest.importorskip("PIL.Image")
    from cohort.phantom import contact_sheet

    names = ("Normal, 36 weeks", "Punctate lesions (inset x2.5)", "Noise, SNR 15", "Motion, full strength")
    monkeypatch.setattr(contact_sheet, "_CASES", tuple(c for c in contact_sheet._CASES if c[0] in names))
    path = contact_sheet.draw_contact_sheet(tmp_path / "docs" / "phantom.png", voxel_size=3.0)
    assert image.open(path).size[0] == 1320


def test_the_package_is_light_until_something_is_asked_for():
    """`python -m cohort.phantom` imports it before it can handle Ctrl-C."""
    program = "import sys, cohort.phantom; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0
