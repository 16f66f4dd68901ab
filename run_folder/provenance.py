"""What a model was trained on, as its `config.json` says, and the sentence that this adds to its answers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .files import InputError, read_json

SYNTHETIC = (
    "The model was trained on synthetic phantoms, not on infants: its probabilities say nothing about any patient."
)
PAINTED = (
    "The model was trained on injuries that a program painted into normal scans: its probabilities say nothing about "
    "any patient."
)


def caution(provenance: Mapping[str, Any] | None) -> str:
    """The sentence that belongs to every answer of a model trained on phantoms or painted injuries, else ""."""
    provenance = provenance or {}
    return SYNTHETIC if provenance.get("synthetic") else PAINTED if provenance.get("painted") else ""


def read_provenance(config: Path) -> dict[str, Any]:
    """The provenance in a model's `config.json`: empty if the file or the entry is missing, as in older runs.

    Raises:
        InputError: the file is damaged.
    """
    provenance = read_json(config).get("provenance") if config.is_file() else None
    if not isinstance(provenance, dict | None):
        raise InputError(f"{config} is damaged: its provenance is {str(provenance)[:50]}, not an object. Restore it.")
    return provenance or {}
