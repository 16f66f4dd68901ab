"""Evaluation of a screening run: pure functions of its tables (predictions, cohort, covariates, history)."""
