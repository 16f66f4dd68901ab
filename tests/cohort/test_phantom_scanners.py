"""Scanners of phantom hospitals: what differs, what does not, and that their cohorts can be pooled."""

from dataclasses import replace
from math import exp

import numpy as np
import pytest

from cohort.phantom import plan_cohort
from cohort.phantom.acquisition import Acquisition
from cohort.phantom.growth import CSF, WHITE_MATTER
from cohort.phantom.scan import make_phantom_scan, without_artefacts
from cohort.phantom.scanners import SCANNERS
from cohort.phantom.writer import PhantomFolderError, generate_phantom_cohort
from cohort.scans import find_scans
from cohort.site_folds import sites_of


def test_scanner_a_acquires_as_a_scan_without_scanner():
    plain, same = make_phantom_scan(36.0, voxel_size=1.25), make_phantom_scan(36.0, scanner="a")
    assert np.array_equal(plain.volume, same.volume) and np.array_equal(plain.affine, same.affine)
    assert plain.truth == {name: value for name, value in same.truth.items() if name not in ("scanner", "echo_time_ms")}


@pytest.mark.parametrize(("scanner", "shape", "echo"), [("b", (100, 113, 79), 110), ("c", (95, 95, 70), 220)])
def test_other_scanners_have_another_grid_and_contrast_and_the_same_infant(scanner, shape, echo):
    scan = make_phantom_scan(40.0, scanner=scanner, acquisition=without_artefacts(Acquisition()))
    assert scan.volume.shape == shape and scan.truth["echo_time_ms"] == echo
    assert scan.target_volumes == make_phantom_scan(40.0, voxel_size=4.0).target_volumes
    # deep inside a tissue the point spread does not mix it with others; T2 at 40 weeks: 190 ms, 1500 ms in fluid
    white, fluid = (
        np.quantile(scan.volume[scan.dseg == tissue], q) for tissue, q in ((WHITE_MATTER, 0.5), (CSF, 0.98))
    )
    assert fluid / white == pytest.approx(exp(-echo / 1500) / exp(-echo / 190), rel=0.1)


def test_noise_blur_and_bias_are_multiplied():
    drawn = Acquisition(psf_fwhm_mm=0.9, snr=20.0, bias=0.03, motion=0.5)
    expected = replace(drawn, psf_fwhm_mm=0.9 * 2.6, snr=4.0, bias=0.3, echo_time_ms=220.0)
    assert SCANNERS["c"].applied(drawn) == expected
    air = {name: make_phantom_scan(40.0, scanner=name, acquisition=drawn).volume[:3, :3, :3].std() for name in "ac"}
    # the noise is white matter / SNR, and white matter is exp(-TE / 190 ms)
    ratio = exp(-220 / 190) / 4 / (exp(-156 / 190) / 20)
    assert air["c"] / air["a"] == pytest.approx(ratio, rel=0.5)


def test_cohorts_of_different_scanners_are_sites_that_share_no_infant(tmp_path):
    planned = [plan_cohort("dhcp", 40, seed=seed, scanner=name) for name in SCANNERS for seed in (1, 2)]
    families = [{scan.family_id for scan in scans} for scans in planned]
    for i, one in enumerate(families):
        assert all(not one & other for j, other in enumerate(families) if i // 2 != j // 2)
    scans = []
    for name in ("b", "c"):
        folder = generate_phantom_cohort(tmp_path / name, num_subjects=2, scanner=name, num_workers=1, progress=False)
        scans += find_scans(folder)
    assert sites_of(scans) == ["b", "c"]
    assert "sex, site (the scanner)\n" in (tmp_path / "b" / "README").read_text()
    with pytest.raises(PhantomFolderError, match="generated with scanner b, but None was requested"):
        generate_phantom_cohort(tmp_path / "b", num_subjects=2, voxel_size=1.6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scanner": "z"}, "there is no scanner 'z'; choose one of a, b, c"),
        ({"scanner": "b", "voxel_size": 1.0}, "scanner b has voxels of 1.6 mm, but voxels of 1 mm were requested"),
        ({"scanner": "b", "full_grid": True}, "scanner b has voxels of 1.6 mm, but full grids were requested"),
    ],
)
def test_settings_that_contradict_the_scanner_are_refused(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        generate_phantom_cohort(tmp_path / "new", **settings)
    assert not (tmp_path / "new").exists()
