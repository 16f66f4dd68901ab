"""Every network that a recipe can name, GloResNet among them: how to build it and what it costs.

`networks.py` builds a network from its name, `cost.py` counts parameters and multiply-adds. The code of the networks is
in `modeling_gloresnet/`, because it travels to the Hub with the weights: `modeling_gloresnet.py` holds the ResNets,
`modeling_baseline.py` the three networks that MONAI builds (`requirements-baselines.txt`).
"""
