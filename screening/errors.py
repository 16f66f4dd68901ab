"""What can be wrong with a model, said in one sentence."""


class ModelError(Exception):
    """The model asked for cannot be used. The message is one sentence with what to do."""


def one_line(error: Exception) -> str:
    """An error's message without its line breaks, its type where it has none."""
    return " ".join(str(error).split()) or type(error).__name__
