"""Training of a fold.

`recipe.py` holds the settings, `run.py` opens the folder of a run, `data.py` finds the scans and splits them, and
`fold.py` trains a fold out of the other modules: augmentation, mixup, loss, loop, checkpoint, selection and outcome.
"""
