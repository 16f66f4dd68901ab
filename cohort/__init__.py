"""A cohort: its scans, labels and folds, the cache of preprocessed volumes, and the synthetic phantom."""
