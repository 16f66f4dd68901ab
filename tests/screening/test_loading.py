"""What loading a model does to the process."""

import pytest
import torch

from screening import loading


def test_no_more_threads_are_used_than_a_container_has_cores(monkeypatch, tmp_path):
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_text("{}")
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        monkeypatch.setattr(loading, "available_cores", lambda: 1)
        with pytest.raises(loading.ModelError):
            loading.load_model(str(tmp_path))
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)
