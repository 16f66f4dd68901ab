"""The cohort: which scans there are, their labels, their folds, the volume cache and the synthetic phantom."""
