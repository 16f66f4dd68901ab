"""Import the optional packages when they are needed, and keep them quiet: they quote values of headers."""

from contextlib import AbstractContextManager
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


def quiet() -> AbstractContextManager[None]:
    """Silence the warnings and loggers of these packages, in all threads."""
    from dicomfiles.packages import quiet  # here, because `serve.py status` needs no slow library

    return quiet(LOUD)
