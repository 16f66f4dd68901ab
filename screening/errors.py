"""The errors a user of screening can cause. Each message is one sentence: what was found and what to do."""


class ModelError(Exception):
    """The model cannot be used."""


class NoScansError(Exception):
    """Nothing that was asked for is a scan."""
