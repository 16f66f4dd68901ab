"""Cross-fitting on candidates that are drawn at random: no image is read."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import expit

from cohort.scans import CohortError
from training.local import scorer
from training.local.scorer import Normal, packed, scores
from training.local.stream import inner_parts, parts_of, train_local_stream, with_injuries

CPU = torch.device("cpu")


class Bank:
    """Candidates of normal scans are noise; injured scans also have some with a dark middle."""

    def __init__(self, scans, seed=0):
        self.drawn, self.share = {}, {}
        for number, scan in enumerate(scans):
            random = np.random.default_rng([scan.label * seed, number])
            patches = random.normal(0, 0.8, (70, 2, 11, 11, 11))
            painted = random.normal(0, 0.8, (12, 2, 11, 11, 11))
            for dark in (painted, patches[: 3 * scan.label]):
                dark[:, :, 4:7, 4:7, 4:7] -= 2
            self.drawn[scan] = Normal(packed(patches), packed(patches[:20]), [packed(painted)])
            self.share[scan] = random.normal(size=9)

    def shares(self, scans):
        return np.array([self.share[scan] for scan in scans])

    def candidates(self, scan):
        return self.drawn[scan].as_acquired

    def normal(self, scan):
        assert scan.label == 0
        return self.drawn[scan]


@pytest.fixture
def scans(data):
    return list(data.rows)


def train(scans, folder, seed=0):
    return train_local_stream(scans, Bank(scans, seed), [7, 0], CPU, folder)


def weights(stream):
    return [value for network in stream.networks for value in network.state_dict().values()]


def equal(first, second):
    return all(torch.equal(a, b) for a, b in zip(weights(first), weights(second), strict=True))


def test_no_weight_depends_on_an_injured_scan(scans, quick, tmp_path):
    first, second = train(scans, tmp_path / "a"), train(scans, tmp_path / "b", seed=1)
    assert len(first.networks) == 4 and equal(first, second)
    assert first.voices.share_weights != second.voices.share_weights  # they do, as they must


def test_each_scan_is_scored_by_networks_that_have_not_seen_it(scans, quick, tmp_path):
    stream, bank = train(scans, tmp_path), Bank(scans)
    parts = inner_parts(scans, 7)
    each = np.array([[scores(n, bank.candidates(scan), CPU) for n in stream.networks] for scan in scans])
    injured = np.array([scan.label == 1 for scan in scans])
    mean, alone = each.mean(axis=1).max(axis=1), each.max(axis=2)
    # each network is moved to the scale of their mean by the injured scans, which are new to all
    alone += np.median(mean[injured, None] - alone[injured], axis=0)
    expected = np.where(injured, mean, alone[np.arange(len(scans)), parts])
    table = pd.read_csv(tmp_path / "scores.csv")
    assert np.allclose(table["score"], expected, atol=1e-5)
    slope, offset = stream.voices.calibration
    assert slope > 0
    assert np.allclose([answer.p_local for answer in stream.answers], expit(slope * expected + offset), atol=1e-5)


def test_a_painted_scan_is_as_suspicious_as_its_highest_injury():
    rng = np.random.default_rng(0)
    found = np.array([-1.0, 0.5, 3.0])
    drawn = with_injuries(1.0, found, rng)
    assert drawn.shape == (20,) and set(drawn) == {1.0, 3.0}  # 1 to 6 of the injuries are drawn
    assert (with_injuries(1.0, found[:0], rng) == 1.0).all()


def test_a_stopped_stream_continues_with_the_networks_that_are_finished(scans, quick, tmp_path, monkeypatch):
    whole = train(scans, tmp_path)
    (tmp_path / "network-1.safetensors").unlink()
    (tmp_path / "network-2.safetensors").write_bytes(b"cut short")
    trained = []
    train_scorer = scorer.train_scorer
    monkeypatch.setattr(
        "training.local.stream.train_scorer", lambda *args, **how: trained.append(args[1]) or train_scorer(*args, **how)
    )
    again = train(scans, tmp_path)
    assert trained == [[7, 0, 1], [7, 0, 2]] and equal(whole, again) and whole.voices == again.voices


def test_one_family_of_a_class_is_too_few(scans, tmp_path):
    few = [scan for scan in scans if scan.label == 0 or scan.participant_id == "P1"]
    with pytest.raises(CohortError, match="at least two families of each class"):
        train(few, tmp_path)


def test_a_part_with_all_normal_scans_leaves_a_network_none(scans):
    drawn = [("A", 1), ("A", 1), ("B", 0), ("B", 0), ("C", 1), ("C", 1), ("C", 0)]  # B and C land in one part
    few = [
        dataclasses.replace(scan, family=family, label=label)
        for scan, (family, label) in zip(scans, drawn, strict=False)
    ]
    with pytest.raises(CohortError, match="at least two families of each class"):
        parts_of(few, Bank(few), 81)


def test_normal_scans_without_white_matter_are_refused(scans, tmp_path):
    bank = Bank(scans)
    bank.drawn = {scan: material._replace(painted=[material.painted[0][:0]]) for scan, material in bank.drawn.items()}
    with pytest.raises(CohortError, match="No injury could be painted"):
        train_local_stream(scans, bank, [7, 0], CPU, tmp_path)
