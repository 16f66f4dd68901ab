"""Several images per session: names, roots, FSL's transforms, what is refused, and their place in the cache."""

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from datasets import config as datasets_config

from cohort.cache import standardised_volumes
from cohort.modalities import Channel
from cohort.phantom import generate_phantom_cohort
from cohort.scans import CohortError, find_scans, flow, read_cohort, write_cohort
from cohort.transforms import in_t2w_space
from preprocessing import GloResNetImageProcessor

ALL = ("T2w", "T1w", "FA", "MD")
STILL = "1 0 0 {}\n0 1 0 0\n0 0 1 0\n0 0 0 1\n"


def release(root: Path, sessions=(("CC00001XX01", "10"), ("CC00002XX02", "20"), ("CC00003XX03", "30"))):
    """An anatomical and a diffusion root with the names of dHCP release 3; the files are empty but the matrices."""
    anatomy, diffusion = root / "anat_pipeline", root / "dmri_eddy_pipeline"
    for number, (participant, session) in enumerate(sessions):
        stem, place = f"sub-{participant}_ses-{session}", f"sub-{participant}/ses-{session}"
        names = ["desc-restore_T2w", "T2w", "T1w", "space-T2w_T1w", "desc-restore_space-T2w_T1w", "desc-biasfield_T1w"]
        for folder, ending in ((anatomy / place / "anat", names), (diffusion / place / "dwi", ["FA", "MD", "L1"])):
            folder.mkdir(parents=True)
            for name in ending:
                (folder / f"{stem}_{'model-DTI_' if folder.name == 'dwi' else ''}{name}.nii.gz").touch()
        matrix = diffusion / place / "xfm" / f"{stem}_from-dwi_to-T2w_mode-image.mat"
        matrix.parent.mkdir()
        matrix.write_text(STILL.format(number + 1))
        (matrix.parent / f"{stem}_from-T2w_to-dwi_mode-image.mat").write_text(STILL.format(-number - 1))
    labels = "".join(f"{participant}\t{n % 2}\n" for n, (participant, _) in enumerate(sessions))
    (anatomy / "participants.tsv").write_text("participant_id\tlabel\n" + labels)
    return anatomy, diffusion


def test_files_are_found_by_entities_in_two_roots_and_kept_in_the_table(tmp_path):
    anatomy, diffusion = release(tmp_path)
    third = "sub-CC00003XX03/ses-30"
    shutil.rmtree(diffusion / third)
    second = anatomy / "sub-CC00002XX02/ses-20/anat"
    (second / "sub-CC00002XX02_ses-20_desc-restore_space-T2w_T1w.nii.gz").unlink()
    (second / "sub-CC00002XX02_ses-20_desc-restore_T1w.nii.gz").touch()  # not as good as one that names the space
    scans = find_scans(anatomy, modalities=ALL, also=[diffusion, anatomy])  # a root that is given twice counts once
    first = {c.modality: (Path(c.image).name, c.transform and Path(c.transform).name) for c in scans[0].channels}
    stem = "sub-CC00001XX01_ses-10"
    assert first == {
        "T1w": (f"{stem}_desc-restore_space-T2w_T1w.nii.gz", None),
        "FA": (f"{stem}_model-DTI_FA.nii.gz", f"{stem}_from-dwi_to-T2w_mode-image.mat"),
        "MD": (f"{stem}_model-DTI_MD.nii.gz", f"{stem}_from-dwi_to-T2w_mode-image.mat"),
    }
    assert Path(scans[1].channels[0].image).name == "sub-CC00002XX02_ses-20_space-T2w_T1w.nii.gz"
    assert [c.modality for c in scans[2].channels] == ["T1w"] and scans[2].status == "used"
    counts = flow(scans)
    assert [counts[f"used with {m}"] for m in ALL[1:]] == [3, 2, 2] and counts["used"] == 3
    in_another_order = find_scans(anatomy, modalities=("T2w", "MD", "T1w", "FA"), also=[diffusion])
    assert in_another_order == scans  # a run compares them with those of its table
    write_cohort(scans, tmp_path / "cohort.csv")
    header = (tmp_path / "cohort.csv").read_text().splitlines()[0]
    assert header.endswith(",T1w,FA,FA_transform,MD,MD_transform")
    assert read_cohort(tmp_path / "cohort.csv") == scans
    alone = find_scans(anatomy)
    write_cohort(alone, tmp_path / "alone.csv")  # as before
    assert "T1w" not in (tmp_path / "alone.csv").read_text().splitlines()[0]
    assert not alone[0].channels and "used with T1w" not in flow(alone)


def misnamed(anatomy, diffusion):
    folder = diffusion / "sub-CC00001XX01/ses-10/dwi"
    (folder / "sub-CC00001XX01_ses-10_model-DTI_FA.nii.gz").rename(
        folder / "sub-CC00002XX02_ses-20_model-DTI_FA.nii.gz"
    )


def of_another_session(anatomy, diffusion):
    matrices = sorted(diffusion.glob("*/*/xfm/*_from-dwi_to-T2w_mode-image.mat"))
    matrices[1].write_text(matrices[0].read_text())


def linked_to_another(anatomy, diffusion):
    first, second = sorted(diffusion.glob("*/*/dwi/*_FA.nii.gz"))[:2]
    second.unlink()
    second.symlink_to(first)


def without_transform(anatomy, diffusion):
    next(diffusion.glob("sub-CC00002*/*/xfm/*_from-dwi_*")).unlink()


def twice(anatomy, diffusion):
    file = next(diffusion.glob("sub-CC00002*/*/dwi/*_FA.nii.gz"))
    file.with_name(file.name.replace("_model", "_run-2_model")).touch()


def annexed(anatomy, diffusion):
    file = next(diffusion.glob("sub-CC00002*/*/dwi/*_MD.nii.gz"))
    file.unlink()
    file.symlink_to("../../.git/annex/objects/aa/bb/MD5E-s12--12.nii.gz/MD5E-s12--12.nii.gz")


def nowhere(anatomy, diffusion):
    for file in diffusion.glob("*/*/dwi/*_MD.nii.gz"):
        file.unlink()


def empty_root(anatomy, diffusion):
    shutil.rmtree(diffusion)
    diffusion.mkdir()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (misnamed, "sub-CC00002XX02_ses-20_model-DTI_FA.nii.gz is named after another subject or session"),
        (of_another_session, "same transform as .*sub-CC00001XX01_ses-10_from.*sub-CC00002XX02 ses-20 and sub-CC00001"),
        (linked_to_another, "sub-CC00002XX02_ses-20_model-DTI_FA.nii.gz is the same image as "),
        (without_transform, "transform of .*sub-CC00002XX02_ses-20_model-DTI_FA.nii.gz to the T2w scan is missing"),
        (twice, "sub-CC00002XX02 ses-20 has several FA images: .*run-2"),
        (annexed, "sub-CC00002XX02_ses-20_model-DTI_MD.nii.gz has not been fetched: run `"),
        (nowhere, r"No scan in use has MD: looked for dwi/\*_space-T2w_model-DTI_MD or \*_model-DTI_MD .*--also"),
        (empty_root, "dmri_eddy_pipeline is empty"),
    ],
)
def test_a_channel_that_cannot_be_right_is_an_error_that_names_it(tmp_path, damage, message):
    anatomy, diffusion = release(tmp_path)
    damage(anatomy, diffusion)
    with pytest.raises(CohortError, match=message):
        find_scans(anatomy, modalities=ALL, also=[diffusion])
    assert len(find_scans(anatomy)) == 3  # T2w alone


def flirt(world, moving, reference):
    """FLIRT's matrix by hand: mm along the stored axes, the first from the other end if they are right-handed."""

    def to_world(affine, shape):
        sizes = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
        index = np.diag([*(1 / sizes), 1.0])
        if np.linalg.det(affine) > 0:
            index[0, 0], index[0, 3] = -1 / sizes[0], shape[0] - 1
        return affine @ index

    return np.linalg.inv(to_world(*reference)) @ world @ to_world(*moving)


@pytest.mark.parametrize("flips", [(1, 1), (1, -1), (-1, 1), (-1, -1)])
def test_a_transform_is_read_in_flirts_convention_for_all_handednesses(tmp_path, flips):
    rng = np.random.default_rng(1)
    images = []
    for flip, shape, sizes in zip(flips, ((7, 9, 6), (11, 8, 10)), ((2.0, 1.5, 3.0), (1.0, 1.2, 0.9)), strict=True):
        affine = np.diag([flip * sizes[0], *sizes[1:], 1.0])
        affine[:3, 3] = rng.uniform(-20, 20, 3)
        images.append(nib.Nifti1Image(rng.random(shape, np.float32), affine))
    angle = np.radians(8)
    world = np.eye(4)
    world[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    world[:3, 3] = 3.0, -5.0, 7.0
    moving, t2w = images
    matrix = tmp_path / "m.mat"
    np.savetxt(matrix, flirt(world, (moving.affine, moving.shape), (t2w.affine, t2w.shape)), fmt="%.10f")
    placed = in_t2w_space(moving, matrix, t2w)
    brightest = np.unravel_index(np.argmax(placed.data), placed.data.shape)
    stored = np.unravel_index(np.argmax(moving.dataobj), moving.shape)
    assert np.allclose(placed.affine @ [*brightest, 1], world @ moving.affine @ [*stored, 1], atol=1e-6)
    assert np.allclose(in_t2w_space(moving, None, t2w).affine[:3, :3], np.abs(moving.affine[:3, :3]))


def test_a_matrix_that_cannot_be_a_motion_is_refused(tmp_path):
    image = nib.Nifti1Image(np.random.default_rng(0).random((6, 6, 6), np.float32), np.diag([-1.5, 1.5, 1.5, 1]))
    for text, message in (
        ("-1 0 0 9\n0 1 0 0\n0 0 1 0\n0 0 0 1", "m.mat mirrors the image"),
        ("0.5 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1", r"m.mat scales the image by 0.50 to 1.00"),
        ("0 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1", "not a matrix of FSL's FLIRT"),
        ("1 0 0\n0 1 0\n0 0 1", "not 4 rows of 4 finite numbers"),
        ("1 0 0 nan\n0 1 0 0\n0 0 1 0\n0 0 0 1", "not 4 rows of 4 finite numbers"),
        ("#Insight Transform File V1.0", "could not convert string to float"),
        ("1 " * 9000, "it has 18000 bytes"),
    ):
        (tmp_path / "m.mat").write_text(text)
        with pytest.raises(CohortError, match=message):
            in_t2w_space(image, tmp_path / "m.mat", image)
    with pytest.raises(CohortError, match="No such file"):
        in_t2w_space(image, tmp_path / "none.mat", image)


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    folder = tmp_path_factory.mktemp("multimodal") / "cohort"
    options = {"preset": "diffuse", "num_subjects": 3, "voxel_size": 5, "missing": 0.34, "progress": False}
    return generate_phantom_cohort(folder, num_workers=1, **options)


@pytest.fixture
def multimodal(phantoms, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets_config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return shutil.copytree(phantoms, tmp_path / "cohort")


PROCESSOR = GloResNetImageProcessor(image_size=16, modalities=ALL)


def found(folder):
    return find_scans(folder, modalities=ALL, also=[folder / "dmri_eddy_pipeline"])


@pytest.mark.filterwarnings("error:.*The scan has no")  # the flow counts what is missing
def test_volumes_have_a_channel_for_each_modality_and_zeros_for_a_missing_one(multimodal):
    scans = found(multimodal)
    volumes, after = standardised_volumes(scans, PROCESSOR, num_workers=1)
    assert after == scans
    alone, _ = standardised_volumes(find_scans(multimodal), GloResNetImageProcessor(image_size=16), num_workers=1)
    assert alone.column_names == ["pixel_values", "sha256"]
    lacking = 0
    for row, single, scan in zip(volumes.with_format("numpy"), alone.with_format("numpy"), scans, strict=True):
        held = ["T2w", *(c.modality for c in scan.channels)]
        assert [m for m, present in zip(ALL, row["presence"], strict=True) if present] == held
        assert np.array_equal(row["pixel_values"][0], single["pixel_values"][0])
        for channel, modality in zip(row["pixel_values"], ALL, strict=True):
            assert channel.std() == pytest.approx(float(modality in held), abs=1e-4)
        lacking += len(held) < 4
    assert 1 <= lacking <= 2


def test_a_changed_transform_makes_the_volume_again_and_a_wrong_one_is_named(multimodal):
    scans = found(multimodal)
    before, _ = standardised_volumes(scans, PROCESSOR, num_workers=2)
    moved = next(n for n, scan in enumerate(scans) if len(scan.channels) > 1)
    matrix = Path(scans[moved].channels[-1].transform)
    numbers = np.loadtxt(matrix)
    numbers[2, 3] += 6.0  # mm
    np.savetxt(matrix, numbers)
    after, _ = standardised_volumes(scans, PROCESSOR, num_workers=2)
    same = [np.array_equal(a, b) for a, b in zip(before["pixel_values"], after["pixel_values"], strict=True)]
    assert same == [n != moved for n in range(3)]
    numbers[0, 3] += 90.0
    np.savetxt(matrix, numbers)
    name = Path(next(c.image for c in scans[moved].channels if c.modality == "FA")).name
    with pytest.raises(CohortError, match=f"{name}.* of the head.*Or remove that file"):
        standardised_volumes(scans, PROCESSOR, num_workers=2)


@pytest.mark.filterwarnings("ignore:.*T1w: ")
def test_the_t2w_scan_is_blamed_for_its_own_damage_and_a_doubt_about_a_channel_is_told(multimodal):
    scans = found(multimodal)
    scan = next(scan for scan in scans if scan.channels and scan.channels[0].modality == "T1w")
    t1w = nib.load(scan.channels[0].image)
    t1w.set_sform(t1w.affine * [[1], [1], [1.1], [1]], code=1)
    nib.save(t1w, scan.channels[0].image)
    doubts = in_t2w_space(scan.channels[0].image, None, scan.image).warnings
    assert any(doubt.startswith("The sform (code 1) and the qform") for doubt in doubts)
    Path(scan.image).write_bytes(b"damaged")
    _, after = standardised_volumes(scans, PROCESSOR, num_workers=1)
    damaged = next(s for s in after if s.image == scan.image)
    assert damaged.status == "unreadable" and "T2w" in damaged.reason
    assert flow(after)["used"] == 2 and Channel("T1w", scan.channels[0].image, None) in damaged.channels
