"""The model card of one exported folder, from the template `model_card.md` and the figures of its run."""

import re
from importlib.metadata import version
from pathlib import Path

import torch
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from architectures.networks import build, is_resnet, member_temperatures, network_name
from evaluation.uncertainty import Interval
from modeling_gloresnet import BaselineConfig, GloResNetConfig, GloResNetEnsembleForImageClassification
from publishing.evidence import Evidence

TEMPLATE = Path(__file__).parent.parent / "model_card.md"

METRIC_NAMES = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "ppv": "Positive predictive value",
    "npv": "Negative predictive value",
    "f1": "F1",
    "mcc": "Matthews correlation",
    "auc": "ROC AUC",
    "average_precision": "Average precision",
}
HUB_METRIC_TYPES = {"auc": "roc_auc", "mcc": "matthews_correlation"}
WATTS_A_CORE = 12  # the default of Green Algorithms (DOI 10.1002/advs.202100707)


def render_card(
    config: GloResNetConfig | BaselineConfig,
    recipe: dict,
    metrics: dict | None,
    evidence: Evidence | None = None,
    *,
    name: str = "path/to/this/folder",
    revision: str | None = None,
) -> str:
    """README.md of a model folder.

    Args:
        config: of the model, its `provenance` filled in.
        recipe: the settings it was trained with.
        metrics: of its held-out fold, as in `metrics.json`; None of a refit or an ensemble, which holds nothing out.
        evidence: of all folds, once they are done.
        name, revision: by which its user loads it.

    Returns:
        Markdown that starts with the Hub's metadata; it names no participant and no path.
    """
    provenance = config.provenance
    synthetic = provenance["synthetic"]
    kind = provenance["fold"]
    network, features = network_name(config), is_resnet(config)
    is_ours = features and config.network_depth == 10
    title = network.replace("3D ResNet-10", "GloResNet") if is_ours else f"{network}, a baseline of GloResNet"
    members = member_temperatures(config)
    card_data = ModelCardData(
        language="en",
        license="apache-2.0",
        library_name="transformers",
        pipeline_tag="image-classification",
        tags=["medical", "mri", "3d", "neonatal", "preterm", "gloresnet", *(["synthetic"] if synthetic else [])],
        model_name=title,
        eval_results=_eval_results(provenance, metrics, evidence) or None,
    )
    with torch.device("meta"):
        model = GloResNetEnsembleForImageClassification(config) if members else build(config)
    card = ModelCard.from_template(
        card_data,
        template_path=str(TEMPLATE),
        name=name,
        revision=revision,
        synthetic=synthetic,
        title=title,
        network=f"{'light ' if is_ours else ''}{network}",
        members=len(members),
        hidden_size=config.hidden_size if features else None,
        monai_phrase="" if features else f", and the network itself `monai` ({version('monai')}) and `einops`",
        parameters=model.num_parameters(),
        image_size=config.image_size,
        threshold=f"{config.threshold:g}",
        brain_mask=recipe["brain_mask"],
        recipe={**recipe, "init_name": _initial_weights(recipe["init"], network)},
        precision={"no": "float32", "bf16": "bfloat16 (mixed)", "fp16": "float16 (mixed)"}[recipe["mixed_precision"]],
        metrics=metrics,
        evidence=evidence,
        step=f"{100 / metrics['n']:.1f}" if metrics else "",
        kind_sentence=_kind(kind, config, evidence),
        data_sentence=_data(config, synthetic),
        training_sentence=_training(kind, config, recipe, metrics),
        selection_sentence=_selection(metrics) if metrics else "",
        temperature_phrase=f", temperature {config.temperature:.3g}" if config.temperature != 1 else "",
        calibration_sentence="The probabilities are temperature-scaled on scans held out of training."
        if {config.temperature, *members} != {1}
        else "The probabilities are not calibrated.",
        table=_table(metrics) if metrics else [],
        cost_sentence=_cost(recipe, evidence),
        **(_of_the_run(kind, evidence) if evidence else {}),
    )
    # what a condition of the template left out leaves no gap
    return re.sub(r"\n{3,}", "\n\n", str(card))


def _eval_results(provenance: dict, metrics: dict | None, evidence: Evidence | None) -> list[EvalResult]:
    """The model's own fold, and the mean over all: a row of the Hub's model-index for each metric."""
    synthetic = provenance["synthetic"]
    columns = {f"fold{metrics['fold']}": metrics} if metrics else {}
    if evidence:
        columns["cross-validation"] = {name: evidence.mean_sd[name]["mean"] for name in METRIC_NAMES}
    return [
        EvalResult(
            task_type="image-classification",
            dataset_type=provenance["cohort"] if synthetic else "private-cohort",
            dataset_name=f"phantom cohort {provenance['cohort']} (synthetic)" if synthetic else "a BIDS cohort",
            dataset_split=split,
            metric_type=HUB_METRIC_TYPES.get(name, name),
            metric_name=METRIC_NAMES[name] + (", mean of the folds" if split == "cross-validation" else ""),
            metric_value=round(values[name], 4),
        )
        for split, values in columns.items()
        for name in METRIC_NAMES
        if values[name] is not None
    ]


def _initial_weights(init: str, network: str) -> str:
    """What the weights started from, without the path of anybody's file."""
    return {"medicalnet": f"MedicalNet's {network.removeprefix('3D ')}", "random": "random"}.get(
        init, "a MedicalNet checkpoint file"
    )


def _data(config: GloResNetConfig, synthetic: bool) -> str:
    if synthetic:
        return (
            f"The phantom cohort `{config.provenance['cohort']}`: volumes drawn by a program, shaped like the "
            "developing Human Connectome Project's, with known lesions."
        )
    return "A cohort of its owner's, in BIDS; it is not part of this repository."


def _kind(kind: int | str, config: GloResNetConfig, evidence: Evidence | None) -> str:
    if kind == "ensemble":
        return (
            f"This is the mean of the {len(config.member_temperatures)} networks of one cross-validation. **No scan of "
            "the cohort is new to it:** its members trained on each other's held-out scans."
        )
    if kind == "refit":
        return "This network was trained on the whole cohort, after a cross-validation of the same recipe."
    if evidence is None:
        return f"This is the network of fold {kind} of a cross-validation."
    count = len(evidence.folds)
    if kind == evidence.best:
        return f"This is fold {kind} of {count}, the best: {evidence.best_reason}"
    return f"This is fold {kind} of {count}; the best is fold {evidence.best} ({evidence.best_reason.rstrip('.')})."


def _training(kind: int | str, config: GloResNetConfig, recipe: dict, metrics: dict | None) -> str:
    scans, folds = config.provenance["train_scans"], recipe["num_folds"]
    dealt = f"split by {recipe['split']}, seed {recipe['seed']}"
    if kind == "refit":
        return f"All {scans} scans, none held out, weights of the last epoch, seed {recipe['seed']}."
    if kind == "ensemble":
        return f"The networks of {folds} folds, {dealt}: together {scans} scans, each held out from one network only."
    return f"Fold {kind} of {folds}, {dealt}: {scans} scans trained, {metrics['n']} held out."


def _selection(metrics: dict) -> str:
    return {
        "last": f"Weights of the last epoch ({metrics['selected_epoch']}) of a fixed schedule: nothing was chosen.",
        "inner": f"Weights of epoch {metrics['selected_epoch']}, chosen on scans inside the training part.",
        "paper": f"**Optimistic:** weights of epoch {metrics['selected_epoch']}, chosen for their accuracy on these "
        "very scans, as the authors' code does.",
    }[metrics["selection"]]


def _table(metrics: dict) -> list[tuple[str, str]]:
    counts = metrics["confusion_matrix"]
    rows = [("True positives, false negatives", f"{counts['tp']}, {counts['fn']}")]
    rows.append(("True negatives, false positives", f"{counts['tn']}, {counts['fp']}"))
    for name, label in METRIC_NAMES.items():
        value = metrics[name]
        rows.append((label, f"undefined ({metrics['undefined'][name]})" if value is None else f"{value:.3f}"))
    return rows


def _of_the_run(kind: int | str, evidence: Evidence) -> dict:
    """What the template says of the whole cross-validation."""
    shown = ("auc", "accuracy", "sensitivity", "specificity")
    folds = []
    for part, intervals in evidence.intervals.items():
        n, injured = evidence.counts[part]
        title = "**pooled**" if part == "pooled" else f"fold {part}" + (" (this model)" if part == kind else "")
        folds.append([title, f"{n} ({injured})", *(str(intervals[name]) for name in shown)])
    mean_sd = [evidence.mean_sd[name] for name in shown]
    folds.append(["mean ± SD of the folds", "", *(_mean_sd(each) for each in mean_sd)])
    undefined = Interval(None, None, None, 0)
    return {
        "counts_pooled": evidence.counts["pooled"],
        "flow": ", ".join(f"{count} {status}" for status, count in evidence.flow.items()),
        "folds_table": folds,
        "estimate_sentence": {
            "ensemble": "They estimate **a single member**, not this ensemble: every scan was seen by all members but "
            "one, so the ensemble can be judged on new scans only. It is seldom worse than its members.",
            "refit": "This network holds no scan out; these figures of the same recipe, trained on parts of the "
            "cohort, are the estimate for it.",
        }.get(kind, "The best fold is not the typical one: expect the pooled figures, or less, on new infants."),
        "optimism_sentence": _optimism(evidence),
        "calibration_table": _calibration(evidence),
        "subgroups_table": [
            [
                part.name,
                f"{part.n} ({part.n_injury})",
                *(str(part.metrics.get(name, undefined)) for name in ("auc", "sensitivity", "specificity")),
            ]
            for part in evidence.subgroups
        ],
    }


def _mean_sd(values: dict) -> str:
    if values["mean"] is None:
        return "undefined"
    return f"{values['mean']:.3f}" + ("" if values["sd"] is None else f" ± {values['sd']:.3f}")


def _optimism(evidence: Evidence) -> str:
    """Under `--selection paper`, what the figures would be without the choice."""
    if evidence.selection != "paper":
        return "No figure was used to choose weights; to call one fold the best is itself a choice, which flatters it."
    honest = ", ".join(
        f"fold {fold} {'undefined' if auc is None else f'{auc:.3f}'}" for fold, auc in evidence.honest_auc.items()
    )
    return (
        "**Optimistic:** each fold's epoch was chosen for its accuracy on these very scans. AUC at the last epoch, "
        f"which nothing chose and by which the best fold is named: {honest}."
    )


def _calibration(evidence: Evidence) -> str:
    found = evidence.calibration
    if found is None:
        return "Undefined: the cohort has one class."
    return (
        f"Brier score {found.brier} where always answering the prevalence gives {found.brier_reference:.3f}; "
        f"calibration intercept {found.intercept} (0 is right) and slope {found.slope} (1 is right; below, the "
        "probabilities are too extreme)."
    )


def _cost(recipe: dict, evidence: Evidence | None) -> str:
    if evidence is None or evidence.hours is None:
        return "Stated once the whole cross-validation is done."
    hours, core_hours = evidence.hours, evidence.core_hours
    text = (
        f"Measured over the epochs of the whole run: {_short(hours)} hours, that is {_short(core_hours)} core-hours "
        f"({recipe['num_threads']} threads a process), on {evidence.hardware}."
    )
    if "and" in evidence.hardware:
        return text + " The energy was not measured."
    return text + (
        f" Energy, an estimate and not a measurement: core-hours x {WATTS_A_CORE} W a core / 1000 = "
        f"{_short(core_hours * WATTS_A_CORE / 1000)} kWh, memory and cooling left out."
    )


def _short(value: float) -> str:
    return f"{value:.2g}" if value < 10 else f"{value:.0f}"
