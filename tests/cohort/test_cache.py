"""The cache: it holds the processor's volumes, and only new or changed scans are processed."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from datasets import config as datasets_config

from cohort import cache
from cohort.cache import standardised_volumes
from cohort.scans import find_scans
from preprocessing import GloResNetImageProcessor

PROCESSOR = GloResNetImageProcessor(image_size=16)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets_config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def built(monkeypatch):
    """The scans that each call had to process."""
    calls, build = [], cache._build
    monkeypatch.setattr(cache, "_build", lambda scans, *rest: calls.append(scans) or build(scans, *rest))
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


def test_leftovers_of_an_interrupted_build_are_removed(shared_tiny_cohort, built):
    scans = find_scans(shared_tiny_cohort)
    folder = cache._folder(PROCESSOR)
    (folder / ".dead.partial").mkdir(parents=True)
    (folder / ".dead.partial" / "volumes.arrow").write_bytes(b"half")
    volumes, _ = standardised_volumes(scans, PROCESSOR)
    assert len(volumes) == 12 and not list(folder.glob(".*.partial"))
