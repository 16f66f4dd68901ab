"""T1w, FA and MD of the phantoms: contrast, FSL's transform, and their files on disk."""

import csv
import shutil

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from cohort.phantom import Injury, PhantomFolderError, generate_phantom_cohort, make_phantom_scan, plan_cohort
from cohort.phantom.__main__ import main
from cohort.phantom.growth import BRAINSTEM, CORTEX, CSF, DEEP_GREY, VENTRICLES, WHITE_MATTER

ALL = ("T2w", "T1w", "FA", "MD")
VOXEL_MM = 2.5


@pytest.fixture(scope="module")
def scans():
    """A young and an old infant, and the young one with diffuse injury."""
    common = {"voxel_size": VOXEL_MM, "infant": "a", "modalities": ALL}
    injured = make_phantom_scan(34.0, {"diffuse_wmi": "moderate"}, **common)
    return make_phantom_scan(34.0, **common), make_phantom_scan(43.0, **common), injured


def on_t2w(scan, name):
    """A diffusion map on the T2w grid, by the generator's own motion."""
    array, affine = scan.channels[name]
    to_map = np.linalg.inv(affine) @ np.linalg.inv(scan.diffusion.to_t2w) @ scan.affine
    where = to_map[:3, :3] @ np.indices(scan.volume.shape).reshape(3, -1) + to_map[:3, 3:]
    return ndimage.map_coordinates(array, where, order=1).reshape(scan.volume.shape)


def mean(scan, image, label):
    return image[ndimage.binary_erosion(scan.dseg == label)].mean()


def test_contrast_is_that_of_newborns_and_changes_with_age(scans):
    young, old, _ = scans
    for scan in (young, old):
        t1w, affine = scan.channels["T1w"]
        assert t1w.dtype == np.int16 and (affine == scan.affine).all() and t1w.shape == scan.volume.shape
        grey, white, fluid = (mean(scan, t1w, label) for label in (DEEP_GREY, WHITE_MATTER, VENTRICLES))
        assert grey > 1.5 * white > 4 * fluid  # the inverse of T2w
        assert mean(scan, scan.volume, DEEP_GREY) < mean(scan, scan.volume, WHITE_MATTER)
    md, fa = ([on_t2w(scan, name) for scan in (young, old)] for name in ("MD", "FA"))
    assert 1.0e-3 < mean(old, md[1], WHITE_MATTER) < mean(young, md[0], WHITE_MATTER) < 1.7e-3  # mm2/s
    assert mean(young, md[0], VENTRICLES) > 2.3e-3
    assert 0.1 < mean(young, fa[0], WHITE_MATTER) < mean(old, fa[1], WHITE_MATTER) < 0.4
    t1 = [mean(scan, scan.channels["T1w"][0], BRAINSTEM) / mean(scan, scan.channels["T1w"][0], CSF) for scan in scans]
    assert t1[1] > t1[0]  # myelin
    assert young.channels["MD"][0][0].max() == 0  # masked


def test_diffuse_injury_shows_in_diffusion_and_hardly_on_t2w(scans):
    young, _, injured = scans
    change = {name: mean(injured, on_t2w(injured, name), WHITE_MATTER) for name in ("MD", "FA")}
    change = {name: value / mean(young, on_t2w(young, name), WHITE_MATTER) for name, value in change.items()}
    assert 1.12 < change["MD"] < 1.2 and 0.7 < change["FA"] < 0.85
    assert mean(injured, injured.volume, WHITE_MATTER) / mean(young, young.volume, WHITE_MATTER) < 1.015
    assert mean(injured, injured.volume, CORTEX) == pytest.approx(mean(young, young.volume, CORTEX), rel=0.005)
    assert injured.white_matter["MD"] > 1.15 and not young.white_matter


def test_the_t2w_image_does_not_depend_on_the_other_modalities(scans):
    alone = make_phantom_scan(34.0, voxel_size=VOXEL_MM, infant="a")
    assert (alone.volume == scans[0].volume).all() and alone.truth == scans[0].truth and not alone.channels


def by_hand(matrix, voxel, moving, reference):
    """The voxel of the reference that FLIRT's matrix gives: mm along the axes, the first reversed if det > 0."""
    point = []
    for axis, index in enumerate(voxel):
        size = np.sqrt((moving[0][:3, axis] ** 2).sum())
        flipped = axis == 0 and np.linalg.det(moving[0]) > 0
        point.append((moving[1][0] - 1 - index if flipped else index) * size)
    out = [sum(matrix[k][j] * point[j] for j in range(3)) + matrix[k][3] for k in range(3)]
    sizes = [np.sqrt((reference[0][:3, axis] ** 2).sum()) for axis in range(3)]
    found = [out[k] / sizes[k] for k in range(3)]
    if np.linalg.det(reference[0]) > 0:
        found[0] = reference[1][0] - 1 - found[0]
    return found


def test_the_transform_is_flirts_and_brings_the_ventricles_together():
    seen = set()
    for infant in ("a", "b", "c", "d"):
        scan = make_phantom_scan(36.0, {"ventriculomegaly": "severe"}, voxel_size=4.0, infant=infant, modalities=ALL)
        array, affine = scan.channels["MD"]
        moving, reference = (affine, array.shape), (scan.affine, scan.volume.shape)
        fluid = np.argwhere(array > 2.7e-3)
        there = np.array([by_hand(scan.diffusion.flirt, v, moving, reference) for v in fluid[::50]])
        labels = ndimage.map_coordinates(scan.dseg, there.T, order=0)
        assert np.isin(labels, (CSF, VENTRICLES)).mean() > 0.85
        mirrored = ndimage.map_coordinates(scan.dseg[::-1, ::-1], there.T, order=0)
        assert np.isin(mirrored, (CSF, VENTRICLES)).mean() < 0.6
        seen.add(np.linalg.det(affine) > 0)
    assert seen == {True, False}  # both handednesses of the voxel axes


def test_cohort_on_disk_has_the_names_of_dhcp_and_the_stated_share_missing(tmp_path):
    command = ["--preset", "diffuse", "--num_subjects", "6", "--voxel_size", "5", "--missing", "0.34"]
    folder = tmp_path / "cohort"
    assert main(["--output", str(folder), *command, "--num_workers", "1"]) == 0
    with open(folder / "truth.tsv", newline="") as stream:
        truth = list(csv.DictReader(stream, delimiter="\t"))
    assert sum("T1w" not in row["modalities"] for row in truth) == 2
    assert sum("FA MD" not in row["modalities"] for row in truth) == 2
    assert all((float(row["white_matter_MD"]) > 1) == (row["label"] == "1") for row in truth)
    for row in truth:
        stem = f"sub-{row['participant_id']}_ses-{row['session_id']}"
        session = f"sub-{row['participant_id']}/ses-{row['session_id']}"
        t1w = folder / session / "anat" / f"{stem}_desc-restore_space-T2w_T1w.nii.gz"
        diffusion = folder / "dmri_eddy_pipeline" / session
        assert t1w.is_file() == ("T1w" in row["modalities"]) and diffusion.is_dir() == ("FA" in row["modalities"])
        if diffusion.is_dir():
            assert np.loadtxt(diffusion / f"xfm/{stem}_from-dwi_to-T2w_mode-image.mat").shape == (4, 4)
            for name in ("FA", "MD"):
                image = nib.load(diffusion / f"dwi/{stem}_model-DTI_{name}.nii.gz")
                assert image.header.get_zooms() == (1.5, 1.5, 1.5) and image.get_data_dtype() == np.float32
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    shutil.rmtree(next((folder / "dmri_eddy_pipeline").iterdir()))
    assert main(["--output", str(folder), *command]) == 0
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
    with pytest.raises(PhantomFolderError, match=r"missing 0\.34, but 0\.15 was requested"):
        generate_phantom_cohort(folder, preset="diffuse", num_subjects=6, voxel_size=5, progress=False)


def test_what_is_missing_is_independent_of_the_label_and_wrong_calls_are_refused(tmp_path):
    plan = plan_cohort("dhcp", modalities=ALL)
    lacking = [scan for scan in plan if "T1w" not in scan.modalities]
    assert len(lacking) == round(0.15 * len(plan)) and {scan.label for scan in lacking} >= {0, 1}
    assert plan_cohort("dhcp")[0].modalities is None
    with pytest.raises(ValueError, match="no modality 'T3w'"):
        generate_phantom_cohort(tmp_path / "a", modalities=["T2w", "T3w"])
    with pytest.raises(ValueError, match="add T2w"):
        make_phantom_scan(modalities=["FA"])
    with pytest.raises(ValueError, match="missing share is 1"):
        generate_phantom_cohort(tmp_path / "a", missing=1.0)
    with pytest.raises(ValueError, match="choose one of mild, moderate"):
        Injury("diffuse_wmi", "severe")
