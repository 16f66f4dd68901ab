"""The fast convolutions equal the plain ones: in float64 to the last digits, in float32 within the documented error."""

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


@pytest.mark.parametrize("edges", [(8, 8, 8), (9, 7, 5), (10, 6, 11), (11, 3, 4), (1, 2, 3)])
@pytest.mark.parametrize("batch", [1, 3])
def test_winograds_convolution_equals_the_plain_one(batch, edges):
    torch.manual_seed(0)
    conv = nn.Conv3d(5, 6, 3, padding=1).double()
    x = torch.randn(batch, 5, *edges, dtype=torch.double)
    found = convolutions.WinogradConv3d(conv)(x)
    torch.testing.assert_close(found, conv(x), atol=1e-12, rtol=0)
    if edges[0] % 4 == 0:
        assert found.is_contiguous(memory_format=torch.channels_last_3d)


def test_winograds_convolution_is_accurate_enough_in_float32():
    """256 channels are the most in a replaced convolution of the paper's network; the error is 2e-5 of the SD."""
    torch.manual_seed(0)
    conv = nn.Conv3d(256, 8, 3, padding=1)
    x = torch.randn(1, 256, 8, 8, 8)
    exact = conv.double()(x.double())
    found = convolutions.WinogradConv3d(conv.float())(x)
    torch.testing.assert_close(found.double(), exact, atol=5e-5 * exact.std().item(), rtol=0)


def test_only_suitable_convolutions_are_replaced():
    replaces = convolutions.WinogradConv3d.replaces
    assert replaces(nn.Conv3d(2, 2, 3, padding=1), 8)
    assert not replaces(nn.Conv3d(2, 2, 3, padding=1), 7)
    for other in ({"stride": 2}, {"padding": 0}, {"dilation": 2}, {"kernel_size": 1}, {"kernel_size": 5}):
        assert not replaces(nn.Conv3d(2, 2, **{"kernel_size": 3, "padding": 1} | other), 32)
    assert not replaces(nn.BatchNorm3d(2), 32)
