"""The architectures of the paper's Table 2 by name, what each costs, and where each looks.

Their code travels to the Hub with their weights and so lies in `modeling_gloresnet/`: `modeling_baseline.py` for the
three that MONAI builds (`requirements-baselines.txt`), `modeling_gloresnet.py` for the ResNets.
"""
