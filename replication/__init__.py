"""The paper's tables and figures out of training runs: which runs, what is read from them, and how it is printed.

It stands on training, evaluation, explanation and baselines; only `reproduce.py` stands on it. Results go to the folder
`reproduction/`.
"""
