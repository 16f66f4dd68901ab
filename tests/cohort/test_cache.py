"""The cache: it holds the processor's volumes, and only new or changed scans are processed."""

import gzip
import hashlib
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from datasets import Dataset
from datasets import config as datasets_config

from cohort import cache
from cohort.cache import standardised_volumes
from cohort.phantom import make_phantom_scan
from cohort.scans import find_scans
from preprocessing import GloResNetImageProcessor, VolumeError

PROCESSOR = GloResNetImageProcessor(image_size=16)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets_config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def built(monkeypatch):
    """The scans that each call had to process."""
    calls, build = [], cache._build
    monkeypatch.setattr(cache, "_build", lambda scans, *rest: calls.append([*scans]) or build(scans, *rest))
    return calls


@pytest.mark.parametrize("num_workers", [1, 2])
def test_rows_are_the_processors_volumes_in_scan_order(shared_tiny_cohort, num_workers):
    scans = find_scans(shared_tiny_cohort)[::-1]
    volumes, after = standardised_volumes(scans, PROCESSOR, num_workers=num_workers)
    assert after == scans and len(volumes) == 12
    for row, scan in zip(volumes.with_format("numpy"), scans, strict=True):
        expected = PROCESSOR(scan.image, return_tensors="np")["pixel_values"][0]
        assert row["pixel_values"].dtype == np.float32
        assert np.array_equal(row["pixel_values"], expected)
        assert row["sha256"] == hashlib.sha256(Path(scan.image).read_bytes()).hexdigest()


def test_the_volumes_of_a_model_with_a_local_stream_are_not_made_again(shared_tiny_cohort, built, monkeypatch):
    scans = find_scans(shared_tiny_cohort)[:2]
    searching = GloResNetImageProcessor(image_size=16, local_stream=True)
    monkeypatch.setattr(GloResNetImageProcessor, "search", None)  # it would be called in vain
    standardised_volumes(scans, searching, num_workers=1)
    standardised_volumes(scans, PROCESSOR, num_workers=1)
    assert [len(call) for call in built] == [2]


def test_torch_format_gives_tensors(shared_tiny_cohort):
    volumes, _ = standardised_volumes(find_scans(shared_tiny_cohort), PROCESSOR)
    tensor = volumes.with_format("torch", columns=["pixel_values"])[3]["pixel_values"]
    assert tuple(tensor.shape) == (1, 16, 16, 16) and str(tensor.dtype) == "torch.float32"


def test_only_new_or_changed_scans_are_processed(tiny_cohort, built):
    scans = find_scans(tiny_cohort)
    standardised_volumes(scans, PROCESSOR)
    standardised_volumes(scans, PROCESSOR)
    assert [len(call) for call in built] == [12]
    changed = Path(scans[4].image)
    changed.write_bytes(Path(scans[5].image).read_bytes())
    volumes, _ = standardised_volumes(scans, PROCESSOR)
    assert [len(call) for call in built] == [12, 1] and built[1] == [scans[4]]
    rows = volumes.with_format("numpy")
    assert np.array_equal(rows[4]["pixel_values"], rows[5]["pixel_values"])
    standardised_volumes(scans[:3], PROCESSOR)
    assert len(built) == 2


def decompress(path) -> Path:
    """Without compression all scans have one size."""
    plain = Path(path.removesuffix(".gz"))
    plain.write_bytes(gzip.decompress(Path(path).read_bytes()))
    Path(path).unlink()
    return plain


def keep_time(path, content, *, in_place):
    """Replace a file as `cp -p`, `rsync -t` and archives do: the new content gets the old modification time."""
    before = path.stat()
    assert len(content) == before.st_size
    if not in_place:
        path.unlink()
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns


@pytest.mark.parametrize("in_place", [True, False])
def test_a_scan_replaced_by_one_of_equal_size_and_time_is_read_again(tiny_cohort, in_place):
    scans = find_scans(tiny_cohort)
    for scan in scans[:2]:
        decompress(scan.image)
    scans = find_scans(tiny_cohort)
    old, _ = standardised_volumes(scans, PROCESSOR)
    first, second = (Path(scan.image) for scan in scans[:2])
    keep_time(first, second.read_bytes(), in_place=in_place)
    new, _ = standardised_volumes(scans, PROCESSOR)
    assert new[0]["sha256"] == hashlib.sha256(second.read_bytes()).hexdigest() != old[0]["sha256"]
    rows = new.with_format("numpy")
    assert np.array_equal(rows[0]["pixel_values"], rows[1]["pixel_values"])


@pytest.mark.parametrize("in_place", [True, False])
def test_a_mask_replaced_by_one_of_equal_size_and_time_is_read_again(tiny_cohort, in_place):
    scan = find_scans(tiny_cohort)[0]
    masked = GloResNetImageProcessor(image_size=16, brain_mask="required")
    mask = decompress(scan.mask)
    scan = find_scans(tiny_cohort)[0]
    old, _ = standardised_volumes([scan], masked)
    content = bytearray(mask.read_bytes())
    voxels = np.frombuffer(content, np.uint8, offset=352).reshape(nib.load(mask).shape, order="F")
    voxels[:4] = 0  # half of a brain
    keep_time(mask, bytes(content), in_place=in_place)
    new, _ = standardised_volumes([scan], masked)
    expected = masked(scan.image, mask=str(mask), return_tensors="np")["pixel_values"][0]
    volume = new.with_format("numpy")[0]["pixel_values"]
    assert np.array_equal(volume, expected) and not np.array_equal(volume, old.with_format("numpy")[0]["pixel_values"])


def test_a_scan_that_changes_while_it_is_read_is_not_cached(tiny_cohort):
    """Its volume and its hash may be of different files."""
    scan = find_scans(tiny_cohort)[0]
    key = cache._key(scan.image, scan.mask)
    Path(scan.image).write_bytes(Path(scan.image).read_bytes())
    with pytest.raises(VolumeError, match="changed while it was read"):
        cache._standardise(scan, key, PROCESSOR)


def test_other_settings_do_not_share_volumes(shared_tiny_cohort, built):
    scans = find_scans(shared_tiny_cohort)
    plain, _ = standardised_volumes(scans, PROCESSOR)
    masked, _ = standardised_volumes(scans, GloResNetImageProcessor(image_size=16, brain_mask="required"))
    assert len(built) == 2
    first = [volumes.with_format("numpy")[0]["pixel_values"] for volumes in (plain, masked)]
    assert not np.array_equal(*first)


def test_unreadable_scans_get_a_reason_and_are_tried_again(tiny_cohort, built):
    scans = find_scans(tiny_cohort)
    whole = Path(scans[2].image).read_bytes()
    Path(scans[2].image).write_bytes(whole[:100])
    volumes, after = standardised_volumes(scans, PROCESSOR)
    assert len(volumes) == 11
    assert after[2].status == "unreadable" and Path(scans[2].image).name in after[2].reason
    assert [s.status for s in after].count("used") == 11
    Path(scans[2].image).write_bytes(whole)
    volumes, after = standardised_volumes(scans, PROCESSOR)
    assert len(volumes) == 12 and after == scans
    assert [len(call) for call in built] == [12, 1]


def test_a_build_in_which_no_scan_can_be_read_leaves_nothing(tiny_cohort):
    scans = find_scans(tiny_cohort)[:3]
    for scan in scans:
        Path(scan.image).write_bytes(b"half")
    for _ in range(2):
        volumes, after = standardised_volumes(scans, PROCESSOR, num_workers=2)
        assert len(volumes) == 0 and volumes.column_names == ["pixel_values", "sha256"]
        assert [scan.status for scan in after] == ["unreadable"] * 3
    assert [path.name for path in cache._folder(PROCESSOR).iterdir()] == [".lock"]


def test_workers_that_are_done_first_get_more_scans(shared_tiny_cohort):
    """A file per worker would leave one idle. Each file must also stay small enough for the progress bar to move."""
    scans = find_scans(shared_tiny_cohort)
    standardised_volumes(scans, PROCESSOR, num_workers=2)
    files = [*cache._folder(PROCESSOR).glob("*/*.arrow")]
    assert len(files) == 6
    assert sorted(len(Dataset.from_file(str(file))) for file in files) == [2] * 6


def test_leftovers_of_an_interrupted_build_are_removed(shared_tiny_cohort, built):
    scans = find_scans(shared_tiny_cohort)
    folder = cache._folder(PROCESSOR)
    (folder / ".dead.partial").mkdir(parents=True)
    (folder / ".dead.partial" / "00000.arrow").write_bytes(b"half")
    volumes, _ = standardised_volumes(scans, PROCESSOR)
    assert len(volumes) == 12 and not list(folder.glob(".*.partial"))


def test_another_framing_or_bias_correction_is_another_cache(tiny_cohort, built):
    scans = find_scans(tiny_cohort)[:2]  # noise, no heads
    nib.save(make_phantom_scan(36.0, voxel_size=4.0).image(), scans[0].image)
    framed = GloResNetImageProcessor(image_size=16, framing="head")
    wider = GloResNetImageProcessor(image_size=16, framing="head", frame_mm=180)
    corrected = GloResNetImageProcessor(image_size=16, framing="head", bias_correction="n4")
    found = [standardised_volumes(scans, processor) for processor in (PROCESSOR, framed, wider, corrected)]
    assert [len(call) for call in built] == [2, 2, 2, 2]
    assert [[scan.status for scan in after] for _, after in found] == [["used"] * 2] + [["used", "unreadable"]] * 3
    assert "no complete head" in found[1][1][1].reason
    cubes = [np.array(volumes[0]["pixel_values"], np.float32) for volumes, _ in found]
    assert not any(np.array_equal(cubes[1], cubes[other]) for other in (0, 2, 3))
    assert np.array_equal(cubes[1], framed(scans[0].image, return_tensors="np")["pixel_values"][0])
