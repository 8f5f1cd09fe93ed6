"""Checkpoints as mergekit sees them: presence, identity, what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.models.checkpoint import open_checkpoint, refuse_integers
from mergekit_darwin.models.plan import is_present, model_loads
from tests import tiny
from tests.matrix import models


def as_bin(folder: Path, out: Path, **torch_save: object) -> Path:
    """Write a checkpoint's weights as pytorch_model.bin beside its config."""
    out.mkdir()
    (out / "config.json").write_bytes((folder / "config.json").read_bytes())
    state = load_file(folder / "model.safetensors")
    torch.save(state, out / "pytorch_model.bin", **torch_save)
    return out


def test_experts_stored_one_by_one_are_present_under_the_childs_names(
    tmp_path: Path,
) -> None:
    model = models.write("qwen3_moe", tmp_path / "model")
    stored = open_checkpoint(str(model)).headers
    assert any(".experts.0." in name for name in stored)
    present = {n for n, load in model_loads(str(model)).items() if is_present(load)}
    assert present == set(models.build("qwen3_moe").state_dict())


def test_pickled_siblings_have_digests_of_their_own(tmp_path: Path) -> None:
    father = tiny.tiny_llama(tmp_path / "father", 1)
    mother = tiny.nudged(father, tmp_path / "mother", 2)
    for name, options in (
        ("zip", {}),
        ("old", {"_use_new_zipfile_serialization": False}),
    ):
        left = open_checkpoint(str(as_bin(father, tmp_path / f"f-{name}", **options)))
        right = open_checkpoint(str(as_bin(mother, tmp_path / f"m-{name}", **options)))
        copy = shutil.copytree(tmp_path / f"f-{name}", tmp_path / f"a-{name}")
        again = open_checkpoint(str(copy))
        assert left.headers == right.headers
        assert left.digest != right.digest
        assert left.digest == again.digest


def test_a_pickled_file_cut_short_is_refused_in_one_line(tmp_path: Path) -> None:
    model = as_bin(tiny.tiny_llama(tmp_path / "model", 1), tmp_path / "bin")
    file = model / "pytorch_model.bin"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(DarwinError, match=r"cannot be (read|opened)") as raised:
        open_checkpoint(str(model))
    assert "\n" not in raised.value.message


@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.uint8, torch.bool, torch.complex64]
)
def test_matrices_of_integers_are_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    model = tiny.tiny_llama(tmp_path / "model", 1)
    state = load_file(model / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    save_file({**state, name: state[name].to(dtype)}, model / "model.safetensors")
    with pytest.raises(DarwinError, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
        refuse_integers(open_checkpoint(str(model)))


def test_counters_position_tables_and_causal_masks_are_no_integers_to_refuse(
    tmp_path: Path,
) -> None:
    model = tiny.tiny_llama(tmp_path / "model", 1)
    state = load_file(model / "model.safetensors")
    state["model.count"] = torch.zeros(1, dtype=torch.int32)
    state["model.position_ids"] = torch.arange(4)[None]
    state["model.layers.0.attn.bias"] = torch.ones((1, 1, 4, 4), dtype=torch.uint8)
    save_file(state, model / "model.safetensors")
    opened = open_checkpoint(str(model))
    assert set(opened.headers) == set(state)
    refuse_integers(opened)  # raises for a weight


def test_a_lora_without_a_cache_names_the_option(tmp_path: Path) -> None:
    model = tiny.tiny_llama(tmp_path / "model", 1)
    with pytest.raises(DarwinError, match="--lora-merge-cache"):
        open_checkpoint(f"{model}+{tmp_path / 'adapter'}")


def test_what_mergekit_cannot_plan_is_said_in_one_line_without_its_config(
    tmp_path: Path,
) -> None:
    model = models.write("qwen2_vl", tmp_path / "model")
    with pytest.raises(DarwinError, match="mergekit cannot plan") as raised:
        model_loads(str(model))
    assert "\n" not in raised.value.message
    assert "vocab_size" not in raised.value.message
