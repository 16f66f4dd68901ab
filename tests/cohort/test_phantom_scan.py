"""One phantom scan: volumes, contrast, symmetry and injuries, compared with formulae written out by hand."""

import dataclasses
import math

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from cohort.phantom import INJURIES, FieldOfView, Grid, Injury, full_grid, make_phantom_scan
from cohort.phantom.acquisition import Acquisition, add_motion, add_rician_noise
from cohort.phantom.fields import SmoothField, named_rng
from cohort.phantom.growth import normal_volumes, with_atrophy, with_ventricles
from cohort.phantom.pathology import sphere_fraction

STILL = Acquisition(snr=math.inf, bias=0.0)
CSF, CORTEX, WHITE, VENTRICLES, CEREBELLUM, DEEP, STEM, HIPPOCAMPUS = 1, 2, 3, 5, 6, 7, 8, 9


def labelled_median(scan, label):
    return float(np.median(scan.volume[(scan.dseg == label) & (scan.lesion_mask == 0)]))


@pytest.fixture(scope="module")
def normal():
    return make_phantom_scan(40.0, seed=3, voxel_size=1.25, acquisition=STILL)


def test_growth_formulae():
    for weeks, brain, cortex, fluid in ((30, 160.0, 39.68, 63.0), (40, 365.0, 131.85, 78.0), (44, 447.0, 213.1, 84.0)):
        volumes = normal_volumes(weeks)
        assert volumes.brain == pytest.approx(brain)
        assert volumes.cortex == pytest.approx(cortex, rel=1e-3)
        assert volumes.intracranial == pytest.approx(brain + fluid)
        assert volumes.ventricles == pytest.approx(7.0)
        assert volumes.cerebellum / brain == pytest.approx(0.06) and volumes.brainstem / brain == pytest.approx(0.02)
        assert 0.06 <= volumes.deep_grey / brain <= 0.07
    assert normal_volumes(40, brain_z=1.0).brain == pytest.approx(365 * 1.11)
    assert normal_volumes(40, ventricle_z=9.0).ventricles == 12.0
    assert normal_volumes(40, ventricle_z=-9.0).ventricles == 3.0


def test_injured_volumes_are_consistent():
    normal = normal_volumes(36)
    large = with_ventricles(normal, 35.0, 35.0)
    assert large.brain == pytest.approx(normal.brain)  # displaced, not lost
    huge = with_ventricles(normal_volumes(29), 60.0, 60.0)
    assert huge.ventricles == pytest.approx(0.20 * huge.intracranial)
    lost = with_atrophy(normal, 0.25, 0.20)
    assert lost.white_matter / normal.white_matter == pytest.approx(0.75)
    assert lost.deep_grey / normal.deep_grey == pytest.approx(0.80)
    assert 1.3 <= lost.extra_axial_csf / normal.extra_axial_csf <= 2.0
    assert lost.cortex == normal.cortex


@pytest.mark.parametrize("weeks", [29.0, 37.0, 45.0])
def test_dseg_holds_the_target_volumes(weeks):
    scan = make_phantom_scan(weeks, seed=5, voxel_size=1.5)
    target, got = scan.target_volumes, scan.volumes_ml
    assert got["brain"] == pytest.approx(target.brain, rel=0.01)
    assert got["intracranial"] == pytest.approx(target.intracranial, rel=0.01)
    assert got["cortical_grey_matter"] == pytest.approx(target.cortex, rel=0.01)
    assert got["white_matter"] == pytest.approx(target.white_matter, rel=0.03)
    assert got["deep_grey_matter"] == pytest.approx(target.deep_grey, rel=0.02)
    assert got["cerebellum"] == pytest.approx(target.cerebellum, rel=0.02)
    assert got["brainstem"] == pytest.approx(target.brainstem, rel=0.05)
    assert got["lateral_ventricles"] == pytest.approx(target.ventricles, rel=0.03)
    # the truth table agrees with the voxels counted in the masks
    voxel_ml = 1.5**3 / 1000
    assert np.count_nonzero(scan.brain_mask) * voxel_ml == pytest.approx(got["intracranial"])
    assert np.count_nonzero(scan.dseg == VENTRICLES) * voxel_ml == pytest.approx(scan.truth["lateral_ventricles_ml"])
    assert set(np.unique(scan.dseg)) == {0, 1, 2, 3, 5, 6, 7, 8, 9}
    assert np.array_equal(scan.brain_mask > 0, scan.dseg > 0)
    # the whole intracranial space is inside the field of view
    for axis in range(3):
        ends = np.take(scan.brain_mask, [0, -1], axis=axis)
        assert not ends.any()


def test_grid_shape_and_proportions(normal):
    assert normal.volume.shape == (116, 116, 82)
    assert normal.volume.dtype == np.int16
    assert nib.aff2axcodes(normal.affine) == ("R", "A", "S")
    extent = [
        np.ptp(np.flatnonzero(normal.brain_mask.any(axis=tuple(k for k in range(3) if k != axis)))) * 1.25
        for axis in range(3)
    ]
    assert extent[0] / extent[1] == pytest.approx(0.78, abs=0.05)
    assert extent[2] / extent[1] == pytest.approx(0.72, abs=0.05)


@pytest.mark.parametrize(("weeks", "cortex", "fluid"), [(30.0, 0.741, 1.64), (40.0, 0.664, 2.05)])
def test_contrast_in_the_image(weeks, cortex, fluid):
    scan = make_phantom_scan(weeks, seed=7, voxel_size=1.0, acquisition=STILL)
    white = labelled_median(scan, WHITE)
    assert labelled_median(scan, VENTRICLES) / white == pytest.approx(fluid, rel=0.05)
    # the cortex is thin, and signal of CSF and white matter spreads into its border: measure the interior only
    inner_cortex = ndimage.binary_erosion(scan.dseg == CORTEX)
    assert np.median(scan.volume[inner_cortex]) / white == pytest.approx(cortex, rel=0.06)
    assert labelled_median(scan, DEEP) / white == pytest.approx(0.65, abs=0.05)
    assert labelled_median(scan, CEREBELLUM) / white == pytest.approx(0.70, abs=0.06)
    assert labelled_median(scan, STEM) / white == pytest.approx(0.55, abs=0.05)
    # sub-clusters: more than one value, even without noise
    inner = scan.volume[scan.dseg == WHITE]
    assert 0.02 < np.std(inner[np.abs(inner / white - 1) < 0.15]) / white < 0.1


def test_left_right_symmetry(normal):
    flipped = normal.dseg[::-1]
    shift = STILL.shift[0]
    assert shift == 0.0
    overlap = np.count_nonzero((normal.dseg == flipped) & (normal.dseg > 0)) / np.count_nonzero(normal.dseg)
    assert 0.8 < overlap < 0.999
    for label in (CORTEX, WHITE, DEEP, CEREBELLUM):
        left, right = (normal.dseg[:58] == label).sum(), (normal.dseg[58:] == label).sum()
        assert left == pytest.approx(right, rel=0.05)


def test_scalp_surrounds_the_head(normal):
    head = normal.volume > 0.15 * labelled_median(normal, WHITE)
    row = head[58, :, 45]
    front = np.flatnonzero(row)[-1]
    brain_front = np.flatnonzero(normal.brain_mask[58, :, 45])[-1]
    assert 3.0 <= (front - brain_front) * 1.25 <= 7.5
    assert normal.volume[0].max() == 0  # air, without noise


@pytest.mark.parametrize(
    ("severity", "low", "high"), [("mild", 1.5, 2.5), ("moderate", 2.5, 5.0), ("severe", 5.0, 10.0)]
)
def test_ventriculomegaly_factor(severity, low, high):
    scan = make_phantom_scan(40.0, {"ventriculomegaly": severity}, seed=1, voxel_size=2.0)
    assert low * 0.98 <= scan.volumes_ml["lateral_ventricles"] / 7.0 <= high * 1.02
    assert scan.volumes_ml["brain"] == pytest.approx(scan.target_volumes.brain, rel=0.01)


def test_one_sided_ventriculomegaly():
    scan = make_phantom_scan(38.0, [Injury("ventriculomegaly", "severe", "left")], voxel_size=2.0)
    assert scan.truth["left_ventricle_ml"] > 1.8 * scan.truth["right_ventricle_ml"]
    # the infant's left is the low end of the first axis
    half = scan.dseg.shape[0] // 2
    assert (scan.dseg[:half] == VENTRICLES).sum() > 1.5 * (scan.dseg[half:] == VENTRICLES).sum()


def test_cysts_are_bright_and_have_the_stated_size():
    scan = make_phantom_scan(37.0, {"cystic_pvl": "large"}, seed=2, voxel_size=1.0, acquisition=STILL)
    cysts = scan.lesion_mask == 1
    assert np.median(scan.volume[cysts]) == pytest.approx(labelled_median(scan, VENTRICLES), rel=0.05)
    assert all(8.0 <= lesion.diameter <= 10.0 for lesion in scan.lesions)
    spheres = sum(math.pi / 6 * lesion.diameter**3 for lesion in scan.lesions) / 1000
    assert scan.volumes_ml["cyst_lesion"] == pytest.approx(spheres, rel=0.15)
    assert scan.truth["cyst_count"] == len(scan.lesions)
    small = make_phantom_scan(37.0, {"cystic_pvl": "small"}, seed=2, voxel_size=2.0)
    assert all(2.0 <= lesion.diameter <= 5.0 for lesion in small.lesions)
    chain = make_phantom_scan(37.0, {"cystic_pvl": "confluent"}, seed=2, voxel_size=2.0)
    assert 12.0 <= chain.truth["cyst_max_extent_mm"] <= 20.0


def test_clot_is_dark_and_fills_the_stated_fraction():
    for severity, low, high in (("minor", 0.10, 0.50), ("major", 0.50, 0.90)):
        scan = make_phantom_scan(
            36.0,
            [Injury("ivh", severity, "right"), Injury("ventriculomegaly", "moderate")],
            seed=4,
            voxel_size=1.25,
            acquisition=STILL,
        )
        clot = scan.lesion_mask == 2
        half = scan.dseg.shape[0] // 2
        ventricle = (scan.dseg == VENTRICLES)[half:].sum()
        assert low <= clot[half:].sum() / ventricle <= high
        assert scan.truth["clot_fraction_right"] == pytest.approx(clot[half:].sum() / ventricle, abs=0.03)
        assert not (clot & (scan.dseg != VENTRICLES)).any()
        assert 0.1 <= np.median(scan.volume[clot]) / labelled_median(scan, WHITE) <= 0.4


def test_punctate_lesions_contrast_and_size():
    arguments = {"scan_age": 35.0, "seed": 8, "voxel_size": 0.8, "acquisition": STILL}
    scan = make_phantom_scan(injuries={"punctate": "many"}, **arguments)
    assert 6 <= scan.truth["punctate_count"] <= 15
    assert all(1.0 <= lesion.diameter <= 3.0 for lesion in scan.lesions)
    contrasts = np.array([lesion.contrast for lesion in scan.lesions])
    assert np.all((contrasts >= -0.35) & (contrasts <= -0.01)) and -0.27 < contrasts.mean() < -0.09
    # compared with the same infant without lesions, only the lesions differ, by the stated contrast after blurring
    healthy = make_phantom_scan(**arguments)
    change = (scan.volume.astype(float) - healthy.volume) / labelled_median(healthy, WHITE)
    far = np.abs(change) > 0.01
    assert far.any() and change.min() >= contrasts.min() - 0.01 and change.max() < 0.01
    expected = sum(lesion.contrast * math.pi / 6 * lesion.diameter**3 for lesion in scan.lesions)
    assert change.sum() * 0.8**3 == pytest.approx(expected, rel=0.15)


def test_atrophy_in_the_image():
    sick = make_phantom_scan(38.0, {"atrophy": "severe"}, seed=6, voxel_size=1.5)
    healthy = make_phantom_scan(38.0, seed=6, voxel_size=1.5)
    assert sick.volumes_ml["white_matter"] / healthy.volumes_ml["white_matter"] == pytest.approx(0.75, abs=0.02)
    assert sick.volumes_ml["deep_grey_matter"] / healthy.volumes_ml["deep_grey_matter"] == pytest.approx(0.80, abs=0.02)
    assert 1.3 <= sick.volumes_ml["csf"] / healthy.volumes_ml["csf"] <= 2.05


def test_noise_is_rician():
    rng = np.random.default_rng(0)
    air = add_rician_noise(np.zeros((60, 60, 60), np.float32), 10.0, rng)
    assert air.mean() == pytest.approx(10.0 * math.sqrt(math.pi / 2), rel=0.01)  # Rayleigh
    bright = add_rician_noise(np.full((60, 60, 60), 500, np.float32), 10.0, rng)
    assert bright.std() == pytest.approx(10.0, rel=0.02)


def test_motion_grows_with_its_strength(normal):
    image = normal.volume.astype(np.float32)
    grid = Grid(image.shape, 1.25)
    weak, strong = (np.abs(add_motion(image, s, grid, np.random.default_rng(1)) - image).mean() for s in (0.2, 1.0))
    assert 0 < weak < strong


def test_bias_field_stays_within_its_strength():
    flat = make_phantom_scan(36.0, voxel_size=2.5, acquisition=STILL).volume.astype(float)
    uneven = make_phantom_scan(36.0, voxel_size=2.5, acquisition=Acquisition(snr=math.inf, bias=0.05)).volume
    inside = flat > 100
    ratio = uneven[inside] / flat[inside]
    assert 0.94 <= ratio.min() < 0.99 < ratio.max() <= 1.06


def test_same_names_give_the_same_scan_and_twins_are_similar():
    first, again = (make_phantom_scan(36.0, voxel_size=3.0, infant="A") for _ in range(2))
    assert np.array_equal(first.volume, again.volume)
    twin = make_phantom_scan(36.0, voxel_size=3.0, infant="B")
    stranger = make_phantom_scan(36.0, voxel_size=3.0, infant="A", family="other")
    assert not np.array_equal(first.dseg, twin.dseg) and not np.array_equal(first.dseg, stranger.dseg)
    shared = SmoothField(named_rng(1, "f"), named_rng(1, "a"), 10.0).coefficients.ravel()
    sibling = SmoothField(named_rng(1, "f"), named_rng(1, "b"), 10.0).coefficients.ravel()
    assert np.corrcoef(shared, sibling)[0, 1] == pytest.approx(0.8, abs=0.02)


def test_field_is_the_same_on_axes_and_at_points():
    field = SmoothField(named_rng(0, "f"), named_rng(0, "o"), 12.0)
    x, y, z = np.linspace(-50, 40, 7), np.linspace(-60, 60, 5), np.linspace(-30, 35, 6)
    points = np.meshgrid(x, y, z, indexing="ij")
    np.testing.assert_allclose(field.on_axes(x, y, z), field.at(*points), atol=1e-4)


def test_sphere_fraction_has_the_volume_of_a_sphere():
    axes = [np.arange(20.0)] * 3
    _, fraction = sphere_fraction(axes, (9.3, 10.1, 8.8), 7.0, (20, 20, 20))
    assert fraction.sum() == pytest.approx(math.pi / 6 * 7.0**3, rel=0.01)


@pytest.mark.parametrize("axcodes", [("L", "P", "S"), ("S", "R", "A")])
def test_every_axis_order_shows_the_same_head(axcodes):
    plain = make_phantom_scan(36.0, grid=Grid((30, 34, 26), 5.0))
    turned = make_phantom_scan(36.0, grid=Grid((30, 34, 26), 5.0, axcodes, (3.0, -4.0, 5.0)))
    assert nib.aff2axcodes(turned.affine) == axcodes
    canonical = nib.as_closest_canonical(turned.image())
    assert np.array_equal(np.asarray(canonical.dataobj), plain.volume)
    np.testing.assert_allclose(canonical.affine[:3, 3] - plain.affine[:3, 3], (3.0, -4.0, 5.0))
    assert turned.image().header["qform_code"] == 1 and turned.image().header["sform_code"] == 1


def test_full_grids_match_the_release():
    grids = [full_grid(np.random.default_rng(k)) for k in range(25)]
    shapes = {g.stored(np.empty(g.ras_shape, bool)).shape for g in grids}
    assert shapes == {(290, 290, 203), (217, 290, 290)}
    assert len({g.axcodes for g in grids}) >= 4
    assert {g.voxel_size for g in grids} == {0.5}
    assert len({tuple(g.affine.ravel()) for g in grids}) == 25


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"scan_age": 20.0}, "20 weeks"),
        ({"motion": 2.0}, "motion strength is 2"),
        ({"voxel_size": 0.1}, "voxel size is 0.1"),
        ({"injuries": {"stroke": "mild"}}, "no injury named 'stroke'"),
        ({"injuries": {"ivh": "mild"}}, "choose one of minor, major"),
    ],
)
def test_wrong_calls_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        make_phantom_scan(**call)


def test_every_injury_can_be_generated_on_a_coarse_grid():
    for name, severities in INJURIES.items():
        scan = make_phantom_scan(31.0, {name: severities[-1]}, voxel_size=4.0)
        assert scan.truth["injuries"] == f"{name}:{severities[-1]}"


def test_a_field_of_view_moves_and_turns_the_head_and_adds_a_neck():
    plain = FieldOfView(10, 20, 15, 12, 30, 8)
    scan = make_phantom_scan(36.0, voxel_size=3.0, field_of_view=plain)
    turned = make_phantom_scan(36.0, voxel_size=3.0, field_of_view=dataclasses.replace(plain, nod=15.0))
    bare = make_phantom_scan(36.0, voxel_size=3.0, field_of_view=dataclasses.replace(plain, neck=False))
    wider = make_phantom_scan(36.0, voxel_size=3.0, field_of_view=dataclasses.replace(plain, left_mm=40))
    assert wider.volume.shape[0] - scan.volume.shape[0] == 10 and wider.volume.shape[1:] == scan.volume.shape[1:]
    brain, moved = (np.argwhere(each.brain_mask)[:, 0].mean() for each in (scan, wider))
    assert moved - brain == pytest.approx(10, abs=0.5)  # 30 mm more on the left
    assert scan.volumes_ml["brain"] == pytest.approx(scan.target_volumes.brain, rel=0.02)
    assert turned.volumes_ml["brain"] == pytest.approx(scan.volumes_ml["brain"], rel=0.02)
    axes = [np.linalg.eigh(np.cov(np.argwhere(each.brain_mask)[:, 1:].T))[1][:, 1] for each in (scan, turned)]
    level, steep = (np.degrees(np.arctan2(up, front)) % 180 for front, up in axes)  # the long axis of the brain
    assert (steep - level) % 180 == pytest.approx(15, abs=3)  # a positive nod lifts the front
    assert scan.volume[:, :, 0].max() > 100 > bare.volume[:, :, 0].max()
    assert "field_of_view_nod" in turned.truth and "field_of_view_nod" not in make_phantom_scan(voxel_size=4.0).truth
