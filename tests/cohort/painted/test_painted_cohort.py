"""The painted cohort on disk: known truth, families, determinism, refusals, and the command."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from cohort.folds import fold_scans, make_splits
from cohort.painted import Settings, is_painted
from cohort.painted.__main__ import main
from cohort.painted.plan import plan_copies
from cohort.phantom import generate_phantom_cohort
from cohort.scans import find_scans

FLAGS = "--copies 4 --kinds spot cyst ventricles --diameters 7 9 --contrasts 0.4 --factors 2 --num_workers 1".split()


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """Four infants at 2.5 mm with segmentations, twins among them."""
    folder = tmp_path_factory.mktemp("source") / "bids"
    return generate_phantom_cohort(folder, num_subjects=7, voxel_size=2.5, num_workers=1, progress=False)


@pytest.fixture(scope="module")
def painted(source, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("painted") / "bids"
    assert main(["--data_dir", str(source), "--output", str(folder), *FLAGS]) == 0
    return folder


def image(folder: Path, participant: str, session: str, suffix: str) -> nib.Nifti1Image:
    stem = f"sub-{participant}_ses-{session}_{suffix}.nii.gz"
    return nib.load(folder / f"sub-{participant}" / f"ses-{session}" / "anat" / stem)


def digest(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_cohort_reader_accepts_it_and_families_stay_together(source, painted) -> None:
    before = {scan.participant_id: scan for scan in find_scans(source) if scan.label == 0}
    scans = find_scans(painted, brain_mask="required")
    assert all(scan.status == "used" and scan.segmentation for scan in scans)
    assert Counter(scan.label for scan in scans) == {0: len(before), 1: 4 * len(before)}
    for scan in scans:
        known = before[scan.participant_id]
        for name in ("family", "birth_age", "birth_weight", "sex", "singleton", "scan_age"):
            assert getattr(scan, name) == getattr(known, name)
    families = {scan.family for scan in scans}
    assert len(families) < len(before)  # twins
    by_table = find_scans(painted, painted / "labels.tsv")
    assert [(scan.label, scan.family) for scan in by_table] == [(scan.label, scan.family) for scan in scans]
    splits = make_splits(scans, num_folds=2, seed=0)
    train, held_out = fold_scans(splits, scans, 0)
    assert train and held_out and not {scan.family for scan in train} & {scan.family for scan in held_out}


def test_unpainted_copies_are_the_source(source, painted) -> None:
    for scan in find_scans(source):
        if scan.label == 0:
            copy = image(painted, scan.participant_id, f"{scan.session_id}p0", "desc-restore_T2w")
            original = nib.as_closest_canonical(nib.load(scan.image))
            assert copy.get_data_dtype() == original.get_data_dtype()
            assert np.array_equal(np.asarray(copy.dataobj), np.asarray(original.dataobj))
            assert np.allclose(copy.affine, original.affine, atol=1e-4)
            assert not image(painted, scan.participant_id, f"{scan.session_id}p0", "desc-lesion_mask").get_fdata().any()


def test_the_truth_is_where_and_what_the_table_says(painted) -> None:
    table = pd.read_csv(painted / "lesions.tsv", sep="\t", dtype={"session_id": str, "source_session": str})
    assert set(table["kind"]) == {"spot", "cyst", "ventricles"}
    for row in table.to_dict("records"):
        infant, session = row["participant_id"], row["session_id"]
        copy, mask, labels = (
            image(painted, infant, session, suffix)
            for suffix in ("desc-restore_T2w", "desc-lesion_mask", "desc-drawem9_dseg")
        )
        control = image(painted, infant, f"{row['source_session']}p0", "desc-restore_T2w").get_fdata()
        tissue = image(painted, infant, f"{row['source_session']}p0", "desc-drawem9_dseg").get_fdata()
        difference, truth = copy.get_fdata() - control, mask.get_fdata()
        volume_ml = 2.5**3 / 1000
        if row["kind"] == "ventricles":
            assert set(np.unique(truth)) == {0, 6}
            grown = (truth > 0).sum() / (tissue == 5).sum()
            assert grown == pytest.approx(row["volume_factor"], rel=0.01) and grown == pytest.approx(2, rel=0.15)
            assert row["volume_mm3"] / 1000 == pytest.approx(
                ((truth > 0).sum() - (tissue == 5).sum()) * volume_ml, rel=0.01
            )
            assert ((labels.get_fdata() == 5) ^ (truth > 0)).sum() < 0.2 * (truth > 0).sum()
            continue
        centre = np.linalg.inv(copy.affine) @ [row["x_mm"], row["y_mm"], row["z_mm"], 1]
        assert np.abs(np.argwhere(truth > 0).mean(axis=0) - centre[:3]).max() < 1
        brain = np.argwhere(image(painted, infant, session, "desc-brain_mask").get_fdata() > 0)
        beyond = row["x_mm"] - (copy.affine @ [*brain.mean(axis=0), 1])[0]
        if abs(abs(beyond) - 3) > 1:
            assert row["side"] == ("midline" if abs(beyond) < 3 else "right" if beyond > 0 else "left")
        assert row["volume_mm3"] == pytest.approx(np.pi / 6 * row["diameter_mm"] ** 3, rel=0.1)
        # volume times contrast times background
        level = np.median(control[tissue == 3])
        assert difference.sum() * 2.5**3 == pytest.approx(row["volume_mm3"] * row["contrast"] * level, rel=0.15)
        assert (row["contrast"] == -0.4) if row["kind"] == "spot" else row["contrast"] > 0.2
        assert np.abs(difference[truth > 0]).max() == np.abs(difference).max()
        assert (np.abs(difference) > 0).sum() < 8 * max((truth > 0).sum(), 8)
        of_truth = labels.get_fdata()[truth > 0]
        assert (of_truth == {"spot": 3, "cyst": 1}[row["kind"]]).mean() > 0.7
        assert row["kind"] == "spot" or (of_truth == 1).all()


def test_all_combinations_are_used_equally_often(source) -> None:
    scans = [scan for scan in find_scans(source) if scan.label == 0]
    settings = Settings(copies=12)
    cells = Counter(copy.cell for copies in plan_copies(scans, settings) for copy in copies)
    assert cells.pop(None) == len(scans)
    assert len(cells) == len(settings.cells()) == 24 and max(cells.values()) - min(cells.values()) <= 1


def test_it_continues_and_gives_the_same_files(source, painted, tmp_path) -> None:
    copy = tmp_path / "bids"
    shutil.copytree(painted, copy)
    infant = sorted(copy.glob("sub-*"))[1]
    shutil.rmtree(sorted(infant.glob("ses-*"))[2])
    (infant / f".{sorted(infant.glob('ses-*'))[0].name}.partial").mkdir()
    description = json.loads((copy / "dataset_description.json").read_text())
    (copy / "dataset_description.json").write_text(json.dumps(description | {"Complete": False}))
    assert main(["--data_dir", str(source), "--output", str(copy), *FLAGS[:-1], "2"]) == 0
    assert digest(copy) == digest(painted)


def test_damaged_scans_are_named_and_counted(source, tmp_path, capsys) -> None:
    data, output = tmp_path / "bids", tmp_path / "painted"
    shutil.copytree(source, data)
    normal = [scan for scan in find_scans(data) if scan.label == 0]
    for scan in normal[1:]:
        Path(scan.image).write_bytes(Path(scan.image).read_bytes()[:2000])
    assert main(["--data_dir", str(data), "--output", str(output), *FLAGS, "--copies", "1"]) == 1
    printed = capsys.readouterr()
    assert f"{2 * (len(normal) - 1)} copies failed" in printed.out and "1 painted and 1 unpainted copies" in printed.out
    failed = pd.read_csv(output / "failed.tsv", sep="\t")
    assert set(failed["participant_id"]) == {scan.participant_id for scan in normal[1:]}
    assert failed["reason"].str.contains("T2w").all() and "Traceback" not in printed.err
    assert len(find_scans(output)) == 2
    # the same call again says the same
    assert main(["--data_dir", str(data), "--output", str(output), *FLAGS, "--copies", "1"]) == 1
    assert capsys.readouterr().out == printed.out
    Path(normal[0].image).write_bytes(b"")
    assert main(["--data_dir", str(data), "--output", str(tmp_path / "other"), *FLAGS]) == 1
    assert "None of the" in capsys.readouterr().err


def test_scaled_integers_stay_and_are_not_cut_off(source, tmp_path, capsys) -> None:
    data, output = tmp_path / "bids", tmp_path / "painted"
    shutil.copytree(source, data)
    normal = [scan for scan in find_scans(data) if scan.label == 0]
    for scan, most in zip(normal, (3.0, 1.2), strict=False):  # times white matter; the second is too little
        values = nib.load(scan.image).get_fdata()
        white = np.median(values[nib.load(scan.segmentation).get_fdata() == 3])
        affine = nib.load(scan.image).affine
        slope = most * white / 255
        raw = np.clip(np.round((values + 5) / slope), 0, 255).astype(np.uint8)
        scaled = nib.Nifti1Image(raw, affine)
        scaled.header.set_slope_inter(slope, -5)
        nib.save(scaled, scan.image)
        assert np.median(np.abs(nib.load(scan.image).get_fdata() - values)) <= slope
    flags = "--copies 1 --kinds bright --diameters 9 --contrasts 0.5 --num_workers 1".split()
    assert main(["--data_dir", str(data), "--output", str(output), *flags]) == 1
    reasons = pd.read_csv(output / "failed.tsv", sep="\t")
    assert reasons["participant_id"].tolist() == [normal[1].participant_id]
    assert "voxels are uint8 and end at" in capsys.readouterr().err
    first = normal[0]
    control, copy = (
        image(output, first.participant_id, f"{first.session_id}p{number}", "desc-restore_T2w").dataobj
        for number in (0, 1)
    )
    original = nib.load(first.image).dataobj
    assert np.array_equal(control.get_unscaled(), original.get_unscaled())
    assert (control.slope, control.inter) == (original.slope, original.inter)
    assert control.get_unscaled().dtype == np.uint8
    assert 0 < (control.get_unscaled() != copy.get_unscaled()).sum() < 400


def test_a_head_without_segmentation_and_mask(tmp_path) -> None:
    data, output = tmp_path / "bids", tmp_path / "painted"
    generate_phantom_cohort(data, num_subjects=2, voxel_size=1.2, num_workers=1, progress=False)
    for file in (*data.rglob("*_dseg.nii.gz"), *data.rglob("*_mask.nii.gz")):
        if "lesion" not in file.name:
            file.rename(tmp_path / file.name)
    flags = "--copies 2 --kinds spot ventricles --diameters 4 --contrasts 0.4 --factors 2 --num_workers 1".split()
    assert main(["--data_dir", str(data), "--output", str(output), *flags]) == 0
    table = pd.read_csv(output / "lesions.tsv", sep="\t", dtype={"session_id": str, "source_session": str})
    for row in table.to_dict("records"):
        infant, session = row["participant_id"], row["source_session"]
        tissue = nib.load(tmp_path / f"sub-{infant}_ses-{session}_desc-drawem9_dseg.nii.gz").get_fdata()
        truth = image(output, infant, row["session_id"], "desc-lesion_mask").get_fdata() > 0
        if row["kind"] == "spot":
            assert (tissue[truth] == 3).mean() > 0.8
        else:
            assert (truth[tissue == 5]).mean() > 0.4 and row["volume_factor"] == pytest.approx(2, rel=0.15)


def test_folders_and_settings_that_cannot_be_used(source, painted, tmp_path, capsys) -> None:
    def refused(*flags: str, status: int = 2, data=source, output=tmp_path / "new") -> str:
        assert main(["--data_dir", str(data), "--output", str(output), *flags]) == status
        return capsys.readouterr().err

    assert is_painted(painted) and not is_painted(source)
    assert "was painted with copies 4, but 2 was requested" in refused(*FLAGS, "--copies", "2", output=painted)
    assert "is not empty and is not a painted cohort" in refused(output=source)
    file = tmp_path / "file"
    file.write_text("x")
    assert "is a file" in refused(output=file)
    assert "is a painted cohort already" in refused(data=painted, status=1)
    table = tmp_path / "labels.tsv"
    ids = sorted({scan.participant_id for scan in find_scans(source)})
    table.write_text("participant_id\tlabel\n" + "".join(f"{name}\t1\n" for name in ids))
    assert "has no normal scan" in refused("--labels", str(table), status=1)
    for flags in (("--data_dir", str(tmp_path / "missing")), ("--labels", str(tmp_path / "missing"))):
        with pytest.raises(SystemExit, match="2"):
            refused(*flags)
    assert "the diameter is 40" in refused("--diameters", "40")
    assert "the contrast is nan" in refused("--contrasts", "nan")
    assert "the factor is 20" in refused("--factors", "20")
    assert "number of copies is 0" in refused("--copies", "0")
    assert "the seed is -1" in refused("--seed", "-1")
    assert "number of workers is 0" in refused("--num_workers", "0")
    assert not (tmp_path / "new").exists()
