"""What the paper prints (arXiv 2606.02498), kept as printed: shown beside a run's own figures, never as ours."""

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

# Table 1, mean and SD (or count) of the normal and the injured, and the p-value printed.
TABLE_1 = {
    "birth_age": ((32.91, 2.98), (31.96, 3.74), 0.127),
    "birth_weight": ((1.92, 0.66), (1.74, 0.74), 0.159),
    "scan_age": ((36.35, 3.22), (36.38, 3.75), 0.961),
    "male": (48, 30, 0.377),
}
