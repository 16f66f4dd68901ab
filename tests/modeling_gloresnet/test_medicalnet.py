"""The strict weight import: a fitting file is loaded exactly, and errors name everything that does not fit."""

import pytest
import torch

from modeling_gloresnet import (
    GloResNetConfig,
    GloResNetForImageClassification,
    GloResNetModel,
    MedicalNetImportError,
)

WIDTHS = {"stem_channels": 4, "widths": [4, 8, 16, 32]}


def config(depth=10, **kwargs):
    return GloResNetConfig.from_depth(depth, **WIDTHS, **kwargs)


def medicalnet_state(depth=10, **kwargs):
    """A `state_dict` as MedicalNet writes it: every key starts with `module.`, and there is a segmentation head."""
    torch.manual_seed(depth)
    encoder = GloResNetModel(config(depth, **kwargs))
    state = {
        f"module.{key.removeprefix('stem.')}": torch.randn_like(value.float())
        for key, value in encoder.state_dict().items()
    }
    state = {k: v.long() if k.endswith("num_batches_tracked") else v for k, v in state.items()}
    state["module.conv_seg.0.weight"] = torch.randn(8, 32, 2, 2, 2)
    state["module.conv_seg.0.bias"] = torch.randn(8)
    return state


def saved(tmp_path, state, name="resnet.pth"):
    torch.save({"state_dict": state}, tmp_path / name)
    return tmp_path / name


@pytest.mark.parametrize(("depth", "shortcut"), [(10, "B"), (18, "A"), (50, "B")])
def test_every_encoder_weight_is_loaded(tmp_path, depth, shortcut):
    state = medicalnet_state(depth, shortcut_type=shortcut)
    path = saved(tmp_path, state)
    model = GloResNetForImageClassification.from_medicalnet(path, config(depth, shortcut_type=shortcut))
    encoder = GloResNetModel.from_medicalnet(str(path), config(depth, shortcut_type=shortcut))
    for key, value in encoder.state_dict().items():
        expected = state[f"module.{key.removeprefix('stem.')}"]
        assert torch.equal(value, expected), key
        assert torch.equal(model.gloresnet.state_dict()[key], expected), key
    assert not model.training
    assert model.classifier.bias.abs().max() == 0


def test_the_dilated_geometry_loads_the_same_file(tmp_path):
    path = saved(tmp_path, medicalnet_state())
    GloResNetModel.from_medicalnet(path, config(strides=[1, 2, 1, 1], dilations=[1, 1, 2, 4]))


def test_a_file_of_the_other_shortcut_type_is_refused(tmp_path):
    a_file = saved(tmp_path, medicalnet_state(18, shortcut_type="A"), "a.pth")
    with pytest.raises(MedicalNetImportError, match="trained with shortcut type A.*shortcut_type='B'.*downsample"):
        GloResNetModel.from_medicalnet(a_file, config(18))
    b_file = saved(tmp_path, medicalnet_state(18), "b.pth")
    with pytest.raises(MedicalNetImportError, match="trained with shortcut type B.*shortcut_type='A'.*downsample"):
        GloResNetModel.from_medicalnet(b_file, config(18, shortcut_type="A"))


def test_another_depth_is_refused(tmp_path):
    path = saved(tmp_path, medicalnet_state(18))
    with pytest.raises(MedicalNetImportError, match=r"\[2, 2, 2, 2\] blocks.*\[1, 1, 1, 1\].*layer1\.1\.conv1\.weight"):
        GloResNetModel.from_medicalnet(path, config(10))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("module.layer4.0.bn2.running_var"), r"1 keys missing: layer4\.0\.bn2\.running_var"),
        (lambda s: s.update({"module.fc.weight": torch.zeros(2, 32)}), r"1 keys unexpected: fc\.weight"),
        (
            lambda s: s["module.bn1.bias"].fill_(float("nan")),
            r"module\.bn1\.bias in .* is not a tensor of finite numbers",
        ),
        (lambda s: s.update({"module.conv1.weight": [1.0]}), r"module\.conv1\.weight in .* is not a tensor"),
        (
            lambda s: s.update({"module.conv1.weight": torch.zeros(4, 3, 7, 7, 7)}),
            r"stem\.conv1\.weight \(4, 3, 7, 7, 7\) instead of \(4, 1, 7, 7, 7\)",
        ),
    ],
)
def test_missing_unexpected_and_misshapen_keys_are_named(tmp_path, change, message):
    state = medicalnet_state()
    change(state)
    with pytest.raises(MedicalNetImportError, match=message):
        GloResNetModel.from_medicalnet(saved(tmp_path, state), config())


def test_files_other_than_checkpoints_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no MedicalNet weights at nowhere.pth"):
        GloResNetModel.from_medicalnet("nowhere.pth")
    (tmp_path / "text.pth").write_text("not weights")
    with pytest.raises(MedicalNetImportError, match="cannot be read as PyTorch weights"):
        GloResNetModel.from_medicalnet(tmp_path / "text.pth")
    whole = saved(tmp_path, medicalnet_state()).read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MedicalNetImportError, match="cannot be read as PyTorch weights"):
        GloResNetModel.from_medicalnet(tmp_path / "cut.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(MedicalNetImportError, match="contains no `state_dict`"):
        GloResNetModel.from_medicalnet(tmp_path / "list.pth")


class Malicious:
    def __reduce__(self):
        return (print, ("code from a checkpoint ran",))


def test_code_in_a_checkpoint_is_not_run(tmp_path, capsys):
    torch.save({"state_dict": medicalnet_state(), "extra": Malicious()}, tmp_path / "evil.pth")
    with pytest.raises(MedicalNetImportError):
        GloResNetModel.from_medicalnet(tmp_path / "evil.pth", config())
    assert "ran" not in capsys.readouterr().out


def test_an_unreachable_repository_is_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="resnet_10_23dataset.pth of Some/Repo is not in the local cache"):
        GloResNetModel.from_medicalnet("Some/Repo", cache_dir=tmp_path, local_files_only=True)
