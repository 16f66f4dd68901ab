"""The network, as it travels to the Hub: configuration, model, strict MedicalNet import and pipeline."""

from transformers import AutoConfig, AutoModel, AutoModelForImageClassification

from .configuration_baseline import BaselineConfig, wrong_size
from .configuration_gloresnet import GloResNetConfig
from .ensemble_gloresnet import GloResNetEnsembleForImageClassification
from .medicalnet_gloresnet import MEDICALNET, MedicalNetImportError, medicalnet_repository
from .modeling_baseline import BaselineForImageClassification
from .modeling_gloresnet import GloResNetForImageClassification, GloResNetModel, GloResNetPreTrainedModel
from .pipeline_gloresnet import VolumeClassificationPipeline

# for the auto classes in this process ...
AutoConfig.register("gloresnet", GloResNetConfig, exist_ok=True)
AutoModel.register(GloResNetConfig, GloResNetModel, exist_ok=True)
AutoModelForImageClassification.register(GloResNetConfig, GloResNetForImageClassification, exist_ok=True)
AutoConfig.register("gloresnet_baseline", BaselineConfig, exist_ok=True)
AutoModelForImageClassification.register(BaselineConfig, BaselineForImageClassification, exist_ok=True)
# ... and for folders saved from it: `save_pretrained` then copies the code beside the weights
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
