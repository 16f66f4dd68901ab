"""The folder of a run, `runs/NAME`: where each file is, and how files are read and written.

`layout` names every file of a run, `files` writes any file atomically and reads JSON and YAML, `tables` reads CSV and
TSV, and `predictions` reads and checks `predictions.csv`. Nothing here imports torch or transformers.
"""
