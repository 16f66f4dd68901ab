"""The paper's baselines as 3D networks, built with MONAI, with the same interface as GloResNet.

MONAI initialises their weights. It is imported when a baseline is built, so GloResNet works without it.
"""

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention
from transformers.utils import can_return_tuple

from .configuration_baseline import BaselineConfig
from .inference_gloresnet import ScreeningInference, blank_missing, screening_loss
from .loading_gloresnet import ScreeningPreTrainedModel


class BaselineMean(nn.Module):
    """(B, C, d, h, w) -> (B, C), a plain mean: AdaptiveAvgPool3d has no deterministic backward pass on a GPU."""

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden.mean(dim=(2, 3, 4))


class BaselineViT(nn.Module):
    """ViT-Base (Dosovitskiy et al. 2021, arXiv 2010.11929) on patches of 16^3 voxels; the class token is classified."""

    def __init__(self, config: BaselineConfig):
        super().__init__()
        import einops  # noqa: F401  MONAI imports it late; importing it here reports it like a missing MONAI
        from monai.networks.nets import ViT

        self.vit = ViT(
            in_channels=config.num_channels,
            img_size=config.image_size,
            patch_size=16,
            hidden_size=768,
            mlp_dim=3072,
            num_layers=12,
            num_heads=12,
            classification=True,
            num_classes=config.number_of_labels,
            post_activation="none",
            qkv_bias=True,
        )
        for block in self.vit.blocks:  # unused weights, with which training on several GPUs would fail
            block.norm_cross_attn = nn.Identity()

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.vit(pixel_values)[0]


class BaselineSwin(nn.Module):
    """The encoder of Swin-UNet (Cao et al. 2021, arXiv 2105.05537) in 3D, mean pooling and a linear head.

    The encoder is a Swin-T: patches of 4^3 voxels, 96 channels, 2-2-6-2 blocks, windows of 4^3 patches.
    """

    def __init__(self, config: BaselineConfig):
        super().__init__()
        import einops  # noqa: F401
        from monai.networks.nets.swin_unetr import SwinTransformer

        device = torch.get_default_device()
        with torch.device("cpu"):  # the constructor reads values from tensors, which fails on "meta"
            encoder = SwinTransformer(
                in_chans=config.num_channels,
                embed_dim=96,
                window_size=(4, 4, 4),
                patch_size=(4, 4, 4),
                depths=(2, 2, 6, 2),
                num_heads=(3, 6, 12, 24),
            )
        # MONAI merges patches once more, for the bottom of its U-Net
        encoder.layers4[0].downsample = None  # type: ignore[assignment]  # torch declares modules only
        self.encoder = encoder.to(device)
        self.pool = BaselineMean()
        self.head = nn.Linear(encoder.num_features, config.number_of_labels)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.head(self.pool(self.encoder(pixel_values)[-1]))


class BaselineDenseNet(nn.Module):
    """DenseNet-121 (Huang et al. 2017, 10.1109/CVPR.2017.243)."""

    def __init__(self, config: BaselineConfig):
        super().__init__()
        from monai.networks.nets import DenseNet121

        self.densenet = DenseNet121(
            spatial_dims=3, in_channels=config.num_channels, out_channels=config.number_of_labels
        )
        self.densenet.class_layers.pool = BaselineMean()

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.densenet(pixel_values)


class BaselineForImageClassification(ScreeningInference, ScreeningPreTrainedModel):
    """A baseline that classifies a volume as normal (0) or injury (1)."""

    config_class = BaselineConfig
    config: BaselineConfig
    main_input_name = "pixel_values"
    input_modalities = ["image"]
    supports_gradient_checkpointing = False

    def __init__(self, config: BaselineConfig):
        super().__init__(config)
        self.num_labels = config.number_of_labels
        networks = {"vit_base": BaselineViT, "swin_unet_encoder": BaselineSwin, "densenet121": BaselineDenseNet}
        self.network = networks[config.architecture](config)
        self.post_init()

    def _init_weights(self, module):
        """Do nothing: MONAI has initialised the weights, and a saved model contains all of them."""

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        presence: Tensor | None = None,
        **kwargs,
    ) -> ImageClassifierOutputWithNoAttention:
        """Classify standardised volumes; also return the cross-entropy if labels are given.

        Args:
            pixel_values: (B, C, R, A, S), as the processor returns them; each edge is `config.image_size`.
            labels: (B,) class indices, or (B, num_labels) class probabilities (soft labels).
            num_items_in_batch: given by the Trainer of transformers if it accumulates gradients; see `screening_loss`.
            presence: (B, C) bool, see `blank_missing`. These networks see a missing channel as zeros only.

        Returns:
            `logits` (B, num_labels); `loss`, the unweighted mean, a scalar or `None`.

        Raises:
            ValueError: the input has another shape.
        """
        expected = (self.config.num_channels,) + (self.config.image_size,) * 3
        if pixel_values.ndim != 5 or pixel_values.shape[1:] != expected:
            raise ValueError(
                f"pixel_values must be (batch, {', '.join(map(str, expected))}), not {tuple(pixel_values.shape)}; "
                "use the image processor to make them."
            )
        logits = self.network(blank_missing(pixel_values, presence).to(self.dtype))
        loss = None if labels is None else screening_loss(logits, labels, num_items_in_batch)
        return ImageClassifierOutputWithNoAttention(loss=loss, logits=logits)


# `save_pretrained` then copies the code into the model folder
BaselineForImageClassification.register_for_auto_class("AutoModelForImageClassification")

__all__ = ["BaselineForImageClassification"]
