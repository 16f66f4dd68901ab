"""Values printed in the paper (arXiv 2606.02498), as printed. They are always shown as the paper's, never as ours."""

from __future__ import annotations

COHORT = {"normal": 74, "injury": 54, "folds": 5}
COHORT_NOTE = "128 preterm infants of the dHCP (74 normal, 54 injured), five-fold cross-validation"

# Table 2: accuracy, sensitivity, specificity, F1, MCC, AUC.
TABLE_2_COLUMNS = ("accuracy", "sensitivity", "specificity", "f1", "mcc", "auc")
TABLE_2_MEANS = {
    "ViT-Base 3D": ("58.33%", ".30", ".85", ".380", ".182", ".540"),
    "Swin-UNet encoder": ("61.20%", ".41", ".79", ".460", ".215", ".590"),
    "3D ResNet-50": ("62.45%", ".45", ".78", ".480", ".245", ".610"),
    "3D DenseNet-121": ("64.10%", ".52", ".75", ".550", ".280", ".660"),
    "3D ResNet-18": ("50.00%", ".20", ".80", ".320", ".000", ".550"),
    "GloResNet, mean": ("75.18%", ".76", ".81", ".780", ".450", ".830"),
}
TABLE_2_BEST_FOLD = {"GloResNet, best fold": ("81.82%", ".81", ".87", ".733", ".534", ".861")}

# Table 1: mean and SD (or count) of normal and injured infants, and the printed p-value.
TABLE_1 = {
    "birth_age": ((32.91, 2.98), (31.96, 3.74), 0.127),
    "birth_weight": ((1.92, 0.66), (1.74, 0.74), 0.159),
    "scan_age": ((36.35, 3.22), (36.38, 3.75), 0.961),
    "male": (48, 30, 0.377),
}

# Table 3, settings I-IV: mean accuracy, then the peak (best fold) of accuracy, AUC and MCC.
TABLE_3_COLUMNS = ("accuracy", "peak_accuracy", "peak_auc", "peak_mcc")
TABLE_3 = {
    "I": ("50.00%", "52.00%", ".500", ".124"),
    "II": ("60.00%", "62.50%", ".580", ".252"),
    "III": ("67.22%", "70.00%", ".720", ".317"),
    "IV": ("75.18%", "81.82%", ".861", ".534"),
}

# Table 4, all with MedicalNet weights: training and validation accuracy.
TABLE_4_COLUMNS = ("train_accuracy", "accuracy")
TABLE_4 = {"resnet50": ("95%", "62.45%"), "resnet18": ("85%", "50.00%"), "resnet10": ("82%", "72.20%")}

# Table 5, by initial weights: accuracy and epochs to convergence.
TABLE_5_COLUMNS = ("accuracy", "epochs_to_converge")
TABLE_5 = {"random": ("50.00%", "did not converge"), "medicalnet": ("67.22%", "15")}

# Table 6, cumulative steps: accuracy and sensitivity.
TABLE_6_COLUMNS = ("accuracy", "sensitivity")
TABLE_6 = {"baseline": ("67.22%", ".62"), "mixup": ("71.40%", ".72"), "mixup and TTA": ("75.18%", ".76")}


def number(printed: str) -> float | None:
    """A printed value as a number (75.18% is 0.7518); None if it is not a number."""
    try:
        return float(printed.removesuffix("%")) / (100 if printed.endswith("%") else 1)
    except ValueError:
        return None
