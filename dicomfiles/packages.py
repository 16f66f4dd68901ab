"""Import pydicom when it is needed, and keep it quiet: its warnings and log lines quote values of the header."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module

from .errors import SeriesError

LOUD = ("pydicom",)  # loggers


def require(where: str, *names: str) -> None:
    """Import packages of requirements-hospital.txt.

    Raises:
        SeriesError: one of them is not installed, or its import fails.
    """
    for name in names:
        try:
            import_module(name)
            continue
        except Exception as error:  # a folder named `dl` in the working folder makes gdcm raise AttributeError
            kind = type(error).__name__
        raise SeriesError(
            f"{where} cannot be read as DICOM without the package {name.split('.')[0]} ({kind}):"
            " run pip install -r requirements-hospital.txt."
        )


@contextmanager
def quiet(names: Sequence[str] = LOUD) -> Iterator[None]:
    """Silence warnings, and the loggers of these packages, in all threads."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
