"""What can be wrong with a model, said in one sentence."""


class ModelError(Exception):
    """The model asked for cannot be used. The message is one sentence with what to do."""
