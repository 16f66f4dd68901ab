"""Reading compressed voxels with isal and without: the same bytes, the same refusals."""

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest

from preprocessing import VolumeError, read_volume, reading_gloresnet


@pytest.fixture(params=["isal", "gzip"])
def decoder(request, monkeypatch):
    """Both ways to decompress; the second is that of a machine without isal."""
    if request.param == "gzip":
        monkeypatch.setattr(reading_gloresnet, "igzip", None)
    elif reading_gloresnet.igzip is None:
        pytest.skip("isal is not installed")
    return request.param


def scan(tmp_path: Path, dtype=np.int16) -> tuple[Path, np.ndarray]:
    voxels = np.random.default_rng(5).gamma(2, 90, (40, 33, 21)).astype(dtype)
    path = tmp_path / "scan.nii.gz"
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([-0.5, 0.5, 0.5, 1])), path)
    return path, voxels


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_the_voxels_are_those_of_the_file(tmp_path, decoder, dtype):
    path, voxels = scan(tmp_path, dtype)
    found = read_volume(path).data
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, voxels[::-1])  # stored leftwards


def test_a_file_of_several_gzip_members_is_read_whole(tmp_path, decoder):
    path, voxels = scan(tmp_path)
    stored = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(stored[:5000]) + gzip.compress(stored[5000:]))
    np.testing.assert_array_equal(read_volume(path).data, voxels[::-1])


def test_damage_is_said_in_the_same_words(tmp_path, decoder):
    path, _ = scan(tmp_path)
    intact = path.read_bytes()
    path.write_bytes(intact[:-4000])
    with pytest.raises(VolumeError, match="scan.nii.gz has voxels that cannot be read .*: copy or export it again"):
        read_volume(path)
    path.write_bytes(intact[:-8] + bytes([intact[-8] ^ 1]) + intact[-7:])
    with pytest.raises(VolumeError, match="CRC"):
        read_volume(path)


def test_a_volume_whose_rare_bright_voxel_lies_between_the_samples_is_not_constant():
    data = np.zeros((17, 17, 17), np.float32)
    data[1, 2, 3] = 1
    assert read_volume(data).data.max() == 1
    with pytest.raises(VolumeError, match="constant"):
        read_volume(data * 0)
