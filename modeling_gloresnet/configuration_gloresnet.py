"""Configuration of GloResNet: the network's geometry, labels and inference settings."""

import math
import os
from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .screening_gloresnet import check_appearance, check_inference, check_labels, check_temperature, is_finite

MODALITIES = ("T2w", "T1w", "FA", "MD")  # what a channel may be; `preprocessing/modalities_gloresnet.py` has them too


@strict
class ScreeningConfig(PreTrainedConfig):
    """The settings that every screening network has: input size, labels and inference.

    The baselines of the paper's Table 2 share them. See `GloResNetConfig` for each field.
    """

    num_channels: int = 1
    modalities: list[str] | tuple[str, ...] = ("T2w",)
    image_size: int = 128
    test_time_augmentation: bool = True
    temperature: float | int = 1.0
    threshold: float | int = 0.5
    provenance: dict | None = None
    training_appearance: dict | None = None

    _features_class: ClassVar[str | None] = None  # what AutoModel loads

    def __post_init__(self, **kwargs):
        self.modalities = list(self.modalities)
        if self.num_channels == 1:  # the default
            self.num_channels = len(self.modalities) or 1
        if self.id2label is None and self.label2id is None and kwargs.get("num_labels", 2) == 2:
            self.id2label = {0: "normal", 1: "injury"}
            self.label2id = {"normal": 0, "injury": 1}
        super().__post_init__(**kwargs)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings. Those of a network for T2w alone do not name its modality."""
        settings = super().to_dict()
        if settings.get("modalities") == ["T2w"]:
            del settings["modalities"]
        return settings

    def to_json_file(self, json_file_path: str | os.PathLike, use_diff: bool = True):
        """Write `config.json`, with entries that make the auto classes and `pipeline` run the code of this folder.

        Every way of saving a model ends here: `save_pretrained`, `push_to_hub`, the Trainer and `pipe.save_pretrained`.
        """
        entries = dict(getattr(self, "auto_map", None) or {})
        if classifier := entries.get("AutoModelForImageClassification"):
            # transformers keeps one model class per configuration class in each process. If AutoConfig looks in the
            # model's module, folders with different model code have different configuration classes.
            entries["AutoConfig"] = f"{classifier.split('.')[0]}.{type(self).__name__}"
            if self._features_class:
                entries["AutoModel"] = self._features_class
            self.auto_map = entries
            self.custom_pipelines = {
                "image-classification": {
                    "impl": "pipeline_gloresnet.VolumeClassificationPipeline",
                    "pt": ["AutoModelForImageClassification"],
                }
            }
        super().to_json_file(json_file_path, use_diff=use_diff)

    def validate_modalities(self):
        """Check that the modalities are known, distinct, start with T2w, and are as many as the channels."""
        named = ", ".join(self.modalities)
        if self.modalities[:1] != ["T2w"]:
            raise ValueError(f"modalities must start with T2w, not {named or 'nothing'}.")
        if unknown := [name for name in self.modalities if name not in MODALITIES]:
            raise ValueError(f"modalities names {unknown[0]!r}: choose from {', '.join(MODALITIES)}.")
        if len(set(self.modalities)) < len(self.modalities):
            raise ValueError(f"modalities names one twice: {named}.")
        if self.num_channels != len(self.modalities):
            raise ValueError(
                f"the network has num_channels {self.num_channels}, but modalities {named}: name one per channel."
            )

    @property
    def number_of_labels(self) -> int:
        """How many classes there are."""
        return len(self.id2label or ())

    def validate_inference(self):
        """Check temperature and threshold."""
        check_inference(self)

    def validate_labels(self):
        """Check that the labels of the network's outputs are distinct, complete, and the same in both directions."""
        check_labels(self)

    def validate_appearance(self):
        """Check that `training_appearance` holds a mean and a standard deviation for each name."""
        check_appearance(self)


LOCAL_LISTS = ("local_calibration", "member_local")
LOCAL_OF_MEMBER = ("local_calibration", "local_share_weights")  # what an ensemble's members have each


@strict
class GloResNetConfig(ScreeningConfig):
    r"""Geometry, labels and inference settings of a GloResNet (arXiv 2606.02498).

    The defaults are the paper's network: a 3D ResNet-10 with 14,356,546 parameters. "(ours)" marks our own choice where
    the paper does not give the value.

    Args:
        num_channels (`int`): input channels, one per modality.
        modalities (`list[str]`, defaults to `["T2w"]`): what each channel shows: `T2w`, which is the first, and `T1w`,
            `FA` or `MD`. A scan may lack all but T2w: its channel is then 0, and `presence` says so.
        image_size (`int`, defaults to 128): edge of the cubic input volume, voxels. The network is fully
            convolutional and would accept other sizes; this is the size it was trained on.
        stem_channels (`int`, defaults to 64): channels of the first convolution.
        stem_kernel_size (`int`, defaults to 7): its kernel edge, voxels, an odd number; the padding is half of it,
            rounded down.
        stem_stride (`int`, defaults to 2): its stride, voxels.
        stem_pooling (`bool`, defaults to `True`): max-pool 3^3, stride 2, padding 1 after the stem.
        depths (`list[int]`, defaults to `[1, 1, 1, 1]`): residual blocks in each stage.
        block (`"basic"` or `"bottleneck"`, defaults to `"basic"`): two 3^3 convolutions, or 1^3-3^3-1^3.
        widths (`list[int]`, defaults to `[64, 128, 256, 512]`): channels of each stage's 3^3 convolutions; a
            bottleneck block has four times as many output channels.
        strides (`list[int]`, defaults to `[1, 2, 2, 2]`): stride of each stage's first block.
        dilations (`list[int]`, defaults to `[1, 1, 1, 1]`): dilation of each stage's 3^3 convolutions. MedicalNet's
            segmentation network uses `strides=[1, 2, 1, 1], dilations=[1, 1, 2, 4]`; its weights fit both geometries.
        shortcut_type (`"A"` or `"B"`, defaults to `"B"`): the shortcut of blocks that change the shape. A subsamples
            and adds channels of zeros, B applies a 1^3 convolution and BatchNorm.
        head_init_std (`float`, defaults to 0.01): standard deviation of the linear head's initial weights (ours). Its
            bias starts at 0 (ours).
        test_time_augmentation (`bool`, defaults to `True`): `predict_proba` averages the volume and its left-right
            mirror image.
        temperature (`float`, defaults to 1.0): `predict_proba` divides the logits by it; 1 means uncalibrated.
        threshold (`float`, defaults to 0.5): a scan with at least this probability of injury is labelled as injury.
        member_temperatures (`list[float]`, defaults to `[]`): the temperature of each member of an ensemble; empty for
            a single network.
        local_stream (`bool`, defaults to `False`): whether a second stream looks for small lesions at (near) native
            resolution; see `LocalStream`. Its inputs come from a processor with `local_stream=True`.
        local_scorers (`int`, defaults to 3): its networks, whose logits are averaged.
        local_calibration (`list[float]`, defaults to `[1.0, 0.0]`): a and b of p_local = sigmoid(a s + b), where s is
            the highest logit of a scan.
        local_share_weights (`dict`, *optional*): `mean`, `scale` and `weights` (nine numbers each) and `intercept` of a
            logistic regression on the intensity shares, a third voice; `None` leaves it out.
        member_local (`list[dict]`, defaults to `[]`): `local_calibration` and `local_share_weights` of each member of
            an ensemble with a local stream.
        provenance (`dict`, *optional*): what the weights were trained on: `cohort`, `synthetic`, `run`, `fold` (a
            number, `refit` or `ensemble`), `train_scans`, `architecture`. It contains nothing about a participant.
        training_appearance (`dict`, *optional*): a few numbers that describe how a standardised volume looks, each with
            its mean and standard deviation over the training scans. They serve to recognise scans that look different.
            `longest_edge_mm` holds the smallest and the largest of the scans' longest voxel edges instead.

    Raises:
        `StrictDataclassError`: for a field of the wrong type or a geometry that cannot be built.
    """

    model_type = "gloresnet"
    _features_class: ClassVar[str | None] = "modeling_gloresnet.GloResNetModel"

    stem_channels: int = 64
    stem_kernel_size: int = 7
    stem_stride: int = 2
    stem_pooling: bool = True
    depths: list[int] | tuple[int, ...] = (1, 1, 1, 1)
    block: Literal["basic", "bottleneck"] = "basic"
    widths: list[int] | tuple[int, ...] = (64, 128, 256, 512)
    strides: list[int] | tuple[int, ...] = (1, 2, 2, 2)
    dilations: list[int] | tuple[int, ...] = (1, 1, 1, 1)
    shortcut_type: Literal["A", "B"] = "B"
    head_init_std: float | int = 0.01
    member_temperatures: list[float | int] | tuple[float | int, ...] = ()
    local_stream: bool = False
    local_scorers: int = 3
    local_calibration: list[float | int] | tuple[float | int, ...] = (1.0, 0.0)
    local_share_weights: dict | None = None
    member_local: list[dict] | tuple[dict, ...] = ()

    def __post_init__(self, **kwargs):
        for name in ("depths", "widths", "strides", "dilations", "member_temperatures", *LOCAL_LISTS):
            setattr(self, name, list(getattr(self, name)))
        super().__post_init__(**kwargs)

    @classmethod
    def from_depth(cls, depth: int, **kwargs) -> "GloResNetConfig":
        """Return the configuration of ResNet-`depth`: 10 (the paper's), 18 or 50. Keywords set other fields.

        Raises:
            ValueError: for another depth.
        """
        presets: dict[int, dict[str, Any]] = {
            10: {"depths": [1, 1, 1, 1], "block": "basic"},
            18: {"depths": [2, 2, 2, 2], "block": "basic"},
            50: {"depths": [3, 4, 6, 3], "block": "bottleneck"},
        }
        if depth not in presets:
            raise ValueError(f"There is no preset of depth {depth}: choose one of {sorted(presets)}, or set `depths`.")
        return cls(**presets[depth], **kwargs)

    @classmethod
    def compact(cls, **kwargs) -> "GloResNetConfig":
        """Return our narrower ResNet-10, which keeps within the size that the paper states (5.4 M, 3.9 GFLOPs).

        It has fewer channels than the default: 5,365,794 parameters and 3.70 GMAC at 128^3. MedicalNet's weights do not
        fit it, so training starts from random weights.
        """
        narrow: dict[str, Any] = {"stem_channels": 16, "widths": [24, 64, 160, 320]}
        return cls(**(narrow | kwargs))

    def of_member(self, index: int) -> "GloResNetConfig":
        """Return the configuration of one member of an ensemble."""
        alone: dict[str, Any] = {"member_temperatures": [], "temperature": self.member_temperatures[index]}
        if self.member_local:
            alone |= {"member_local": [], **self.member_local[index]}
        return type(self).from_dict(self.to_dict() | alone)

    @property
    def expansion(self) -> int:
        """Ratio of a block's output channels to its width: 1 for basic, 4 for bottleneck."""
        return 4 if self.block == "bottleneck" else 1

    @property
    def hidden_size(self) -> int:
        """Length of the pooled feature vector."""
        return self.widths[-1] * self.expansion

    @property
    def network_depth(self) -> int:
        """The number in the network's name (10, 18, 50): its layers with weights, not counting shortcuts."""
        return sum(self.depths) * (3 if self.block == "bottleneck" else 2) + 2

    def validate_geometry(self):
        """Check that all lists have one entry per stage and every number is at least 1."""
        if not len(self.depths) == len(self.widths) == len(self.strides) == len(self.dilations) >= 1:
            raise ValueError(
                f"depths, widths, strides and dilations need one entry per stage, but have {len(self.depths)}, "
                f"{len(self.widths)}, {len(self.strides)} and {len(self.dilations)}."
            )
        counts = [self.num_channels, self.stem_channels, self.stem_stride, self.image_size]
        if min(counts + self.depths + self.widths + self.strides + self.dilations) < 1:
            raise ValueError("Channels, image size, depths, widths, strides and dilations must all be at least 1.")
        if self.stem_kernel_size < 1 or self.stem_kernel_size % 2 == 0:
            raise ValueError(f"stem_kernel_size must be odd and positive, not {self.stem_kernel_size}.")

    def validate_head(self):
        """Check the members' temperatures and the spread of the head's initial weights."""
        for temperature in self.member_temperatures:
            check_temperature("every member temperature", temperature)
        if self.member_temperatures and self.temperature != 1:
            raise ValueError(
                f"temperature is {self.temperature}, but the members of an ensemble have temperatures of their own "
                f"({self.member_temperatures}): set it to 1."
            )
        if not (math.isfinite(self.head_init_std) and self.head_init_std >= 0):
            raise ValueError(f"head_init_std must be 0 or more, not {self.head_init_std}.")

    def validate_local(self):
        """Check the settings of the local stream, which needs two labels."""
        if self.local_scorers < 1:
            raise ValueError(f"local_scorers must be at least 1, not {self.local_scorers}.")
        if self.local_stream and self.number_of_labels != 2:
            raise ValueError(f"a local stream needs two labels, normal and injury, not {self.number_of_labels}.")
        if self.member_local and len(self.member_local) != len(self.member_temperatures):
            raise ValueError(
                f"member_local has {len(self.member_local)} entries for {len(self.member_temperatures)} members: give "
                "one per member."
            )
        for own in [{name: getattr(self, name) for name in LOCAL_OF_MEMBER}, *self.member_local]:
            if sorted(own) != sorted(LOCAL_OF_MEMBER):
                raise ValueError(f"every entry of member_local must hold {' and '.join(LOCAL_OF_MEMBER)}.")
            _check_local(*(own[name] for name in LOCAL_OF_MEMBER))


def _check_local(calibration: Any, weights: Any) -> None:
    """Refuse a calibration or weights of the intensity shares that are not finite numbers of the right count."""
    if not (isinstance(calibration, (list, tuple)) and len(calibration) == 2 and all(map(is_finite, calibration))):
        raise ValueError(f"local_calibration must be two numbers, a and b, not {calibration}.")
    if calibration[0] <= 0:
        raise ValueError(f"the first number of local_calibration must be above 0, not {calibration[0]}.")
    if weights is None:
        return
    rows = [weights.get(name) for name in ("mean", "scale", "weights")] if isinstance(weights, dict) else [None]
    complete = all(isinstance(row, (list, tuple)) and len(row) == 9 and all(map(is_finite, row)) for row in rows)
    if not (complete and is_finite(weights.get("intercept")) and min(weights["scale"]) > 0):
        raise ValueError(
            "local_share_weights must hold mean, scale (above 0) and weights, nine numbers each, and an intercept."
        )


# `save_pretrained` then copies the code into the model folder
GloResNetConfig.register_for_auto_class()

__all__ = ["GloResNetConfig", "ScreeningConfig"]
