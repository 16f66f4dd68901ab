"""GloResNet: a light 3D ResNet that screens a whole T2-weighted head volume (arXiv 2606.02498, section 3).

Except for the stem, parameters are named as in MedicalNet: `layer1.0.conv1.weight`, `layer2.0.downsample.0.weight`.
"""

import contextlib
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import (
    BaseModelOutputWithPoolingAndNoAttention,
    ImageClassifierOutputWithNoAttention,
)
from transformers.utils import can_return_tuple

from .configuration_gloresnet import GloResNetConfig
from .inference_gloresnet import ScreeningInference, blank_missing, screening_loss
from .loading_gloresnet import ScreeningPreTrainedModel
from .local_gloresnet import LocalStream, fuse
from .medicalnet_gloresnet import load_encoder, read_medicalnet

_Model = TypeVar("_Model", bound="GloResNetPreTrainedModel")  # typing.Self needs Python 3.11, transformers only 3.10


class GloResNetConv3d(nn.Conv3d):
    """A convolution without bias that uses float32 where bfloat16 autocast on a CPU is wrong.

    On CPUs with native bfloat16, torch 2.13 returns wrong or even infinite weight gradients for 3^3 convolutions over
    maps with one or two voxels per axis; which of them depends on the CPU. These small maps cost almost no time.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, dilation: int = 1):
        padding = dilation * (kernel_size // 2)
        super().__init__(
            in_channels, out_channels, kernel_size, stride=stride, padding=padding, dilation=dilation, bias=False
        )

    def forward(self, hidden: Tensor) -> Tensor:
        if hidden.device.type == "cpu" and min(hidden.shape[2:]) <= 2 and torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):
                return super().forward(hidden.to(self.weight.dtype))
        return super().forward(hidden)


class GloResNetMaxPool3d(nn.MaxPool3d):
    """Max pooling in the input's precision. Autocast on a CPU would first copy the largest map to float32."""

    def forward(self, hidden: Tensor) -> Tensor:
        if hidden.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):
                return super().forward(hidden)
        return super().forward(hidden)


class GloResNetStem(GradientCheckpointingLayer):
    """(B, C, D, H, W) -> (B, stem_channels, D/4, H/4, W/4) with the default geometry."""

    def __init__(self, config: GloResNetConfig):
        super().__init__()
        self.conv1 = GloResNetConv3d(
            config.num_channels, config.stem_channels, config.stem_kernel_size, stride=config.stem_stride
        )
        self.bn1 = nn.BatchNorm3d(config.stem_channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = GloResNetMaxPool3d(3, stride=2, padding=1) if config.stem_pooling else nn.Identity()

    def forward(self, pixel_values: Tensor) -> Tensor:
        # max-pooling first gives the same values and gradients, and ReLU then has an eighth of the voxels to process
        return self.relu(self.maxpool(self.bn1(self.conv1(pixel_values))))


class GloResNetSubsample(nn.Module):
    """Shortcut type A: keep every `stride`-th voxel and fill the additional channels with zeros. No parameters."""

    def __init__(self, out_channels: int, stride: int):
        super().__init__()
        self.out_channels, self.stride = out_channels, stride

    def forward(self, hidden: Tensor) -> Tensor:
        step = self.stride
        hidden = hidden[:, :, ::step, ::step, ::step]
        return F.pad(hidden, (0, 0, 0, 0, 0, 0, 0, self.out_channels - hidden.shape[1]))


class GloResNetBlock(GradientCheckpointingLayer):
    """A residual block: convolutions with BatchNorm, plus the shortcut, then ReLU.

    `basic` has two 3^3 convolutions, the first one strided. `bottleneck` has a 1^3, a strided 3^3 and a 1^3 convolution
    to four times the width (He et al. 2016, doi:10.1109/CVPR.2016.90).
    """

    def __init__(self, config: GloResNetConfig, in_channels: int, width: int, stride: int, dilation: int):
        super().__init__()
        out_channels = width * config.expansion
        if config.block == "basic":
            self.conv1 = GloResNetConv3d(in_channels, width, 3, stride=stride, dilation=dilation)
            self.conv2 = GloResNetConv3d(width, width, 3, dilation=dilation)
        else:
            self.conv1 = GloResNetConv3d(in_channels, width, 1)
            self.conv2 = GloResNetConv3d(width, width, 3, stride=stride, dilation=dilation)
            self.conv3 = GloResNetConv3d(width, out_channels, 1)
            self.bn3 = nn.BatchNorm3d(out_channels)
        self.bn1 = nn.BatchNorm3d(width)
        self.bn2 = nn.BatchNorm3d(width)
        self.relu = nn.ReLU(inplace=True)
        if stride == 1 and in_channels == out_channels:
            self.downsample: nn.Module = nn.Identity()
        elif config.shortcut_type == "A":
            self.downsample = GloResNetSubsample(out_channels, stride)
        else:
            self.downsample = nn.Sequential(
                GloResNetConv3d(in_channels, out_channels, 1, stride=stride), nn.BatchNorm3d(out_channels)
            )
        self.has_third_convolution = config.block == "bottleneck"

    def forward(self, hidden: Tensor) -> Tensor:
        shortcut = self.downsample(hidden)
        hidden = self.relu(self.bn1(self.conv1(hidden)))
        hidden = self.bn2(self.conv2(hidden))
        if self.has_third_convolution:
            hidden = self.bn3(self.conv3(self.relu(hidden)))
        return self.relu(hidden + shortcut)


class GloResNetPresence(nn.Linear):
    """What the missing modalities of a scan add to its logits: nothing at first, as the weights start at 0.

    A scan with all modalities is never changed. T2w, the first, is never missing.
    """

    def __init__(self, config: GloResNetConfig):
        super().__init__(config.num_channels - 1, config.number_of_labels, bias=False)

    def forward(self, presence: Tensor) -> Tensor:
        """(B, C) bool, which modalities each scan has -> (B, num_labels)."""
        return super().forward((~presence.bool()[:, 1:]).to(self.weight.dtype))


class GloResNetPreTrainedModel(ScreeningPreTrainedModel):
    """Initialisation, gradient checkpointing and MedicalNet import of all GloResNet models."""

    config_class = GloResNetConfig
    config: GloResNetConfig
    base_model_prefix = "gloresnet"
    main_input_name = "pixel_values"
    input_modalities = ["image"]
    supports_gradient_checkpointing = True
    _no_split_modules = ["GloResNetBlock"]

    @torch.no_grad()
    def _init_weights(self, module):
        if isinstance(module, nn.Conv3d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, GloResNetPresence):
            init.zeros_(module.weight)
        elif isinstance(module, nn.Linear):
            init.normal_(module.weight, std=self.config.head_init_std)
            init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm3d):
            init.ones_(module.weight)
            init.zeros_(module.bias)
            init.zeros_(module.running_mean)
            init.ones_(module.running_var)
            init.zeros_(module.num_batches_tracked)

    def _set_gradient_checkpointing(self, enable=True, gradient_checkpointing_func=None, **kwargs):
        """Checkpoint stem and blocks. Recomputing them must not update BatchNorm's running statistics a second time.

        `use_reentrant=True` is ignored: torch's reentrant variant would leave the stem without gradients, because its
        input needs none, and it cannot freeze the running statistics. The other variant computes the same.
        """
        if gradient_checkpointing_func is not None:
            contexts = lambda: (contextlib.nullcontext(), self._frozen_running_statistics())  # noqa: E731
            checkpoint = partial(gradient_checkpointing_func, context_fn=contexts, use_reentrant=False)

            @torch.compiler.disable  # torch.compile cannot trace these contexts; it compiles the other parts
            def checkpoint_outside_graphs(*args, **kwargs):
                return checkpoint(*args, **kwargs)

            kwargs["gradient_checkpointing_func"] = checkpoint_outside_graphs
        super()._set_gradient_checkpointing(enable=enable, **kwargs)

    @contextlib.contextmanager
    def _frozen_running_statistics(self):
        kinds = (nn.BatchNorm3d, nn.SyncBatchNorm)
        norms = [module for module in self.modules() if isinstance(module, kinds) and module.track_running_stats]
        saved = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
        for norm in norms:
            norm.momentum, norm.num_batches_tracked = 0.0, None
        try:
            yield
        finally:
            for norm, momentum, num_batches_tracked in saved:
                norm.momentum, norm.num_batches_tracked = momentum, num_batches_tracked

    @classmethod
    def from_medicalnet(
        cls: type[_Model], source: str | Path, config: GloResNetConfig | None = None, **hub_kwargs
    ) -> _Model:
        """Return a new model with MedicalNet's weights in the encoder and a newly initialised head, if it has a head.

        Args:
            source: a local MedicalNet `.pth` file, or a Hub repository such as
                `TencentMedicalNet/MedicalNet-Resnet10`.
            config: geometry; defaults to the paper's ResNet-10.
            **hub_kwargs: `filename`, `revision`, `token`, `cache_dir`, `local_files_only`.

        Raises:
            FileNotFoundError: the weights cannot be found or downloaded.
            MedicalNetImportError: encoder keys are missing, unexpected or of another shape; the message names them.
        """
        config = config if config is not None else GloResNetConfig()
        weights = read_medicalnet(source, config, **hub_kwargs)
        model = cls(config)
        load_encoder(model.base_model, weights, source)
        return model.eval()


class GloResNetModel(GloResNetPreTrainedModel):
    """The encoder: it maps a standardised volume to a feature map and the map's spatial mean.

    Raises:
        ValueError: the configuration describes an ensemble, where each member has its own encoder.
    """

    # loading a classifier's checkpoint leaves out its head and local stream; transformers applies this to models with
    # an encoder, too
    _keys_to_ignore_on_load_unexpected = [r"^classifier\.(weight|bias)$", r"^presence\.weight$", r"^local\."]

    def __init__(self, config: GloResNetConfig):
        if config.member_temperatures:
            raise ValueError(
                f"This is an ensemble of {len(config.member_temperatures)} networks with separate features: load it "
                "with AutoModelForImageClassification and use an encoder such as model.members[0].gloresnet, or load "
                "the model of one fold."
            )
        super().__init__(config)
        self.stem = GloResNetStem(config)
        in_channels = config.stem_channels
        for stage, (depth, width) in enumerate(zip(config.depths, config.widths, strict=True)):
            blocks = []
            for index in range(depth):
                stride = config.strides[stage] if index == 0 else 1
                blocks.append(GloResNetBlock(config, in_channels, width, stride, config.dilations[stage]))
                in_channels = width * config.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.post_init()

    @property
    def layers(self) -> list[nn.Sequential]:
        """The stages, from first to last."""
        return [getattr(self, f"layer{stage + 1}") for stage in range(len(self.config.depths))]

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        output_hidden_states: bool | None = None,
        presence: Tensor | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPoolingAndNoAttention:
        """Encode standardised volumes.

        Args:
            pixel_values: (B, C, R, A, S), as the processor returns them.
            output_hidden_states: also return the maps after the stem and after each stage.
            presence: (B, C) bool, which modalities each scan has; None if it has all. See `blank_missing`.

        Returns:
            `last_hidden_state` (B, 512, 4, 4, 4) and `pooler_output` (B, 512) for 128^3 input and the default widths;
            `hidden_states`, the maps after the stem and after each stage, if requested.

        Raises:
            ValueError: the input is not (B, num_channels, D, H, W), or `presence` does not fit it.
        """
        if pixel_values.ndim != 5 or pixel_values.shape[1] != self.config.num_channels:
            raise ValueError(
                f"pixel_values must be (batch, {self.config.num_channels}, R, A, S), not {tuple(pixel_values.shape)}; "
                "use the image processor to make them."
            )
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        hidden = self.stem(blank_missing(pixel_values, presence).to(self.stem.conv1.weight.dtype))
        hidden_states = [hidden]
        for layer in self.layers:
            hidden = layer(hidden)
            hidden_states.append(hidden)
        # a plain mean: AdaptiveAvgPool3d has no deterministic backward pass on a GPU
        return BaseModelOutputWithPoolingAndNoAttention(
            last_hidden_state=hidden,
            pooler_output=hidden.mean(dim=(2, 3, 4)),
            hidden_states=tuple(hidden_states) if output_hidden_states else None,
        )


class GloResNetForImageClassification(ScreeningInference, GloResNetPreTrainedModel):
    """The encoder with a linear head on the pooled features: normal (0) or injury (1).

    With `config.local_stream`, `local` holds a second stream, which looks for small lesions.
    """

    def __init__(self, config: GloResNetConfig):
        super().__init__(config)
        self.num_labels = config.number_of_labels
        self.gloresnet = GloResNetModel(config)
        self.classifier = nn.Linear(config.hidden_size, self.num_labels)
        if config.num_channels > 1:
            self.presence = GloResNetPresence(config)
        if config.local_stream:
            with torch.random.fork_rng(devices=[]):  # the global stream starts with the same weights without it
                self.local = LocalStream(config.local_scorers, config.local_calibration, config.local_share_weights)
            for module in self.local.modules():
                module._is_hf_initialized = True  # a scorer has initial weights of its own
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
        local_patches: Tensor | None = None,
        local_positions: Tensor | None = None,
        local_valid: Tensor | None = None,
        local_shares: Tensor | None = None,
        presence: Tensor | None = None,
        **kwargs,
    ) -> ImageClassifierOutputWithNoAttention:
        """Classify standardised volumes; also return the cross-entropy if labels are given.

        Args:
            pixel_values: (B, C, R, A, S), as the processor returns them.
            labels: (B,) class indices, or (B, num_labels) class probabilities (soft labels).
            output_hidden_states: also return the maps after the stem and after each stage.
            num_items_in_batch: given by the Trainer of transformers if it accumulates gradients; see `screening_loss`.
            local_patches, local_positions, local_valid, local_shares: for a network with a local stream, see
                `predict_views`; others ignore them.
            presence: (B, C) bool, which modalities each scan has; None if it has all.

        Returns:
            `logits` (B, num_labels); `loss`, the unweighted mean, a scalar or `None`; `hidden_states` if requested. The
            loss is always that of the global stream. With the inputs of the local stream, the logits are log(1 - p) and
            log p of both streams together, at the temperature of the configuration; otherwise they are those of the
            global stream, not divided by it.
        """
        outputs = self.gloresnet(pixel_values, output_hidden_states=output_hidden_states, presence=presence)
        logits = self.head(outputs.pooler_output, presence)
        loss = None if labels is None else screening_loss(logits, labels, num_items_in_batch)
        if (judged := self.judge(local_patches, local_valid, local_shares)) is not None:
            own = (logits.float() / self.config.temperature).log_softmax(dim=-1)
            logits = fuse(own, judged)
        return ImageClassifierOutputWithNoAttention(loss=loss, logits=logits, hidden_states=outputs.hidden_states)

    def head(self, features: Tensor, presence: Tensor | None = None) -> Tensor:
        """(B, hidden_size) pooled features -> (B, num_labels) logits, with what missing modalities add to them."""
        logits = self.classifier(features)
        return logits if presence is None or self.config.num_channels == 1 else logits + self.presence(presence)


# `save_pretrained` then copies the code into the model folder
GloResNetModel.register_for_auto_class("AutoModel")
GloResNetForImageClassification.register_for_auto_class("AutoModelForImageClassification")

__all__ = ["GloResNetModel", "GloResNetForImageClassification", "GloResNetPreTrainedModel"]
