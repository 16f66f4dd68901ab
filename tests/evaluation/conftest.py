"""Synthetic run folders with known properties, generated from a seed. No network is trained; images are optional."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from evaluation.metrics import screening_metrics
from evaluation.thresholds import sensitivity_threshold, youden_threshold

COVARIATES = ["sex", "birth_age", "birth_weight", "singleton", "scan_age"]


def synthetic_cohort(n: int = 128, twin_pairs: int = 20, seed: int = 0, folds: int = 5) -> pd.DataFrame:
    """A cohort like the dHCP: twins share a fold and mostly a label; covariates are independent of the label."""
    random = np.random.default_rng(seed)
    family = np.r_[np.repeat(np.arange(twin_pairs), 2), np.arange(twin_pairs, n - twin_pairs)]
    letters = ["AB"[i % 2] if i < 2 * twin_pairs else "X" for i in range(n)]
    injured_families = random.permutation(n - twin_pairs) < round(0.42 * (n - twin_pairs))
    label = injured_families[family].astype(int)
    swapped = (np.arange(n) < 2 * twin_pairs) & (random.random(n) < 0.15)
    label = np.where(swapped, 1 - label, label)
    score = np.where(label == 1, random.choice([3, 4, 5], n, p=[0.53, 0.05, 0.42]), random.choice([1, 2], n))
    table = pd.DataFrame(
        {
            "participant_id": [f"CC{f:05d}{letter}N{10 + f % 80}" for f, letter in zip(family, letters, strict=True)],
            "session_id": [f"{1000 + i}" for i in range(n)],
            "family": [f"CC{f:05d}" for f in family],
            "image": "",
            "mask": "",
            "segmentation": "",
            "label": label,
            "radiology_score": score.astype(str),
            "sex": random.choice(["M", "F"], n),
            "birth_age": np.round(random.normal(32.4, 3.3, n).clip(24, 36.9), 2),
            "birth_weight": np.round(random.normal(1.8, 0.6, n).clip(0.5, 4), 2),
            "singleton": ["S" if letter == "X" else "M" for letter in letters],
            "scan_age": np.round(random.normal(36.4, 3.4, n).clip(29, 45), 2),
            "status": "used",
            "reason": "",
        }
    )
    # assign families to folds in turn, injured first, so that every fold has both classes
    order = pd.Series(label).groupby(family).mean().sort_values(ascending=False, kind="stable").index
    fold_of_family = {name: position % folds for position, name in enumerate(order)}
    return table.assign(fold=[fold_of_family[f] for f in family])


def write_tiny_images(folder: Path, cohort: pd.DataFrame) -> pd.DataFrame:
    """A ball as head, with a ventricle that is larger in injured scans, and its segmentation."""
    random = np.random.default_rng(1)
    grid = np.stack(np.meshgrid(*[np.arange(24) - 11.5] * 3, indexing="ij"))
    radius = np.sqrt((grid**2).sum(axis=0))
    paths = {"image": [], "segmentation": []}
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    for row in cohort.to_dict("records"):
        ventricle = radius < (4 if row["label"] else 2) + random.normal(scale=0.3)
        labels = np.where(ventricle, 5, np.where(radius < 8, 3, np.where(radius < 10, 1, 0))).astype(np.uint8)
        volume = np.select([labels == 5, labels == 3, labels == 1], [200.0, 100.0, 180.0], 5.0)
        volume += random.normal(scale=4, size=volume.shape)
        anat = folder / f"sub-{row['participant_id']}" / f"ses-{row['session_id']}" / "anat"
        anat.mkdir(parents=True, exist_ok=True)
        for kind, name, data in (("image", "T2w", volume.astype(np.float32)), ("segmentation", "dseg", labels)):
            path = anat / f"{kind}_{name}.nii.gz"
            nib.save(nib.Nifti1Image(data, affine), path)
            paths[kind].append(str(path))
    return cohort.assign(**paths)


def write_synthetic_run(
    folder: Path,
    *,
    n: int = 128,
    twin_pairs: int = 20,
    seed: int = 0,
    noise_seed: int = 0,
    signal: float = 1.5,
    folds: int = 5,
    epochs: int = 12,
    selection: str = "last",
    images: bool = False,
    phantom: str | None = None,
    provenance: dict | None = None,
) -> Path:
    """A finished run folder like that of train.py; `signal` shifts the log odds of injured scans.

    With `provenance`, every fold has the configuration of a model that says what it was trained on.
    """
    random = np.random.default_rng([seed, noise_seed])
    cohort = synthetic_cohort(n, twin_pairs, seed, folds)
    bids = folder.parent / f"{folder.name}-bids"
    if images:
        cohort = write_tiny_images(bids, cohort)
    if phantom:
        bids.mkdir(parents=True, exist_ok=True)
        made_by = {"Name": "gloresnet-phantom", "Version": "1", "Parameters": {"preset": phantom, "seed": seed}}
        (bids / "dataset_description.json").write_text(json.dumps({"Name": "phantom", "GeneratedBy": [made_by]}))
    folder.mkdir(parents=True)
    participants = {
        p: {
            "family": rows["family"].iloc[0],
            "fold": int(rows["fold"].iloc[0]),
            "sessions": {r["session_id"]: {"label": r["label"]} for r in rows.to_dict("records")},
        }
        for p, rows in cohort.groupby("participant_id")
    }
    splits = {
        "version": 1,
        "seed": 42,
        "rule": "family",
        "num_folds": folds,
        "sibling_pairs": twin_pairs,
        "torn_sibling_pairs": 0,
        "participants": participants,
    }
    (folder / "splits.json").write_text(json.dumps(splits))
    (folder / "recipe.yaml").write_text(f"num_folds: {folds}\nselection: {selection}\nseed: 42\nsplit: family\n")
    source = {"data_dir": str(bids), "labels": None}
    environment = {"source": source, "num_processes": 1, "python": "3.11", "packages": {"torch": "2.13.0"}}
    environment["gloresnet"] = {"version": "0.2.0", "commit": "0a1b2c3"}
    (folder / "environment.json").write_text(json.dumps(environment))
    excluded = cohort.iloc[:3].assign(
        participant_id=["CC90001XX10", "CC90002XX10", "CC90003XX10"],
        status=["poor quality", "unlabelled", "unreadable"],
        reason=["its score is Q", "no table gives it a label", "its file is cut short"],
        label="",
        radiology_score=["Q", "", ""],
    )
    pd.concat([cohort, excluded]).drop(columns="fold").to_csv(folder / "cohort.csv", index=False)

    log_odds = random.normal(size=n) + signal * (cohort["label"].to_numpy() - 0.5)
    for k in range(folds):
        rows = cohort[cohort["fold"] == k]
        where = folder / f"fold-{k}"
        where.mkdir()
        if provenance is not None:
            (where / "model").mkdir()
            (where / "model" / "config.json").write_text(json.dumps({"image_size": 32, "provenance": provenance}))
        label, own = rows["label"].to_numpy(), log_odds[rows.index]
        history = []
        for epoch in range(1, epochs + 1):
            share = epoch / epochs
            p = expit(own * share + random.normal(size=len(rows)) * (1 - share) * 2)
            scored = screening_metrics(label, p)
            names = ("accuracy", "balanced_accuracy", "sensitivity", "specificity", "f1", "mcc", "auc")
            row = {"epoch": epoch, "learning_rate": 1e-3, "train_loss": 1 / epoch, "val_loss": 0.6}
            history.append({**row, **{f"val_{name}": scored[name] for name in names}, "seconds": 1.0})
        history = pd.DataFrame(history)
        chosen = {"last": epochs, "inner": epochs - 2, "paper": int(history["val_accuracy"].idxmax()) + 1}[selection]
        history.assign(selected=(history["epoch"] == chosen).astype(int)).to_csv(where / "history.csv", index=False)
        p = expit(own)
        columns = ["participant_id", "session_id", "family", "fold", "label", "radiology_score"]
        predictions = rows[columns].assign(p_injury=p, p_injury_no_tta=expit(own + random.normal(size=len(rows)) * 0.1))
        predictions.to_csv(where / "predictions.csv", index=False)
        metrics = {"fold": k, "selection": selection, "inner": None, "selected_epoch": chosen}
        if selection == "inner":
            y = np.r_[0, 1, random.integers(0, 2, 20)]
            inner = expit(random.normal(size=22) + signal * (y - 0.5))
            metrics["inner"] = {
                "n": 22,
                "temperature": 1.3,
                "threshold_youden": youden_threshold(y, inner),
                "threshold_sensitivity_90": sensitivity_threshold(y, inner),
            }
        (where / "metrics.json").write_text(json.dumps({**metrics, **screening_metrics(label, p)}))
    return folder


@pytest.fixture
def make_run(tmp_path):
    """`make_run(name, **settings)` writes a synthetic run in the folder of the test."""
    return lambda name="run", **settings: write_synthetic_run(tmp_path / name, **settings)


@pytest.fixture
def cohort_table():
    """`cohort_table(**settings)`: covariates, label, fold and a synthetic p_injury, one row per scan."""

    def make(signal: float = 1.5, seed: int = 0, **settings) -> pd.DataFrame:
        table = synthetic_cohort(seed=seed, **settings)
        random = np.random.default_rng([seed, 99])
        return table.assign(p_injury=expit(random.normal(size=len(table)) + signal * (table["label"] - 0.5)))

    return make
