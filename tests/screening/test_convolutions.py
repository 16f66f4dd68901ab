"""The stem of both views is that of each: in float64 to its last digits."""

import pytest
import torch
from torch import nn

from screening import convolutions
from tests.screening.test_fast import make_model


@pytest.mark.parametrize("edges", [(32, 32, 32), (36, 31, 33), (21, 20, 18), (2, 5, 4)])
@pytest.mark.parametrize("kernel, pooled", [(1, True), (3, False), (5, True), (7, True), (7, False), (9, True)])
def test_the_mirrored_stem_computes_both_views(kernel, pooled, edges):
    stem = make_model(stem_kernel_size=kernel, stem_pooling=pooled).double().gloresnet.stem
    x = torch.randn(2, 1, *edges, dtype=torch.double)
    expected = torch.cat([stem(x), stem(x.flip(2))])
    stem.conv1, stem.bn1 = nn.utils.fuse_conv_bn_eval(stem.conv1, stem.bn1), nn.Identity()
    mirrored = convolutions.MirroredStem(stem)
    torch.testing.assert_close(mirrored(x, True), expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(mirrored(x, False), expected[:2], atol=1e-12, rtol=0)
