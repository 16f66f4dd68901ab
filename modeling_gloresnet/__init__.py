"""The network: configuration, model, MedicalNet import and pipeline. This code is published with every model."""

from .configuration_baseline import BaselineConfig, wrong_size
from .configuration_gloresnet import GloResNetConfig
from .ensemble_gloresnet import GloResNetEnsembleForImageClassification
from .medicalnet_gloresnet import MEDICALNET, MedicalNetImportError, medicalnet_repository
from .modeling_baseline import BaselineForImageClassification
from .modeling_gloresnet import GloResNetForImageClassification, GloResNetModel, GloResNetPreTrainedModel
from .pipeline_gloresnet import VolumeClassificationPipeline

# Nothing is registered in the auto classes: they would then run this checkout's code and not that of a model folder.
# `save_pretrained` then copies the code into the model folder
GloResNetConfig.register_for_auto_class()
GloResNetModel.register_for_auto_class("AutoModel")
GloResNetForImageClassification.register_for_auto_class("AutoModelForImageClassification")
GloResNetEnsembleForImageClassification.register_for_auto_class("AutoModelForImageClassification")
BaselineConfig.register_for_auto_class()
BaselineForImageClassification.register_for_auto_class("AutoModelForImageClassification")

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
