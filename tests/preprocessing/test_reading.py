"""Reading compressed voxels with and without isal: the same voxels and the same errors."""

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest

from preprocessing import VolumeError, headers_gloresnet, read_volume


@pytest.fixture(params=["isal", "gzip"])
def decoder(request, monkeypatch):
    """Both decompressors; gzip is used where isal is not installed."""
    if request.param == "gzip":
        monkeypatch.setattr(headers_gloresnet, "igzip", None)
    elif headers_gloresnet.igzip is None:
        pytest.skip("isal is not installed")
    return request.param


def scan(tmp_path: Path, dtype=np.int16) -> tuple[Path, np.ndarray]:
    voxels = np.random.default_rng(5).gamma(2, 90, (40, 33, 21)).astype(dtype)
    path = tmp_path / "scan.nii.gz"
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([-0.5, 0.5, 0.5, 1])), path)
    return path, voxels


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_voxels_are_read_unchanged(tmp_path, decoder, dtype):
    path, voxels = scan(tmp_path, dtype)
    found = read_volume(path).data
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, voxels[::-1])  # stored from right to left


def test_a_file_with_several_gzip_members_is_read_completely(tmp_path, decoder):
    path, voxels = scan(tmp_path)
    stored = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(stored[:5000]) + gzip.compress(stored[5000:]))
    np.testing.assert_array_equal(read_volume(path).data, voxels[::-1])


def test_both_decoders_report_damage_in_the_same_words(tmp_path, decoder):
    path, _ = scan(tmp_path)
    intact = path.read_bytes()
    path.write_bytes(intact[:-4000])
    with pytest.raises(VolumeError, match="scan.nii.gz has voxels that cannot be read .*: copy or export it again"):
        read_volume(path)
    path.write_bytes(intact[:-8] + bytes([intact[-8] ^ 1]) + intact[-7:])
    with pytest.raises(VolumeError, match="CRC"):
        read_volume(path)


def test_one_bright_voxel_between_the_sampled_ones_is_enough_to_be_not_constant():
    data = np.zeros((17, 17, 17), np.float32)
    data[1, 2, 3] = 1
    assert read_volume(data).data.max() == 1
    with pytest.raises(VolumeError, match="constant"):
        read_volume(data * 0)
