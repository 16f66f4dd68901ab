"""Controls: simple models on the same folds. A useful network must do better than they do.

Each control is a scikit-learn pipeline: missing values are replaced by the training median and flagged, features are
standardised, and a class-weighted logistic regression is fitted. Like the network, it is fitted on the training part
of each fold and scored on the held-out part. The network's loss is class-weighted too, so a threshold of 0.5 means the
same for both.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import expit
from sklearn.exceptions import ConvergenceWarning
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from .logistic import fit_many
from .measures import QUALITY, TISSUES
from .metrics import checked_pair
from .uncertainty import (
    DEFAULT_RESAMPLING,
    PERMUTATIONS,
    Interval,
    PairedDifference,
    Resampling,
    bootstrap_metrics,
    paired_auc_difference,
    permutation_p_value,
    permute_labels,
    weighted_auc,
)

MANY_FEATURES = 32  # with this many features or more, the penalty is chosen within each training part
PENALTIES = np.logspace(-4, 1, 6)


@dataclass(frozen=True)
class Control:
    """One control on the folds of a run.

    Attributes:
        name: as printed.
        features: number of features.
        probabilities: (n,) out-of-fold, aligned with the predictions.
        metrics: as from `bootstrap_metrics`, with ``within_fold_auc``.
        difference: AUC of the network minus AUC of the control, paired; None if all scans are of one class.
        null: (permutations,) pooled AUC after refitting on labels permuted over families; None if not computed.
        p_value: of the control's AUC under that null.
    """

    name: str
    features: int
    probabilities: np.ndarray
    metrics: dict[str, Interval]
    difference: PairedDifference | None
    null: np.ndarray | None
    p_value: float | None


def covariate_features(table: pd.DataFrame) -> dict[str, np.ndarray]:
    """Two sets of features (n, d) from the covariates; missing values stay NaN.

    "PMA at scan" uses ``scan_age``; "GA, birth weight, sex" uses ``birth_age, birth_weight, sex``. A set without any
    value is left out.
    """
    male = pd.Series(table["sex"] if "sex" in table else "", index=table.index).map({"M": 1.0, "F": 0.0})
    columns = {name: table.get(name, pd.Series(np.nan, index=table.index)) for name in ("birth_age", "birth_weight")}
    sets = {
        "PMA at scan": [table.get("scan_age", pd.Series(np.nan, index=table.index))],
        "GA, birth weight, sex": [columns["birth_age"], columns["birth_weight"], male],
    }
    arrays = {name: np.column_stack([part.to_numpy(float) for part in parts]) for name, parts in sets.items()}
    return {name: array for name, array in arrays.items() if np.isfinite(array).any()}


def measured_features(table: pd.DataFrame, measures: pd.DataFrame, columns: Sequence[str] | None = None) -> np.ndarray:
    """Measurements in the order of the predictions (n, d); NaN for scans that were not measured.

    Args:
        table: predictions with ``participant_id, session_id``.
        measures: the same keys and numeric columns, from `measures` or from an encoder.
        columns: which columns to take; all by default.

    Raises:
        ValueError: a scan was measured more than once.
    """
    keys = ["participant_id", "session_id"]
    names = [c for c in (measures.columns if columns is None else columns) if c not in keys]
    joined = table[keys].astype(str).merge(measures.astype({key: str for key in keys}), on=keys, how="left")
    if len(joined) != len(table):
        raise ValueError("The measurements list a scan more than once.")
    return joined[names].to_numpy(float)


QUALITY_COLUMNS = list(QUALITY)
VOLUME_COLUMNS = [*TISSUES.values(), "ventricle_share"]


def _preparation() -> Pipeline:
    return make_pipeline(
        SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True), StandardScaler()
    )


def _regression(penalty: float = 1.0) -> LogisticRegression:
    return LogisticRegression(C=penalty, class_weight="balanced", max_iter=2000)


def _fit(features: np.ndarray, labels: np.ndarray, families: np.ndarray) -> LogisticRegression | GridSearchCV:
    """Logistic regression. With many features, its penalty is chosen from `PENALTIES` on inner folds of families."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        smallest = min(len(np.unique(families[labels == label])) for label in (0, 1))
        if features.shape[1] < MANY_FEATURES or smallest < 3:
            return _regression().fit(features, labels)
        inner = StratifiedGroupKFold(3, shuffle=True, random_state=0).split(features, labels, families)
        inner = [part for part in inner if len(np.unique(labels[part[0]])) == len(np.unique(labels[part[1]])) == 2]
        if not inner:
            return _regression().fit(features, labels)
        search = GridSearchCV(_regression(), {"C": PENALTIES}, scoring="neg_log_loss", cv=inner)
        return search.fit(features, labels)


def majority_probabilities(labels: ArrayLike, folds: ArrayLike) -> np.ndarray:
    """The majority-class control: each scan gets the share of injured scans in its training part (n,)."""
    label, fold = np.asarray(labels), np.asarray(folds)
    return np.array([label[fold != k].mean() for k in fold])


class _Folds:
    """Features prepared once per fold, for many sets of labels: imputation and scaling need no labels."""

    def __init__(self, features: np.ndarray, folds: ArrayLike, families: ArrayLike) -> None:
        self.fold, self.family, self.n = np.asarray(folds), np.asarray(families), len(features)
        if len(np.unique(self.fold)) < 2:
            raise ValueError("Controls need at least two folds: they are fitted on one part and scored on another.")
        self.parts = []
        for k in np.unique(self.fold):
            train, held_out = np.flatnonzero(self.fold != k), np.flatnonzero(self.fold == k)
            preparation = _preparation().fit(features[train])
            prepared = preparation.transform(features[train]), preparation.transform(features[held_out])
            self.parts.append((train, held_out, *prepared))

    @threadpool_limits.wrap(limits=1)  # for problems this small, threads take longer
    def predict(self, labels: np.ndarray) -> np.ndarray:
        """Out-of-fold probabilities (n,) for these labels: each scan is scored by the model fitted on the other folds.

        A training part of one class gives its share (0 or 1) to every held-out scan.
        """
        probabilities = np.empty(self.n)
        for train, held_out, train_features, held_out_features in self.parts:
            if len(np.unique(labels[train])) < 2:
                probabilities[held_out] = labels[train].mean()
                continue
            model = _fit(train_features, labels[train], self.family[train])
            probabilities[held_out] = model.predict_proba(held_out_features)[:, 1]
        return probabilities

    def permuted_auc(self, labellings: np.ndarray) -> np.ndarray:
        """Pooled AUC (m,) for each row of labels (m, n), after refitting the regressions on it."""
        probabilities = np.empty(labellings.shape)
        for train, held_out, train_features, held_out_features in self.parts:
            labels = labellings[:, train]
            share = labels.mean(axis=1)
            both = (share > 0) & (share < 1)
            probabilities[:, held_out] = share[:, None]
            weights, converged = fit_many(train_features, labels[both])
            design = np.column_stack([held_out_features, np.ones(len(held_out))])
            probabilities[np.ix_(both, held_out)] = expit(weights @ design.T)
            for row in np.flatnonzero(both)[~converged]:
                model = _regression().fit(train_features, labellings[row, train])
                probabilities[row, held_out] = model.predict_proba(held_out_features)[:, 1]
        return np.array(
            [weighted_auc(*pair, np.ones((1, self.n)))[0] for pair in zip(labellings, probabilities, strict=True)]
        )


def evaluate_control(
    name: str,
    table: pd.DataFrame,
    features: ArrayLike | None,
    permutations: int = 0,
    resampling: Resampling = DEFAULT_RESAMPLING,
) -> Control:
    """Fit and score one control on the predictions' folds.

    Args:
        name: as printed.
        table: ``label, family, fold, p_injury``, one row per scan.
        features: (n, d) aligned with the table, NaN where missing; None for the majority class.
        permutations: number of refits for the null; 0 for no null.
        resampling: of the bootstrap; its seed also seeds the permutations.
    """
    label, network = checked_pair(table["label"], table["p_injury"])
    fold, family = table["fold"].to_numpy(), table["family"].to_numpy()
    null = p_value = None
    if features is None:
        count, probabilities = 0, majority_probabilities(label, fold)
    else:
        features = np.asarray(features, dtype=np.float64)
        if len(features) != len(table):
            raise ValueError(f"{name}: {len(features)} rows of features for {len(table)} scans.")
        count, fitted = features.shape[1], _Folds(features, fold, family)
        probabilities = fitted.predict(label)
        if permutations:
            null = fitted.permuted_auc(permute_labels(label, family, permutations, resampling.seed))
    metrics = bootstrap_metrics(label, probabilities, family, folds=fold, resampling=resampling)
    if null is not None and metrics["auc"].estimate is not None:
        p_value = permutation_p_value(metrics["auc"].estimate, null)
    difference = None
    if 0 < label.sum() < len(label):
        difference = paired_auc_difference(label, network, probabilities, family, resampling=resampling)
    return Control(name, count, probabilities, metrics, difference, null, p_value)


def evaluate_controls(
    table: pd.DataFrame,
    extra: Mapping[str, np.ndarray] | None = None,
    permutations: int = PERMUTATIONS,
    resampling: Resampling = DEFAULT_RESAMPLING,
) -> list[Control]:
    """The majority class, the controls from covariates, and any extra feature sets, in this order.

    Sets of fewer than `MANY_FEATURES` features get a null of ``permutations`` refits; larger ones get none.
    """
    controls = [evaluate_control("Majority class", table, None, resampling=resampling)]
    for name, features in {**covariate_features(table), **(extra or {})}.items():
        repeats = permutations if features.shape[1] < MANY_FEATURES else 0
        controls.append(evaluate_control(name, table, features, repeats, resampling))
    return controls
