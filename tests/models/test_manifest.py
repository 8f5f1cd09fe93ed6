"""A written model's manifest: whole, or what is not as it was."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from mergekit_darwin.models.manifest import MANIFEST, damage, seal


@pytest.fixture
def model(tmp_path):
    state = {
        "b": torch.arange(6.0).view(2, 3),
        "a": torch.ones(4, dtype=torch.bfloat16),
    }
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    seal(tmp_path)
    return tmp_path


def test_a_sealed_model_is_whole_and_its_card_may_change(model):
    assert damage(model) is None
    (model / "README.md").write_text("a card, written later")
    assert damage(model) is None


def test_one_changed_byte_of_a_tensor_is_named(model):
    file = model / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert "tensor 'a'" in str(damage(model))  # stored last


def test_a_missing_file_a_torn_one_and_a_missing_manifest_are_named(model):
    (model / "config.json").unlink()
    assert "file 'config.json'" in str(damage(model))
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:20])
    assert "cannot be read" in str(damage(model))
    (model / MANIFEST).unlink()
    assert "cannot be read" in str(damage(model))
