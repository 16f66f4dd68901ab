"""The pipeline for `pipeline("image-classification", model=folder, trust_remote_code=True)("scan.nii.gz")`."""

import os
import types
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import Pipeline


@dataclass
class ScanWithMask:
    """One scan of a call, its brain mask or None, and its name in warnings."""

    scan: Any
    mask: Any = None
    name: str = "the scan"


class VolumeClassificationPipeline(Pipeline):
    """Classify scans by the probabilities from `predict_proba`.

    Call it with one scan (a path, nibabel image, array or tensor, or a dictionary of these by modality, such as
    `{"T2w": ..., "T1w": ...}`) or with several: a list or tuple of these, a batch `(B, 1, R, A, S)`, a generator or a
    data set.

    Keywords: `mask` (one brain mask per scan, in the same form, for a model that needs them),
    `test_time_augmentation`, `top_k`.

    Returns:
        For one scan, `[{"label": ..., "score": ...}, ...]`, highest score first; for several, one such list per scan.

    Warns:
        UserWarning: a scan differs from the model's training scans. The sentences are those of predict.py.

    Raises:
        ValueError: a scan or mask cannot be used, an item holds several scans, masks and scans differ in number, or
            processor and model differ in image size, local stream or modalities.
    """

    # the annotation of transformers allows only None
    _load_processor = False  # type: ignore[assignment]
    _load_image_processor = True  # type: ignore[assignment]
    _load_feature_extractor = False  # type: ignore[assignment]
    _load_tokenizer = False  # type: ignore[assignment]

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        made, expected = self.image_processor.image_size, self.model.config.image_size
        if made != expected:
            raise ValueError(
                f"The processor makes volumes with {made} voxels per edge, but the model expects {expected}: use the "
                "processor of this model."
            )
        searches = [bool(getattr(part, "local_stream", False)) for part in (self.image_processor, self.model.config)]
        if searches[0] != searches[1]:
            raise ValueError(
                f"The processor has local_stream {searches[0]}, but the model has {searches[1]}: use the processor of "
                "this model."
            )

        prepares, takes = (getattr(part, "modalities", ["T2w"]) for part in (self.image_processor, self.model.config))
        if prepares != takes:
            raise ValueError(
                f"The processor prepares {', '.join(prepares)}, but the model expects {', '.join(takes)}: use the "
                "processor of this model."
            )

    def __call__(self, inputs, *args, mask=None, **kwargs):
        if isinstance(inputs, (Dataset, types.GeneratorType)):
            if mask is not None:
                raise ValueError("Masks need a list of scans, not a generator or data set: give two lists.")
            return super().__call__(inputs, *args, **kwargs)
        several = _separate(inputs)
        scans = [inputs] if several is None else several
        masks = [None] * len(scans) if mask is None else _separate(mask)
        if masks is None:
            masks = [mask]
        if not scans:
            raise ValueError("The list of scans is empty: give at least one scan.")
        if len(masks) != len(scans):
            raise ValueError(f"{len(scans)} scan(s) came with {len(masks)} mask(s): give one mask per scan.")
        items = [
            ScanWithMask(scan, brain, _name(scan, "the scan" if several is None else f"scan {number}"))
            for number, (scan, brain) in enumerate(zip(scans, masks, strict=True))
        ]
        return super().__call__(items[0] if several is None else items, *args, **kwargs)

    def _sanitize_parameters(self, test_time_augmentation=None, top_k=None, **kwargs):
        if kwargs:
            raise TypeError(
                "The pipeline accepts test_time_augmentation and top_k, and mask with each call, not "
                f"{', '.join(sorted(kwargs))}."
            )
        forward = {} if test_time_augmentation is None else {"test_time_augmentation": test_time_augmentation}
        return {}, forward, {} if top_k is None else {"top_k": top_k}

    def preprocess(self, inputs):
        item = inputs if isinstance(inputs, ScanWithMask) else ScanWithMask(inputs, name=_name(inputs))
        masks = {} if item.mask is None else {"mask": item.mask}
        prepared = self.image_processor(item.scan, return_tensors="pt", **masks)
        if len(prepared["pixel_values"]) != 1:
            raise ValueError(
                f"{item.name} holds {len(prepared['pixel_values'])} scans: give a list with one scan per item."
            )
        record = self.model.config.training_appearance
        (sentences,) = self.image_processor.unusual(prepared["pixel_values"], record)
        sentences = [*self.image_processor.coarser(item.scan, record), *sentences]
        # the main process gives the warnings, because this method may run in a worker
        prepared["warnings"] = [f"{item.name}: {sentence}" for sentence in sentences]
        return prepared

    def _forward(self, model_inputs, test_time_augmentation=None):
        for entry in model_inputs["warnings"]:
            for sentence in [entry] if isinstance(entry, str) else entry:  # a list per scan if scans are batched
                warnings.warn(sentence, UserWarning, stacklevel=2)
        others = {name: rows for name, rows in model_inputs.items() if name.startswith(("local_", "presence"))}
        return {
            "probabilities": self.model.predict_proba(model_inputs["pixel_values"], test_time_augmentation, **others)
        }

    def postprocess(self, model_outputs, top_k=None):
        id2label = self.model.config.id2label
        (scores,) = model_outputs["probabilities"].tolist()
        rows = [{"label": id2label[index], "score": score} for index, score in enumerate(scores)]
        return sorted(rows, key=lambda row: row["score"], reverse=True)[:top_k]


def _separate(inputs) -> list | None:
    """The volumes of a list, a tuple or a batch `(B, 1, R, A, S)`; None for a single volume."""
    batch = isinstance(inputs, (np.ndarray, torch.Tensor)) and inputs.ndim == 5 and inputs.shape[1] == 1
    return list(inputs) if batch or isinstance(inputs, (list, tuple)) else None


def _name(scan, otherwise: str = "the scan") -> str:
    scan = scan.get("T2w") if isinstance(scan, dict) else scan
    return os.fspath(scan) if isinstance(scan, (str, os.PathLike)) else otherwise
