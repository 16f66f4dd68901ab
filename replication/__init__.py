"""The paper's tables and figures: which training runs they need, what is read from the runs, and what is written.

It builds on training, evaluation, explanation and architectures. Only `reproduce.py` imports it. `consistency` is also
a program: it checks whether published numbers are possible for the stated class counts.
"""
