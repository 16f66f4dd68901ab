"""Check that the settings of a model and of its processor belong together.

The configuration may be of a class in a model folder's own code, which may be older than these checks.
"""

from typing import Any

from modeling_gloresnet.configuration_gloresnet import ScreeningConfig
from preprocessing import GloResNetImageProcessor
from preprocessing.appearance_gloresnet import DESCRIPTORS

from .modalities import modalities_of
from .model import has_local_stream


def check_settings(config: Any, processor: Any) -> None:
    """Refuse settings that would give a wrong probability, or a probability without its warnings.

    Args:
        config: of the model.
        processor: of the same folder or file.

    Raises:
        ValueError: the message names the settings that contradict each other.
    """
    if type(processor).__name__ != GloResNetImageProcessor.__name__:  # the class may be of the folder's own code
        raise ValueError(f"its processor is a {type(processor).__name__}, which does not prepare scans for this model")
    settings: dict[str, Any] = {name: getattr(processor, name, None) for name in ("image_size", "eps", "brain_mask")}
    GloResNetImageProcessor(**settings)
    if settings["image_size"] != config.image_size:
        raise ValueError(
            f"the processor makes volumes with {settings['image_size']} voxels per edge, but the model expects "
            f"{config.image_size}: give both the image_size that the model was trained with"
        )
    if (searches := bool(getattr(processor, "local_stream", False))) != has_local_stream(config):
        raise ValueError(
            f"the processor has local_stream {str(searches).lower()}, but the model has "
            f"{'no' if searches else 'a'} local stream: give both the setting that the model was trained with"
        )
    made, taken = modalities_of(processor), modalities_of(config)
    if made != taken or len(taken) != config.num_channels:
        raise ValueError(
            f"the processor prepares {', '.join(made)}, but the model expects num_channels {config.num_channels} "
            f"({', '.join(taken)}): give both the modalities that the model was trained with"
        )
    if len(config.id2label) != 2:
        raise ValueError(f"screening needs two labels, normal and injury, but the model has {len(config.id2label)}")
    trained_with = (config.provenance or {}).get("preprocessing", {})  # runs before version 0.2 do not say
    for name, value in trained_with.items():
        if getattr(processor, name, value) != value:
            raise ValueError(
                f"the processor has {name} {getattr(processor, name)}, but the model was trained with {value}: restore "
                "the processor's settings"
            )
    ScreeningConfig.validate_inference(config)
    ScreeningConfig.validate_labels(config)
    if record := config.training_appearance:
        ScreeningConfig.validate_appearance(config)
        if absent := sorted(DESCRIPTORS.keys() - record.keys()):
            raise ValueError(f"training_appearance lacks {', '.join(absent)}, so unusual scans would not be recognised")
