"""Find the confusion matrices, or sets of one matrix per fold, that give printed values. Exact, not sampled."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from run_folder.files import InputError

METRICS = ("accuracy", "balanced_accuracy", "sensitivity", "specificity", "ppv", "npv", "f1", "mcc", "auc")
OTHER_F1 = ("f1_normal", "f1_macro", "f1_weighted")
SLACK = 1e-9  # for floating-point comparison only


@dataclass(frozen=True)
class Reported:
    """A printed value as a proportion, and half a unit of its last decimal place."""

    text: str
    value: float
    half_unit: float

    @classmethod
    def parse(cls, text: str) -> Reported:
        """Read "0.76", ".450", "75.18%" or "75.18 %". The decimals set the precision; a percent sign divides by 100."""
        cleaned = str(text).strip().replace("\u2212", "-")
        percent = cleaned.endswith("%")
        try:
            number = Decimal(cleaned.rstrip("% "))
        except InvalidOperation:
            raise InputError(f"{text!r} is not a number; write 0.76 or 75.18%.") from None
        if not number.is_finite():
            raise InputError(f"{text!r} is not a finite number.")
        unit = Decimal(1).scaleb(int(number.as_tuple().exponent))
        scale = 100 if percent else 1
        return cls(cleaned, float(number / scale), float(unit / scale / 2))


def matrices_of(normal: int, injury: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """All m confusion matrices of the counts: (m, 4) of tn, fp, fn, tp, and each metric of each, (m,). 0 / 0 is 0."""
    tp, tn = (grid.ravel().astype(np.float64) for grid in np.meshgrid(np.arange(injury + 1), np.arange(normal + 1)))
    fn, fp = injury - tp, normal - tn

    def ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
        return np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)

    sensitivity, specificity = ratio(tp, tp + fn), ratio(tn, tn + fp)
    f1, f1_normal = ratio(2 * tp, 2 * tp + fp + fn), ratio(2 * tn, 2 * tn + fp + fn)
    values = {
        "accuracy": (tp + tn) / (normal + injury),
        "balanced_accuracy": (sensitivity + specificity) / 2,
        "sensitivity": sensitivity,
        "specificity": specificity,
        "ppv": ratio(tp, tp + fp),
        "npv": ratio(tn, tn + fn),
        "f1": f1,
        "mcc": ratio(tp * tn - fp * fn, np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))),
        "auc_low": sensitivity * specificity,
        "auc_high": 1 - (1 - sensitivity) * (1 - specificity),
        "f1_normal": f1_normal,
        "f1_macro": (f1 + f1_normal) / 2,
        "f1_weighted": (injury * f1 + normal * f1_normal) / (normal + injury),
    }
    return np.stack([tn, fp, fn, tp], axis=1).astype(int), values


def allowed_ranges(reported: Mapping[str, Reported], rounding: str) -> list[tuple[str, float, float]]:
    """The range each printed value allows, as (metric, lowest, highest). An AUC gives two one-sided rows."""
    rows = []
    for name, figure in reported.items():
        reach = figure.half_unit * (2 if rounding == "any" else 1) + SLACK
        low, high = figure.value - reach, figure.value + reach
        if name == "auc":
            rows += [("auc_low", -np.inf, high), ("auc_high", low, np.inf)]
        else:
            rows.append((name, low, high))
    return rows


def matching_matrices(values: Mapping[str, np.ndarray], reported: Mapping[str, Reported], rounding: str) -> np.ndarray:
    """Indices of the matrices that give all reported values; `values` are the metrics from `matrices_of`."""
    fits = np.ones(len(values["accuracy"]), dtype=bool)
    for name, low, high in allowed_ranges(reported, rounding):
        fits &= (values[name] >= low) & (values[name] <= high)
    return np.flatnonzero(fits)


def matching_fold_matrices(
    folds: Sequence[tuple[int, int]], reported: Mapping[str, Reported], rounding: str
) -> list[tuple[int, int, int, int]] | None:
    """One matrix per fold so that the means over folds give the row, or None if HiGHS proves that there are none.

    Folds with equal class counts are interchangeable. The unknowns are therefore how many folds of each kind have each
    matrix.

    Raises:
        RuntimeError: HiGHS did not reach a decision.
    """
    kinds = sorted(set(folds))
    tables = [matrices_of(*kind) for kind in kinds]
    kind_of = np.repeat(np.arange(len(kinds)), [len(matrices) for matrices, _ in tables])
    count = np.array([folds.count(kind) for kind in kinds], dtype=np.float64)
    rows = [(kind_of == k, count[k], count[k]) for k in range(len(kinds))]  # every fold has exactly one matrix
    for name, low, high in allowed_ranges(reported, rounding):
        rows.append((np.concatenate([values[name] for _, values in tables]), low * len(folds), high * len(folds)))
    weight, low, high = (np.array(part, dtype=np.float64) for part in zip(*rows, strict=True))
    constraints, bounds = LinearConstraint(weight, low, high), Bounds(0, count[kind_of])
    with _silent_stdout():  # HiGHS prints a debugging line for some problems, and no option stops it
        answer = milp(np.zeros(len(kind_of)), constraints=constraints, integrality=1, bounds=bounds)
    if answer.status == 2:
        return None
    if answer.x is None:
        raise RuntimeError(f"HiGHS did not decide the feasibility problem: {answer.message}")
    times = np.rint(answer.x).astype(int)
    matrices = np.repeat(np.concatenate([matrix for matrix, _ in tables]), times, axis=0)
    return [tuple(matrix) for matrix in matrices.tolist()]


@contextmanager
def _silent_stdout() -> Iterator[None]:
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)
