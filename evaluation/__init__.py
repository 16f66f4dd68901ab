"""Evaluation of a run: tables in (predictions, cohort, covariates, history), numbers and a report out.

- Numbers: `metrics`, `thresholds`, `uncertainty`, `calibration`, `curves`, `table_one`, `subgroups`, `optimism`,
  `measures`, `controls` (with `logistic`), `cases`. All are functions of tables or arrays.
- What is evaluated: `study` (a run), `external` (a model on other scans), `comparison` and `chance` (several runs).
- The report: `findings` computes every number, `wording` writes the sentences, `figures` and `drawing` the figures,
  `page` the HTML. `report` is the program.
- `published` holds the figures printed in the paper.
"""
