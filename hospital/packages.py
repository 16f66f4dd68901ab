"""Import the optional packages when they are needed, and keep them quiet: they quote values of headers."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

from run_folder.files import InputError

LOUD = ("pydicom", "highdicom", "pynetdicom", "dicomweb_client", "urllib3")  # loggers


def require(*names: str) -> None:
    """Import packages of requirements-hospital.txt.

    Raises:
        InputError: one of them is not installed, or its import fails.
    """
    for name in names:
        try:
            import_module(name)
            continue
        except Exception as error:
            kind = type(error).__name__
        raise InputError(
            f"the package {name} cannot be imported ({kind}): run pip install -r requirements-hospital.txt"
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the warnings and loggers of these packages, in all threads."""
    loggers = [logging.getLogger(name) for name in LOUD]
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
