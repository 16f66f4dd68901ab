"""A cohort of small balls of noise that stand for stripped brains, and a scorer that is trained for seconds only."""

import nibabel
import numpy as np
import pytest

from training.local import bank, scorer

EDGE, SPACING, RADIUS_MM = 52, 1.1, 24.0


def write_brains(folder, subjects=8, seed=0):
    """Skull-stripped balls; every second one has a bright middle and a score of 5."""
    random = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[(np.arange(EDGE) - EDGE / 2) * SPACING] * 3, indexing="ij"))
    radius = np.sqrt((grid**2).sum(axis=0))
    rows = ["participant_id\tradiology_score"]
    for number in range(subjects):
        volume = random.normal(300, 20, radius.shape)
        volume[radius < 4 + 8 * (number % 2)] = 600
        volume[radius > RADIUS_MM] = 0
        anat = folder / f"sub-P{number:02d}" / "anat"
        anat.mkdir(parents=True)
        image = nibabel.Nifti1Image(volume.astype(np.int16), np.diag([SPACING, SPACING, SPACING, 1.0]))
        nibabel.save(image, anat / f"sub-P{number:02d}_T2w.nii.gz")
        rows.append(f"P{number:02d}\t{5 if number % 2 else 1}")
    (folder / "participants.tsv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="session")
def brains(tmp_path_factory):
    return write_brains(tmp_path_factory.mktemp("brains") / "bids")


@pytest.fixture
def quick(monkeypatch):
    """Three epochs, one painted copy."""
    monkeypatch.setattr(scorer, "EPOCHS", 3)
    monkeypatch.setattr(scorer, "MINED_AT", (2,))
    monkeypatch.setattr(bank, "FEWEST_COPIES", 1)
    monkeypatch.setattr(bank, "MOST_COPIES", 1)
