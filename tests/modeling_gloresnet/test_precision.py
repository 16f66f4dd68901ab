"""bfloat16 gradients of every layer, compared with float32 on the same input."""

import pytest
import torch

from modeling_gloresnet import GloResNetConfig, GloResNetModel
from modeling_gloresnet.modeling_gloresnet import GloResNetConv3d, GloResNetMaxPool3d
from screening.fast import has_native_bfloat16


def weight_gradient(conv, hidden, upstream, precision):
    conv.weight.grad = None
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
        output = conv(hidden)
    output.backward(upstream.to(output.dtype))
    return conv.weight.grad.clone()


# emulated bfloat16 takes half a minute for the largest size, and does not use the kernels that were wrong
LARGER = [80, 96, 112, 128] if has_native_bfloat16(torch.device("cpu")) else [80]


# every size at which some map has one or two voxels per edge, and larger ones
@pytest.mark.parametrize("image_size", [*range(16, 65), *LARGER])
def test_bfloat16_weight_gradients_of_every_layer(image_size):
    torch.manual_seed(0)
    model = GloResNetModel(GloResNetConfig(stem_channels=16, widths=[16, 32, 64, 128])).train()
    captured = {}

    def capture(module, inputs, output):
        output.register_hook(lambda grad: captured.update({module: (inputs[0].detach(), grad.detach())}))

    for module in model.modules():
        if isinstance(module, GloResNetConv3d):
            module.register_forward_hook(capture)
    batch = 2 if image_size > 64 else 4
    model(torch.randn(batch, 1, *[image_size] * 3)).last_hidden_state.square().sum().backward()
    names = {module: name for name, module in model.named_modules()}
    assert len(captured) == 12  # the stem, two per block, three projections
    for module, (hidden, upstream) in list(captured.items()):
        module._forward_hooks.clear()
        upstream = upstream / upstream.norm().clamp_min(1e-30)
        exact = weight_gradient(module, hidden, upstream, "no")
        rounded = weight_gradient(module, hidden, upstream, "bf16")
        error = (rounded - exact).norm() / exact.norm()
        assert error < 0.02, f"{names[module]} at {tuple(hidden.shape[2:])}: relative error {error:.3g}"


def test_bfloat16_maps_are_pooled_in_bfloat16():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, 4, 9, 10, 11, generator=generator).bfloat16().requires_grad_()
    exact = hidden.detach().float().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pooled = GloResNetMaxPool3d(3, stride=2, padding=1)(hidden)
    expected = torch.nn.functional.max_pool3d(exact, 3, stride=2, padding=1)
    assert pooled.dtype == torch.bfloat16 and torch.equal(pooled.float(), expected)
    upstream = torch.randn(expected.shape, generator=generator)
    pooled.backward(upstream.bfloat16())
    expected.backward(upstream)
    assert (hidden.grad.float() - exact.grad).norm() < 0.01 * exact.grad.norm()
