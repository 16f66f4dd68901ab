"""The model card of one exported folder, from the template `model_card.md` and that fold's own figures."""

from pathlib import Path

import torch
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from modeling_gloresnet import GloResNetConfig, GloResNetForImageClassification

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


def render_card(config: GloResNetConfig, recipe: dict, metrics: dict) -> str:
    """README.md of a model folder.

    Args:
        config: of the model, its `provenance` filled in.
        recipe: the settings it was trained with.
        metrics: of its held-out fold, as in `metrics.json`.

    Returns:
        Markdown that starts with the Hub's metadata; it names no participant and no path.
    """
    provenance = config.provenance
    synthetic = provenance["synthetic"]
    cohort = f"phantom cohort {provenance['cohort']} (synthetic)" if synthetic else "a BIDS cohort"
    card_data = ModelCardData(
        language="en",
        license="apache-2.0",
        library_name="transformers",
        pipeline_tag="image-classification",
        tags=["medical", "mri", "3d", "neonatal", "preterm", "gloresnet", *(["synthetic"] if synthetic else [])],
        model_name="GloResNet",
        eval_results=[
            EvalResult(
                task_type="image-classification",
                dataset_type=provenance["cohort"] if synthetic else "private-cohort",
                dataset_name=cohort,
                dataset_split=f"fold{metrics['fold']}",
                metric_type=HUB_METRIC_TYPES.get(name, name),
                metric_name=METRIC_NAMES[name],
                metric_value=round(metrics[name], 4),
            )
            for name in METRIC_NAMES
            if metrics[name] is not None
        ],
    )
    with torch.device("meta"):
        parameters = GloResNetForImageClassification(config).num_parameters()
    card = ModelCard.from_template(
        card_data,
        template_path=str(TEMPLATE),
        synthetic=synthetic,
        depth=config.network_depth,
        hidden_size=config.hidden_size,
        parameters=parameters,
        image_size=config.image_size,
        threshold=f"{config.threshold:g}",
        brain_mask=recipe["brain_mask"],
        recipe={**recipe, "init_name": _initial_weights(recipe["init"])},
        precision={"no": "float32", "bf16": "bfloat16 (mixed)", "fp16": "float16 (mixed)"}[recipe["mixed_precision"]],
        fold=metrics["fold"],
        n=metrics["n"],
        train_scans=provenance["train_scans"],
        step=f"{100 / metrics['n']:.1f}",
        data_sentence=_data(config, synthetic),
        selection_sentence=_selection(metrics),
        temperature_phrase=f", temperature {config.temperature:.3g}" if config.temperature != 1 else "",
        calibration_sentence="The probabilities are temperature-scaled on scans held out of training."
        if config.temperature != 1
        else "The probabilities are not calibrated.",
        table=_table(metrics),
    )
    return str(card)


def _initial_weights(init: str) -> str:
    """What the weights started from, without the path of anybody's file."""
    return {"medicalnet": "MedicalNet's ResNet-10", "random": "random"}.get(init, "a MedicalNet checkpoint file")


def _data(config: GloResNetConfig, synthetic: bool) -> str:
    if synthetic:
        return (
            f"The phantom cohort `{config.provenance['cohort']}`: volumes drawn by a program, shaped like the "
            "developing Human Connectome Project's, with known lesions."
        )
    return "A cohort of its owner's, in BIDS; it is not part of this repository."


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
