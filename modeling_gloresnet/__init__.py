"""The network, as it travels to the Hub: configuration, model, strict MedicalNet import and pipeline."""

from transformers import AutoConfig

from .configuration_baseline import BaselineConfig, wrong_size
from .configuration_gloresnet import GloResNetConfig
from .ensemble_gloresnet import GloResNetEnsembleForImageClassification
from .medicalnet_gloresnet import MEDICALNET, MedicalNetImportError, medicalnet_repository
from .modeling_baseline import BaselineForImageClassification
from .modeling_gloresnet import GloResNetForImageClassification, GloResNetModel, GloResNetPreTrainedModel
from .pipeline_gloresnet import VolumeClassificationPipeline

# So that AutoConfig reads a folder of ours here. The models are not registered: a class of this checkout would then be
# taken for every folder, whatever code the folder names and brings.
AutoConfig.register("gloresnet", GloResNetConfig, exist_ok=True)
AutoConfig.register("gloresnet_baseline", BaselineConfig, exist_ok=True)
# `save_pretrained` copies the code beside the weights
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
