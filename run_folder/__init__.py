"""The folder of a run, `runs/NAME`: where each file is, and how files are read and written.

`layout` names every file of a run, `files` writes any file atomically and reads JSON and YAML, `tables` reads and
writes tables, `cells` keeps a spreadsheet from running a cell as a formula, and `predictions` reads and checks
`predictions.csv`. Nothing here imports torch or transformers.
"""
