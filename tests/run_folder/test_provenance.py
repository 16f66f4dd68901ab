"""What a model was trained on: read from its configuration, and the caution that belongs to its answers."""

import pytest

from run_folder.files import InputError
from run_folder.provenance import PAINTED, SYNTHETIC, caution, read_provenance


def test_a_model_trained_on_phantoms_or_painted_injuries_needs_a_caution():
    assert caution({"synthetic": True, "painted": True}) == SYNTHETIC and caution({"painted": True}) == PAINTED
    assert caution({"synthetic": False}) == caution({}) == caution(None) == ""


def test_older_models_say_nothing_and_damage_is_named(tmp_path):
    config = tmp_path / "config.json"
    assert read_provenance(config) == {}
    for text in ('{"image_size": 32}', '{"provenance": null}', '{"provenance": {}}'):
        config.write_text(text)
        assert read_provenance(config) == {}
    config.write_text('{"provenance": {"synthetic": true}}')
    assert read_provenance(config) == {"synthetic": True}
    config.write_text('{"provenance": ["synthetic"]}')
    with pytest.raises(InputError, match="config.json is damaged: its provenance is .'synthetic'., not an object"):
        read_provenance(config)
