"""Evaluation of a screening run: pure functions of its tables (predictions, cohort, covariates, history).

From leaf to head: `tables`, `metrics`; `thresholds`, `uncertainty`, `calibration`, `curves`; `table_one`, `subgroups`,
`optimism`, `measures`, `controls`, `cases`; `study`, `external`, `comparison`, `chance`; `findings`, `figures`, `page`,
`report`. `consistency` checks published tables and stands alone.
"""
