"""The network: configuration, model, MedicalNet import and pipeline. This code is published with every model.

Importing this file imports neither torch nor transformers; asking it for a name does.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .configuration_baseline import BaselineConfig, wrong_size
    from .configuration_gloresnet import GloResNetConfig
    from .ensemble_gloresnet import GloResNetEnsembleForImageClassification
    from .medicalnet_gloresnet import MEDICALNET, MedicalNetImportError, medicalnet_repository
    from .modeling_baseline import BaselineForImageClassification
    from .modeling_gloresnet import GloResNetForImageClassification, GloResNetModel, GloResNetPreTrainedModel
    from .pipeline_gloresnet import VolumeClassificationPipeline

__all__ = [
    "MEDICALNET",
    "BaselineConfig",
    "BaselineForImageClassification",
    "GloResNetConfig",
    "GloResNetEnsembleForImageClassification",
    "GloResNetForImageClassification",
    "GloResNetModel",
    "GloResNetPreTrainedModel",
    "MedicalNetImportError",
    "VolumeClassificationPipeline",
    "medicalnet_repository",
    "wrong_size",
]

# Nothing is registered in the auto classes: they would then run this checkout's code and not that of a model folder.
_MODULES = {
    "BaselineConfig": "configuration_baseline",
    "wrong_size": "configuration_baseline",
    "GloResNetConfig": "configuration_gloresnet",
    "GloResNetEnsembleForImageClassification": "ensemble_gloresnet",
    "MEDICALNET": "medicalnet_gloresnet",
    "MedicalNetImportError": "medicalnet_gloresnet",
    "medicalnet_repository": "medicalnet_gloresnet",
    "BaselineForImageClassification": "modeling_baseline",
    "GloResNetForImageClassification": "modeling_gloresnet",
    "GloResNetModel": "modeling_gloresnet",
    "GloResNetPreTrainedModel": "modeling_gloresnet",
    "VolumeClassificationPipeline": "pipeline_gloresnet",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
