"""Check that the settings of a model and of its processor belong together.

The configuration may be of a class in a model folder's own code, which may be older than these checks.
"""

from types import SimpleNamespace
from typing import Any

from modeling_gloresnet.screening_gloresnet import check_appearance, check_inference, check_labels, check_temperature
from preprocessing import ScanPreparation
from preprocessing.appearance_gloresnet import DESCRIPTORS

from .modalities import modalities_of
from .model import has_local_stream

PROCESSORS = ("GloResNetImageProcessor", "ScanPreparation")
NUMBER = (int, float)
KINDS: dict[str, tuple[tuple[type, ...], Any]] = {  # of each setting: its types, and its value where a file lacks it
    "model_type": ((str,), "gloresnet"),
    "num_channels": ((int,), 1),
    "modalities": ((list,), ["T2w"]),
    "image_size": ((int,), 128),
    "depths": ((list,), [1, 1, 1, 1]),
    "block": ((str,), "basic"),
    "widths": ((list,), [64, 128, 256, 512]),
    "test_time_augmentation": ((bool,), True),
    "temperature": (NUMBER, 1.0),
    "threshold": (NUMBER, 0.5),
    "id2label": ((dict,), {0: "normal", 1: "injury"}),
    "label2id": ((dict, type(None)), None),
    "provenance": ((dict, type(None)), None),
    "training_appearance": ((dict, type(None)), None),
    "member_temperatures": ((list,), []),
    "local_stream": ((bool,), False),
    "local_share_weights": ((dict, type(None)), None),
}


class ConvertedConfig(SimpleNamespace):
    """What screening asks of a configuration, from the text in a converted file. Needs no transformers.

    Args:
        content: the configuration as `GloResNetConfig.to_dict` wrote it; what only training needs is left out.

    Raises:
        ValueError: a setting is of another type, or `check_temperature` refuses one.
    """

    def __init__(self, content: dict[str, Any]):
        super().__init__()
        for name, (kinds, default) in KINDS.items():
            value = content.get(name, default)
            if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
                raise ValueError(f"{name} is {value!r}")
            setattr(self, name, value)
        self.id2label = {int(index): name for index, name in vars(self)["id2label"].items()}
        for temperature in self.member_temperatures:
            check_temperature("every member temperature", temperature)

    @property
    def number_of_labels(self) -> int:
        """How many classes there are."""
        return len(self.id2label)

    @property
    def network_depth(self) -> int:
        """As in `GloResNetConfig`."""
        return sum(self.depths) * (3 if self.block == "bottleneck" else 2) + 2


def check_settings(config: Any, processor: Any) -> None:
    """Refuse settings that would give a wrong probability, or a probability without its warnings.

    Args:
        config: of the model.
        processor: of the same folder or file.

    Raises:
        ValueError: the message names the settings that contradict each other.
    """
    if type(processor).__name__ not in PROCESSORS:  # the class may be of the folder's own code
        raise ValueError(f"its processor is a {type(processor).__name__}, which does not prepare scans for this model")
    settings: dict[str, Any] = {name: getattr(processor, name, None) for name in ("image_size", "eps", "brain_mask")}
    ScanPreparation(**settings)  # checks them
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
    check_inference(config)
    check_labels(config)
    if record := config.training_appearance:
        check_appearance(config)
        if absent := sorted(DESCRIPTORS.keys() - record.keys()):
            raise ValueError(f"training_appearance lacks {', '.join(absent)}, so unusual scans would not be recognised")
