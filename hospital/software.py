"""Which program and which model speak in a document."""

import hashlib
import uuid
from pathlib import Path
from typing import Any, NamedTuple

from machine.version import project_version
from run_folder.provenance import PAINTED
from screening.formats import is_converted_file
from screening.model import ScreeningModel, caution, is_trained

NAME, MAKER = "GloResNet", "GloResNet (independent implementation)"
UNTRAINED = "The model was not trained: its probabilities mean nothing."


class Software(NamedTuple):
    """
    Attributes:
        version: of this project.
        digest: of the model, see `model_digest`.
        doubt: a sentence if the model was trained on phantoms, on painted injuries or not at all; else empty.
    """

    version: str
    digest: str
    doubt: str

    @property
    def doubt_in_short(self) -> str:
        if not self.doubt:
            return ""
        return {UNTRAINED: "UNTRAINED MODEL", PAINTED: "PAINTED MODEL"}.get(self.doubt, "SYNTHETIC MODEL")


def describe_software(model: ScreeningModel, name: str) -> Software:
    """
    Args:
        model: from `load_model`.
        name: what it was loaded from.
    """
    doubt = caution(model) or ("" if is_trained(model) else UNTRAINED)
    return Software(project_version()["version"] or "unknown", model_digest(name), doubt)


def model_digest(name: str) -> str:
    """What `cd MODEL && sha256sum config.json model.safetensors preprocessor_config.json | sha256sum` prints.

    For a converted file, `sha256sum model.onnx | sha256sum`, or of `model.bin model.xml`.
    """
    if is_converted_file(name):
        path = Path(name)
        files = [path, *([path.with_suffix(".bin")] if path.suffix == ".xml" else [])]
    else:
        from modeling_gloresnet.loading_gloresnet import downloaded_folder

        folder = Path(name) if Path(name).is_dir() else downloaded_folder(name)
        assert folder is not None  # it was loaded
        files = [folder / "config.json", folder / "preprocessor_config.json", *folder.glob("*.safetensors")]
    lines = []
    for path in sorted(files, key=lambda path: path.name):
        with open(path, "rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.name}\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def make_uid(*words: Any) -> str:
    """The same UID for the same words, below the root 2.25 that needs no registration (PS3.5 B.2)."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, '|'.join(map(str, ('gloresnet', *words)))).int}"
