"""Heat maps compared with Captum and autograd, their geometry with receptive fields, and their position in the scan."""

import copy

import nibabel
import numpy as np
import pytest
import torch
from captum.attr import LayerActivation, LayerGradCam
from scipy.ndimage import map_coordinates

from explanation.gradcam import (
    cube_affine,
    explain,
    gradcam,
    gradcam_map,
    layercam,
    layercam_map,
    map_image,
    maps_and_gradients,
    peak_position,
    place,
    scan_image,
    stage_steps,
)
from modeling_gloresnet import (
    GloResNetConfig,
    GloResNetEnsembleForImageClassification,
    GloResNetForImageClassification,
)
from preprocessing import Frame, read_volume

GEOMETRIES = {
    "paper": {},
    "medicalnet": {"strides": [1, 2, 1, 1], "dilations": [1, 1, 2, 4]},
    "bottleneck": {"block": "bottleneck", "depths": [2, 1, 1, 1]},
    "no pooling": {"stem_pooling": False, "stem_kernel_size": 5, "stem_stride": 1, "shortcut_type": "A"},
    "three stages": {"depths": [1, 2, 1], "widths": [4, 8, 8], "strides": [2, 1, 3], "dilations": [1, 2, 1]},
}


def tiny_model(seed=0, **kwargs):
    torch.manual_seed(seed)
    config = GloResNetConfig(
        **{"stem_channels": 4, "widths": [4, 8, 8, 16], "image_size": 32, "head_init_std": 1.0, **kwargs}
    )
    model = GloResNetForImageClassification(config).eval()
    with torch.no_grad():
        model.classifier.weight[1].abs_()  # features are >= 0, so there is evidence for class 1
    return model


def noise(count=2, shape=(32, 32, 32), seed=1):
    return torch.randn(count, 1, *shape, generator=torch.Generator().manual_seed(seed))


def logits_of(model):
    return lambda pixel_values: model(pixel_values).logits


# ------------------------------------------------------------------------------------------------------------- methods


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_gradcam_equals_captum_at_every_stage(geometry):
    model, volumes = tiny_model(**GEOMETRIES[geometry]), noise(shape=(33, 32, 29))
    for stage, layer in enumerate(model.gloresnet.layers, start=1):
        captum = LayerGradCam(logits_of(model), layer)
        theirs = captum.attribute(volumes, target=1, relu_attributions=True)[:, 0].detach()
        ours = gradcam(model, volumes, stage=stage)
        assert ours.dtype == torch.float32 and ours.min() >= 0
        assert torch.allclose(ours, theirs, atol=1e-5 * float(theirs.max()))
    assert torch.equal(gradcam(model, volumes), ours) and ours.max() > 0


@pytest.mark.parametrize("stage", [1, 2, 3, 4])
def test_layercam_of_one_stage_is_the_published_sum(stage):
    model, volumes = tiny_model(), noise()
    activation = LayerActivation(logits_of(model), model.gloresnet.layers[stage - 1]).attribute(volumes).detach()
    hidden = activation.requires_grad_()
    for layer in model.gloresnet.layers[stage:]:
        hidden = layer(hidden)
    logit = model.classifier(hidden.mean(dim=(2, 3, 4)))[:, 1].sum()
    (gradient,) = torch.autograd.grad(logit, activation)
    expected = (gradient.clamp(min=0) * activation).sum(dim=1)
    expected = (expected / expected.amax(dim=(1, 2, 3), keepdim=True)).detach()
    assert torch.allclose(layercam(model, volumes, stages=[stage], smooth=False), expected, atol=1e-5)


def test_stages_are_combined_by_their_maximum_on_the_finest_grid():
    model, volumes = tiny_model(), noise()
    both = layercam(model, volumes, stages=[4, 2])
    second, fourth = (layercam(model, volumes, stages=[stage]) for stage in (2, 4))
    assert both.shape == second.shape == (2, 4, 4, 4) and fourth.shape == (2, 1, 1, 1)
    assert torch.allclose(both, torch.maximum(second, fourth.expand_as(second)))


def test_smoothing_removes_the_checkerboard_of_strides():
    """Without smoothing, LayerCAM peaks at voxels that the later strides read, for any scan."""
    volumes = noise(6, (64, 64, 64))
    peaks = {}
    for smooth in (False, True):
        maps = layercam(tiny_model(widths=[8, 16, 32, 64], stem_channels=8), volumes, stages=[1], smooth=smooth)
        peaks[smooth] = [np.unravel_index(int(heat.argmax()), heat.shape) for heat in maps]
    assert all(index % 2 == 0 for peak in peaks[False] for index in peak)
    assert any(index % 2 for peak in peaks[True] for index in peak)
    assert len(set(peaks[True])) > len(set(peaks[False])) / 2


def test_maps_and_gradients_work_for_any_network_and_module():
    torch.manual_seed(0)
    features = torch.nn.Sequential(torch.nn.Conv3d(1, 3, 3), torch.nn.ReLU())
    head = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(2))
    network = torch.nn.Sequential(features, head).train()
    volumes = noise(2, (6, 6, 6))
    network(volumes)
    ((activation, gradient),) = maps_and_gradients(network, [features], volumes, target=0)
    weight = head[1].weight[0].reshape(3, 4, 4, 4).detach()
    assert torch.allclose(activation, features(volumes).detach())
    assert torch.allclose(gradient, weight.expand_as(gradient), atol=1e-6)
    expected = (weight.mean((1, 2, 3), keepdim=True) * activation).sum(1).relu()
    assert torch.allclose(gradcam_map(activation, gradient), expected, atol=1e-6)
    assert torch.allclose(layercam_map(activation, gradient), (weight.relu() * activation).sum(1), atol=1e-6)


# ------------------------------------------------------------------------------------------------------------ geometry


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_map_voxels_are_the_centres_of_their_receptive_fields(geometry):
    model = tiny_model(**GEOMETRIES[geometry])
    if model.config.stem_pooling:
        model.gloresnet.stem.maxpool = torch.nn.AvgPool3d(3, stride=2, padding=1)  # its gradient shows the whole field
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Conv3d):
                module.weight.fill_(1e-2)
    volume = torch.ones(1, 1, 400, 8, 8, requires_grad=True)
    maps = model.gloresnet(volume, output_hidden_states=True).hidden_states[1:]
    for step, hidden in zip(stage_steps(model), maps, strict=True):
        index = hidden.shape[2] // 2
        (gradient,) = torch.autograd.grad(hidden[:, :, index].sum(), volume, retain_graph=True)
        seen = gradient.abs().amax(dim=(0, 1, 3, 4)).nonzero()[:, 0]
        assert 0 < seen[0] and seen[-1] < 399
        assert (seen[0] + seen[-1]) / 2 == step * index


def test_placing_is_linear_between_centres_and_constant_beyond_them():
    # the values of a map are the positions of its centres, on three axes of different length
    ramps = torch.meshgrid(*(torch.arange(n) * 4.0 for n in (3, 4, 5)), indexing="ij")
    size = (11, 13, 17)
    for axis, ramp in enumerate(ramps):
        placed = place(ramp[None], 4, size)[0]
        assert placed.shape == size
        along = placed.movedim(axis, 0)[:, 0, 0]
        assert torch.allclose(along, torch.arange(size[axis]).clamp(max=4 * (ramp.shape[axis] - 1)).float())
    coarse = place(ramps[0][None], 4, (6, 4, 5), out_step=2)[0, :, 0, 0]
    assert coarse.tolist() == [0, 2, 4, 6, 8, 8]
    patches = place(torch.tensor([0.0, 1.0]).reshape(1, 2, 1, 1), 4, (8, 1, 1), start=1.5)[0, :, 0, 0]
    assert torch.allclose(patches, torch.tensor([0, 0, 0.125, 0.375, 0.625, 0.875, 1, 1]))


def test_the_peak_is_on_a_bright_blob():
    """The weights of this network only add, so its evidence is brightness and the heat must be on the blob."""
    model = tiny_model(test_time_augmentation=False)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Conv3d):
                module.weight.fill_(1 / module.weight[0].numel())
        model.classifier.weight[1].fill_(1.0)
    volume = torch.zeros(1, 1, 64, 64, 64)
    volume[..., 14:19, 46:51, 30:35] = 10  # centre 16, 48, 32
    heat = explain(model, volume)[0]
    peak = np.array(np.unravel_index(int(heat.argmax()), heat.shape))
    assert np.abs(peak - [16, 48, 32]).max() <= 4  # one voxel of the first stage


# -------------------------------------------------------------------------------------------------------------- explain


@pytest.mark.parametrize("method", ["layercam", "gradcam"])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_maps_are_on_the_input_grid_between_0_and_1(geometry, method):
    for size in (32, 33):
        heat = explain(tiny_model(image_size=size, **GEOMETRIES[geometry]), noise(2, (size,) * 3), method)
        assert heat.shape == (2, size, size, size) and heat.dtype == torch.float32
        assert heat.min() >= 0
        assert all(highest in (0, 1) for highest in heat.amax(dim=(1, 2, 3)).tolist())


@pytest.mark.parametrize("method", ["layercam", "gradcam"])
def test_the_map_of_a_mirrored_scan_is_mirrored_if_both_views_are_used(method):
    model, volumes = tiny_model(), noise(2, (48, 48, 48))
    heat, mirrored = explain(model, volumes, method), explain(model, volumes.flip(2), method)
    assert torch.allclose(mirrored, heat.flip(1), atol=1e-5)
    model.config.test_time_augmentation = False
    assert not torch.allclose(
        explain(model, volumes.flip(2), method), explain(model, volumes, method).flip(1), atol=1e-2
    )


@pytest.mark.parametrize("method", ["layercam", "gradcam"])
def test_scans_of_a_batch_do_not_affect_each_other(method):
    model, volumes = tiny_model().train(), noise(3)
    together = explain(model, volumes, method)
    alone = torch.cat([explain(model, volume[None], method) for volume in volumes])
    assert torch.allclose(together, alone, atol=1e-4)


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_the_model_is_unchanged(mode):
    model = tiny_model().train()
    model.gloresnet.layer2.eval()
    model.gloresnet.layer3.requires_grad_(False)
    modes = [module.training for module in model.modules()]
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with mode():
        heat = explain(model, noise())
    assert heat.max() == 1 and not heat.requires_grad
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == wanted
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_frozen_and_half_precision_models_are_explained_in_float32():
    model, volumes = tiny_model(), noise()
    heat = explain(model, volumes)
    assert torch.equal(explain(model.requires_grad_(False), volumes), heat)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(explain(model, volumes), heat)
    half = tiny_model().bfloat16()
    rounded = explain(tiny_model().bfloat16().float(), volumes)
    assert torch.equal(explain(half, volumes), rounded)
    assert next(half.parameters()).dtype == torch.bfloat16


def test_no_evidence_gives_zeros_and_no_peak():
    model = tiny_model()
    with torch.no_grad():
        model.classifier.weight[1].fill_(-1.0)  # features are >= 0, so there is no evidence for the class
    heat = explain(model, noise(1), "gradcam")
    assert torch.equal(heat, torch.zeros_like(heat))
    with pytest.raises(ValueError, match="no peak"):
        peak_position(heat[0], read_volume(noise(1)[0, 0]))


def test_a_mistake_gives_a_clear_error():
    model, volumes = tiny_model(), noise(1)
    with pytest.raises(ValueError, match="no method 'saliency': choose one of layercam, gradcam"):
        explain(model, volumes, "saliency")
    for call in (explain, gradcam, layercam):
        with pytest.raises(ValueError, match="no class 2"):
            call(model, volumes, target=2)
    with pytest.raises(ValueError, match=r"no stages \[5\]: choose from 1 to 4"):
        gradcam(model, volumes, stage=5)
    with pytest.raises(ValueError, match="no stages"):
        layercam(model, volumes, stages=[0, 1])
    with pytest.raises(ValueError, match="no class 1"):
        explain(model.gloresnet, volumes)
    with pytest.raises(ValueError, match="did not run Linear"):
        maps_and_gradients(model, [torch.nn.Linear(1, 1)], volumes, 1)
    assert model(volumes).logits.requires_grad  # gradients are still enabled


FINE = {"stem_pooling": False, "strides": [1, 2, 2, 1]}  # maps of 16, 8, 4 and 4 voxels from 32


@pytest.fixture(scope="module")
def trained():
    """A network trained to find a bright block, and unseen injured scans with the masks of their blocks."""
    generator = torch.Generator().manual_seed(0)

    def scans(count):
        volumes = torch.randn(count, 1, 32, 32, 32, generator=generator)
        blocks = torch.zeros(volumes.shape, dtype=torch.bool)
        for number in range(1, count, 2):
            x, y, z = torch.randint(2, 22, (3,), generator=generator).tolist()
            blocks[number, 0, x : x + 8, y : y + 8, z : z + 8] = True
        return volumes + 3 * blocks, blocks

    model = tiny_model(head_init_std=0.01, **FINE).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    labels = torch.arange(16) % 2
    for _ in range(30):
        loss = model(scans(16)[0], labels=labels).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    volumes, blocks = scans(24)
    with torch.no_grad():
        assert torch.equal(model.eval()(volumes).logits.argmax(1), torch.arange(24) % 2)
    return model, volumes[1::2], blocks[1::2, 0]


@pytest.mark.parametrize("method", ["layercam", "gradcam"])
def test_the_map_is_on_what_was_learnt_and_changes_with_the_weights(trained, method):
    """Adebayo et al. 2018 (arXiv 1810.03292): a map that stays the same with random weights explains nothing.

    The bounds are loose. Here LayerCAM has about 13 times the mean heat on the block, and Grad-CAM with 4^3 voxels 1.3
    times. The correlations are about 0.55 and 0.3, because random weights respond to a bright block too.
    """
    model, volumes, blocks = trained
    learnt, random = (explain(network, volumes, method) for network in (model, tiny_model(seed=5, **FINE)))
    inside = [float(heat[block].mean() / heat.mean()) for heat, block in zip(learnt, blocks, strict=True)]
    pairs = zip(learnt.flatten(1).numpy(), random.flatten(1).numpy(), strict=True)
    correlation = [np.corrcoef(ours, other)[0, 1] for ours, other in pairs if other.std() > 0]
    assert np.median(inside) > {"layercam": 5, "gradcam": 1}[method]
    assert len(correlation) > 6 and np.median(correlation) < 0.75


# ----------------------------------------------------------------------------------------------- on the scan's own grid


def scan_in(codes, shape=(20, 26, 17)):
    """A slightly tilted scan with anisotropic voxels, stored in the orientation `codes`, with one bright blob."""
    angle = np.deg2rad(8)
    tilt = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = tilt @ np.diag([1.0, 0.8, 1.5])
    affine[:3, 3] = [-11, 7, -30]
    data = np.random.default_rng(0).normal(0, 0.01, shape).astype(np.float32)
    data[13:16, 5:8, 10:13] += 1  # centre 14, 6, 11
    image = nibabel.Nifti1Image(data, affine)
    wanted = nibabel.orientations.axcodes2ornt(tuple(codes))
    stored = image.as_reoriented(nibabel.orientations.ornt_transform(nibabel.io_orientation(affine), wanted))
    return stored, nibabel.affines.apply_affine(affine, [14, 6, 11])


@pytest.mark.parametrize("codes", ["RAS", "LPS", "LAS", "ASR", "PIL", "SRP", "IAL"])
def test_a_map_is_resampled_to_the_grid_of_the_file(tmp_path, codes):
    source, centre = scan_in(codes)
    nibabel.save(source, tmp_path / "scan.nii.gz")
    volume = read_volume(tmp_path / "scan.nii.gz")
    size = 33
    # a perfect map: only the blob, on the input grid
    blob = torch.from_numpy((volume.data > 0.5).astype(np.float32))[None, None]
    heat = torch.nn.functional.interpolate(blob, size=(size,) * 3, mode="trilinear", align_corners=True)[0, 0]
    scan_image(heat, volume).to_filename(tmp_path / "heat.nii.gz")
    back, file = nibabel.load(tmp_path / "heat.nii.gz"), nibabel.load(tmp_path / "scan.nii.gz")
    assert back.shape == file.shape and back.get_data_dtype() == np.float32
    assert np.allclose(back.affine, file.affine, atol=1e-5)
    assert nibabel.aff2axcodes(back.affine) == tuple(codes)
    values = back.get_fdata()
    at = nibabel.affines.apply_affine(back.affine, np.argwhere(values > 0.8 * values.max()).mean(axis=0))
    assert np.abs(at - centre).max() < 0.4
    # every voxel compared with scipy: world position -> input grid -> linear interpolation
    cube = map_image(heat, volume)
    assert cube.get_data_dtype() == np.float32 and cube.shape == (size,) * 3
    grid = np.argwhere(np.ones(back.shape))
    where = nibabel.affines.apply_affine(np.linalg.inv(cube.affine) @ back.affine, grid)
    expected = map_coordinates(heat.numpy(), where.T, order=1, mode="nearest").reshape(back.shape)
    assert np.allclose(values, expected, atol=1e-4)
    assert np.abs(np.array(peak_position(heat, volume)) - centre).max() < 1.6  # within the blob


def test_the_corners_of_the_cube_are_those_of_the_scan():
    volume = read_volume(scan_in("PIL")[0])
    affine = cube_affine(volume, 9)
    for corner in np.ndindex(2, 2, 2):
        ours = nibabel.affines.apply_affine(affine, np.multiply(corner, 8))
        theirs = nibabel.affines.apply_affine(volume.affine, np.multiply(corner, np.subtract(volume.data.shape, 1)))
        assert np.allclose(ours, theirs)


def test_a_map_of_a_frame_is_back_at_its_place_on_the_scan():
    source, centre = scan_in("PIL")
    volume = read_volume(source)
    shape = np.array(volume.data.shape)
    volume = volume._replace(frame=Frame(tuple(-0.1 * shape), tuple(0.9 * shape), -5.0))
    size = 24
    indices = np.stack(np.meshgrid(*[np.arange(float(size))] * 3, indexing="ij"))
    at = nibabel.affines.apply_affine(np.linalg.inv(cube_affine(volume, size)), centre)  # scan to cube
    blob = np.exp(-np.square(indices - at[:, None, None, None]).sum(axis=0) / 8).astype(np.float32)
    back = scan_image(blob, volume)
    values = back.get_fdata()
    assert back.shape == source.shape and np.allclose(back.affine, source.affine)
    peak = np.average(np.argwhere(values > 0), weights=values[values > 0], axis=0)  # cube to scan
    expected = nibabel.affines.apply_affine(np.linalg.inv(source.affine), centre)
    assert np.abs(peak - expected).max() < 0.1  # voxels of the scan
    # every voxel compared with scipy; outside the frame there is no heat
    to_cube = np.linalg.inv(cube_affine(volume, size)) @ back.affine
    where = nibabel.affines.apply_affine(to_cube, np.argwhere(values > -1))
    wanted = map_coordinates(blob, where.T, order=1, mode="constant").reshape(back.shape)
    assert np.allclose(values, wanted, atol=1e-4)
    assert not values[~((where >= 0) & (where <= size - 1)).all(axis=1).reshape(back.shape)].any()


def test_a_file_with_a_fourth_axis_and_an_array_give_three_axes():
    source, _ = scan_in("LPS")
    volume = read_volume(nibabel.Nifti1Image(source.get_fdata(dtype=np.float32)[..., None], source.affine))
    assert scan_image(torch.rand(8, 8, 8), volume).shape == source.shape
    array = read_volume(np.random.default_rng(0).random((5, 9, 7)))
    heat = np.zeros((5, 5, 5))
    heat[4, 2, 1] = 1
    assert np.allclose(scan_image(heat, array).affine, np.eye(4))
    assert peak_position(heat, array) == (4, 4, 1.5)  # one voxel counts as 1 mm


def test_the_map_of_an_ensemble_is_the_mean_over_its_members():
    members = [tiny_model(seed) for seed in (0, 1)]
    ensemble = GloResNetEnsembleForImageClassification.from_members(members)
    pixel_values = noise()
    mean = torch.stack([explain(member, pixel_values) for member in members]).mean(dim=0)
    expected = mean / mean.amax(dim=(1, 2, 3), keepdim=True)
    torch.testing.assert_close(explain(ensemble, pixel_values), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", ["gradcam", "layercam"])
def test_maps_of_several_modalities_need_no_presence_flags(method):
    model = tiny_model(modalities=["T2w", "T1w", "FA"], test_time_augmentation=False)
    torch.nn.init.normal_(model.presence.weight)
    x, flags = torch.randn(1, 3, 32, 32, 32), torch.tensor([[True, False, True]])
    x[:, 1] = 0
    with_flags = copy.deepcopy(model)
    with_flags.forward = lambda pixel_values: model.forward(pixel_values, presence=flags)
    ((_, gradient),) = maps_and_gradients(model, [model.gloresnet.layer4], x, 1)
    with_flags.gloresnet = model.gloresnet
    ((_, flagged),) = maps_and_gradients(with_flags, [model.gloresnet.layer4], x, 1)
    assert torch.equal(gradient, flagged)
    assert explain(model, x, method).shape == (1, 32, 32, 32) and explain(model, x, method).max() == 1
