"""The model card of a model folder, from the template `model_card.md` and the figures of its run."""

import re
from importlib.metadata import version
from pathlib import Path

import torch
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from architectures.networks import build, is_resnet, member_temperatures, network_name
from evaluation.uncertainty import Interval
from modeling_gloresnet import BaselineConfig, GloResNetConfig, GloResNetEnsembleForImageClassification
from publishing.evidence import Evidence
from run_folder.layout import ENSEMBLE, REFIT

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
PRECISIONS = {
    "no": "float32",
    "tf32": "float32 with TF32 products",
    "bf16": "bfloat16 (mixed)",
    "fp16": "float16 (mixed)",
}
WATTS_PER_CORE = 12  # the default of Green Algorithms (DOI 10.1002/advs.202100707)


def render_card(
    config: GloResNetConfig | BaselineConfig,
    recipe: dict,
    metrics: dict | None,
    evidence: Evidence | None = None,
    *,
    name: str = "path/to/this/folder",
    revision: str | None = None,
) -> str:
    """The text of a model folder's README.md.

    Args:
        config: of the model, with `provenance`.
        recipe: the settings of the run.
        metrics: of the held-out fold, as in `metrics.json`; None for a refit or an ensemble, which hold nothing out.
        evidence: figures of all folds, None until they are done.
        name, revision: what a user passes to `from_pretrained`.

    Returns:
        Markdown that starts with the Hub's metadata. It contains no participant id and no path.
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
        tags=["medical", "mri", "3d", "neonatal", "preterm", "gloresnet", *(["synthetic"] if synthetic else [])]
        + (["painted-injuries"] if provenance.get("painted") else [])
        + (["federated-learning"] if "federation" in provenance else []),
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
        painted=provenance.get("painted", False),
        title=title,
        network=f"{'light ' if is_ours else ''}{network}",
        members=len(members),
        hidden_size=config.hidden_size if features else None,
        monai_phrase="" if features else f"; the network itself needs `monai` ({version('monai')}) and `einops`",
        parameters=model.num_parameters(),
        image_size=config.image_size,
        threshold=f"{config.threshold:g}",
        brain_mask=recipe["brain_mask"],
        framing=recipe.get("framing", "field_of_view"),  # absent from runs before version 0.2
        bias_correction=recipe.get("bias_correction", "none"),
        modalities=getattr(config, "modalities", ["T2w"]),
        local_stream=getattr(config, "local_stream", False),
        local_scorers=getattr(config, "local_scorers", 0),
        recipe={**recipe, "init_name": _initial_weights(recipe["init"], network)},
        precision=PRECISIONS[recipe["mixed_precision"]],
        metrics=metrics,
        evidence=evidence,
        federation=_federation(provenance),
        step=f"{100 / metrics['n']:.1f}" if metrics else "",
        kind_sentence=_kind(kind, config, evidence),
        data_sentence=_data(config, synthetic),
        training_sentence=_training(kind, config, recipe, metrics),
        selection_sentence=_selection(metrics) if metrics else "",
        temperature_phrase=f" and the temperature {config.temperature:.3g}" if config.temperature != 1 else "",
        calibration_sentence="The probabilities are not calibrated."
        if {config.temperature, *members} == {1}
        else "The probabilities are scaled by a temperature that was fitted on scans held out of training.",
        table=_table(metrics) if metrics else [],
        cost_sentence=_cost(recipe, evidence),
        **(_of_the_run(kind, evidence) if evidence else {}),
    )
    # conditions in the template leave blank lines behind
    return re.sub(r"\n{3,}", "\n\n", str(card))


def _eval_results(provenance: dict, metrics: dict | None, evidence: Evidence | None) -> list[EvalResult]:
    """Rows of the Hub's model-index, one per metric: for the model's own fold, and for the mean over all folds."""
    synthetic = provenance["synthetic"]
    columns = {f"fold{metrics['fold']}": metrics} if metrics else {}
    if evidence:
        columns["cross-validation"] = {name: evidence.mean_sd[name]["mean"] for name in METRIC_NAMES}
    return [
        EvalResult(
            task_type="image-classification",
            dataset_type=provenance["cohort"] if synthetic else "private-cohort",
            dataset_name=f"phantom cohort {provenance['cohort']} (synthetic)"
            if synthetic
            else "painted injuries, never clinical evidence"
            if provenance.get("painted")
            else "a BIDS cohort",
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
    """A description of the initial weights that does not reveal a file path."""
    return {"medicalnet": f"MedicalNet's {network.removeprefix('3D ')}", "random": "random"}.get(
        init, "a MedicalNet checkpoint file"
    )


def _federation(provenance: dict) -> dict | None:
    """The template's variables for a model that several sites have trained together; None for any other model."""
    found = provenance.get("federation")
    if found is None:
        return None
    trained, tested = [], []
    for site in found["sites"]:
        counts = [site["normal"], site["injury"]]
        if site["site"] != found["left_out"]:
            trained.append([site["site"], *("fewer than 5" if count is None else str(count) for count in counts)])
        if result := site["held_out"]:
            matrix = result["confusion_matrix"]
            auc = "undefined" if result["auc"] is None else f"{result['auc']:.3f}"
            row = [
                f"{matrix['tp']} of {matrix['tp'] + matrix['fn']}",
                f"{matrix['tn']} of {matrix['tn'] + matrix['fp']}",
            ]
            tested.append([site["site"], str(result["n"]), auc, *row])
    return {**found, "trained": trained, "tested": tested}


def _data(config: GloResNetConfig, synthetic: bool) -> str:
    if "federation" in config.provenance:
        kind = "phantom volumes, generated by a program with known lesions" if synthetic else "scans in BIDS format"
        return f"The {kind}, of {len(config.provenance['federation']['sites'])} sites. They stay with their owners."
    if synthetic:
        return (
            f"The phantom cohort `{config.provenance['cohort']}`: volumes generated by a program in the format of the "
            "developing Human Connectome Project, with known lesions."
        )
    if config.provenance.get("painted"):
        return (
            "Scans labelled normal, and copies of them into which a program painted injuries. They stay with their "
            "owner and are not part of this repository."
        )
    return "A cohort in BIDS format. It stays with its owner and is not part of this repository."


def _kind(kind: int | str, config: GloResNetConfig, evidence: Evidence | None) -> str:
    if kind == ENSEMBLE:
        return (
            f"This is the mean of the {len(config.member_temperatures)} networks of one cross-validation. **It has "
            "seen every scan of the cohort:** each member was trained on the held-out scans of the others."
        )
    if federation := config.provenance.get("federation"):
        held_out = (
            "on all scans of each site" if kind == REFIT else f"as fold {kind} of a cross-validation at each site"
        )
        without = f" Site {federation['left_out']} did not train." if federation["left_out"] else ""
        return f"Several sites trained it together without exchanging scans, {held_out}.{without}"
    if kind == REFIT:
        return "This network was trained on the whole cohort, after a cross-validation with the same recipe."
    if evidence is None:
        return f"This is the network of fold {kind} of a cross-validation."
    count = len(evidence.folds)
    if kind == evidence.best:
        return f"This is fold {kind} of {count}, the best: {evidence.best_reason}"
    return f"This is fold {kind} of {count}. The best is fold {evidence.best}: {evidence.best_reason}"


def _training(kind: int | str, config: GloResNetConfig, recipe: dict, metrics: dict | None) -> str:
    scans, folds = config.provenance["train_scans"], recipe["num_folds"]
    if federation := config.provenance.get("federation"):
        least = "at least " if config.provenance.get("train_scans_at_least") else ""
        return (
            f"Federated averaging of the whole network (arXiv 1602.05629), {federation['rounds']} rounds with "
            f"{federation['local_epochs']} local epoch(s) each, {least}{scans} scans for training. Weights of the last "
            "round."
        )
    split = f"split rule `{recipe['split']}`, seed {recipe['seed']}"
    if kind == REFIT:
        return f"All {scans} scans, none held out, weights of the last epoch, seed {recipe['seed']}."
    if kind == ENSEMBLE:
        return f"The networks of {folds} folds, {split}: {scans} scans in total, each held out from one network only."
    return f"Fold {kind} of {folds}, {split}: {scans} scans for training, {metrics['n']} held out."


def _selection(metrics: dict) -> str:
    return {
        "last": f"The weights are those of the last epoch ({metrics['selected_epoch']}) of a fixed schedule; nothing "
        "was chosen.",
        "inner": f"The weights are those of epoch {metrics['selected_epoch']}, chosen on scans from the training part.",
        "paper": f"**Optimistic:** the weights are those of epoch {metrics['selected_epoch']}, chosen for the accuracy "
        "on these same scans, as the authors' code does.",
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
    """The template's variables for the whole cross-validation."""
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
            ENSEMBLE: "These figures estimate **a single member**, not this ensemble: all members but one have seen "
            "each scan, so only new scans can show how well the ensemble does. It is seldom worse than its members.",
            REFIT: "No scan was held out from this network. The figures below come from the same recipe, trained on "
            "parts of the cohort, and are the estimate for it.",
        }.get(kind, "The best fold is not typical: expect the pooled figures, or lower ones, on new infants."),
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
    """How choices on the scored scans flatter the figures; with `--selection paper`, the AUC without that choice."""
    if evidence.selection != "paper":
        return (
            "No figure was used to choose weights. Choosing a best fold is itself a choice, and it flatters that fold."
        )
    unbiased = ", ".join(
        f"fold {fold} {'undefined' if auc is None else f'{auc:.3f}'}" for fold, auc in evidence.unbiased_auc.items()
    )
    return (
        "**Optimistic:** the epoch of each fold was chosen for its accuracy on these same scans. The AUC at the last "
        f"epoch involves no such choice, and the best fold was chosen by it: {unbiased}."
    )


def _calibration(evidence: Evidence) -> str:
    found = evidence.calibration
    if found is None:
        return "Undefined: the cohort has only one class."
    return (
        f"The Brier score is {found.brier}; always predicting the prevalence would give {found.brier_reference:.3f}. "
        f"The calibration intercept is {found.intercept}, ideally 0, and the slope is {found.slope}, ideally 1; with a "
        "slope below 1, the probabilities are too extreme."
    )


def _cost(recipe: dict, evidence: Evidence | None) -> str:
    if evidence is None:
        return "Not known until the whole cross-validation is done."
    if evidence.hours is None or evidence.core_hours is None:
        return "Not known: the run did not record its training time."
    hours, core_hours = evidence.hours, evidence.core_hours
    text = (
        f"Measured over all epochs of the whole run: {_short(hours)} hours, or {_short(core_hours)} core-hours "
        f"({recipe['num_threads']} threads per process), on {evidence.hardware}."
    )
    if "and" in evidence.hardware:
        return text + " The energy was not measured."
    return text + (
        f" The energy is estimated, not measured: core-hours x {WATTS_PER_CORE} W per core / 1000 = "
        f"{_short(core_hours * WATTS_PER_CORE / 1000)} kWh, without memory and cooling."
    )


def _short(value: float) -> str:
    return f"{value:.2g}" if value < 10 else f"{value:.0f}"
