"""A model that the harness opens by path is whole, or is refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

pytest.importorskip("lm_eval")

import transformers

from mergekit_darwin.delphi.model import Consensus
from mergekit_darwin.delphi.options import Options
from mergekit_darwin.delphi.run import consensus
from mergekit_darwin.errors import DarwinError
from mergekit_darwin.evolve.options import RunOptions
from mergekit_darwin.evolve.reading import make_config
from mergekit_darwin.evolve.run import evolve
from mergekit_darwin.models.checks import whole_models
from mergekit_darwin.models.harness import open_model
from mergekit_darwin.models.opened import load_model
from tests import evolving, tiny
from tests.delphi.stub import write_task
from tests.matrix import models

DOWN = "model.layers.1.mlp.down_proj.weight"
LACKING = rf"must hold all weights of its architecture; its files lack '{DOWN}'\."
SHAPE = rf"{DOWN} is \[32, 8\] and must be \[32, 64\]\."
Weights = dict[str, torch.Tensor]


def llama(folder: Path, change: Any = None) -> Path:
    """Write a Llama of two layers whose weights a test changed."""
    path = tiny.tiny_llama(folder, 1)
    if change is not None:
        weights = load_file(path / "model.safetensors")
        change(weights)
        save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    return path


def without_matrix(weights: Weights) -> None:
    del weights[DOWN]


def without_layer(weights: Weights) -> None:
    for name in [name for name in weights if ".layers.1." in name]:
        del weights[name]


def narrow(weights: Weights) -> None:
    weights[DOWN] = weights[DOWN][:, :8].contiguous()


def opened(path: Path, **args: Any) -> Any:
    given = {"pretrained": str(path), **args}
    return open_model("hf", given, batch_size="1", device="cpu")


def assert_refused(path: Path, said: str, **args: Any) -> None:
    with pytest.raises(DarwinError, match=said) as caught:
        opened(path, **args)
    assert str(path) in caught.value.message and "\n" not in caught.value.message


def as_bin(path: Path) -> None:
    """Make a checkpoint's one file pytorch_model.bin."""
    torch.save(load_file(path / "model.safetensors"), path / "pytorch_model.bin")
    (path / "model.safetensors").unlink()


@pytest.mark.parametrize("binary", [False, True])
def test_a_missing_matrix_is_named(tmp_path: Path, binary: bool) -> None:
    path = llama(tmp_path / "model", without_matrix)
    if binary:
        as_bin(path)
    assert_refused(path, LACKING)


def test_a_missing_layer_is_named_and_its_weights_counted(tmp_path: Path) -> None:
    path = llama(tmp_path / "model", without_layer)
    assert_refused(
        path, r"lack 'model\.layers\.1\.input_layernorm\.weight', .* and 4 more\."
    )


@pytest.mark.parametrize("ignored", [{}, {"ignore_mismatched_sizes": True}])
def test_a_matrix_of_another_shape_is_named_with_both(
    tmp_path: Path, ignored: dict[str, bool]
) -> None:
    path = llama(tmp_path / "model", narrow)
    assert_refused(path, SHAPE, **ignored)
    with pytest.raises(DarwinError, match=SHAPE):
        load_model(str(path), str(path))


@pytest.mark.parametrize(
    "name", ["llama", "qwen3", "gpt2", "gpt_neox", "mixtral", "qwen3_moe", "t5"]
)
def test_tied_heads_renamed_weights_and_packed_experts_are_whole(
    tmp_path: Path, name: str
) -> None:
    model = opened(models.write(name, tmp_path / "model")).model
    assert all(tensor.device.type == "cpu" for tensor in model.parameters())


@pytest.mark.parametrize(
    "args",
    [
        {"revision": "main", "trust_remote_code": True, "dtype": "bfloat16"},
        {"device_map": "cpu", "low_cpu_mem_usage": True},
        {"parallelize": False, "attn_implementation": "eager"},
        {"backend": "causal", "max_length": 64},
    ],
    ids=lambda args: next(iter(args)),
)
def test_other_arguments_work_as_before_on_whole_models_and_broken_ones(
    tmp_path: Path, args: dict[str, Any]
) -> None:
    opened(llama(tmp_path / "whole"), **args)
    assert_refused(llama(tmp_path / "model", without_matrix), LACKING, **args)


def test_a_subfolder_is_opened_and_refused(tmp_path: Path) -> None:
    llama(tmp_path / "a" / "sub")
    opened(tmp_path / "a", subfolder="sub")
    llama(tmp_path / "b" / "sub", without_matrix)
    assert_refused(tmp_path / "b", LACKING, subfolder="sub")


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A LoRA on the queries of both layers."""
    import peft

    base = transformers.AutoModelForCausalLM.from_pretrained(llama(tmp_path / "base"))
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    peft.get_peft_model(base, config).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_a_lora_on_a_whole_model_works(adapter: Path, tmp_path: Path) -> None:
    model = opened(tmp_path / "base", peft=str(adapter)).model
    saved = load_file(adapter / "adapter_model.safetensors")
    held = model.state_dict()
    for name, tensor in saved.items():
        key = name.replace("lora_A.", "lora_A.default.")
        key = key.replace("lora_B.", "lora_B.default.")
        assert torch.equal(held[key], tensor)


def test_a_lora_on_a_broken_model_and_a_broken_lora_are_refused(
    adapter: Path, tmp_path: Path
) -> None:
    path = llama(tmp_path / "model", without_matrix)
    assert_refused(path, LACKING, peft=str(adapter))
    file = adapter / "adapter_model.safetensors"
    weights = load_file(file)
    weights.pop("base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight")
    save_file(weights, file)
    with pytest.raises(DarwinError, match=r"adapter must hold.*layers\.1.*lora_A"):
        opened(tmp_path / "base", peft=str(adapter))


def test_transformers_own_method_is_back_afterwards(tmp_path: Path) -> None:
    before = transformers.PreTrainedModel.__dict__["from_pretrained"]
    path = llama(tmp_path / "model", without_matrix)
    assert_refused(path, LACKING)
    opened(llama(tmp_path / "whole"))
    assert transformers.PreTrainedModel.__dict__["from_pretrained"] is before
    transformers.LlamaForCausalLM.from_pretrained(path)  # what it does is its own again


def test_who_asks_for_the_loading_info_still_gets_it(tmp_path: Path) -> None:
    path = llama(tmp_path / "whole")
    with whole_models():
        kind = transformers.LlamaForCausalLM
        model, info = kind.from_pretrained(path, output_loading_info=True)
        assert type(model) is kind and not info["missing_keys"]
        assert type(kind.from_pretrained(path)) is kind


def test_consensus_refuses_a_broken_model_both_ways(tmp_path: Path) -> None:
    path = str(llama(tmp_path / "model", without_matrix))
    docs = [{"question": f"{i}=", "answer": "1"} for i in range(2)]
    tasks = write_task(tmp_path / "tasks", docs)
    with pytest.raises(DarwinError, match=LACKING):
        options = Options(include_path=(str(tasks),))
        consensus(path, ["sums"], tmp_path / "out", options)
    assert not (tmp_path / "out" / "samples.jsonl").exists()
    with pytest.raises(DarwinError, match=LACKING):
        Consensus.create_from_arg_obj({"pretrained": path}, {"device": "cpu"})


def test_evolve_refuses_broken_parents_where_the_harness_opens_them(
    tmp_path: Path,
) -> None:
    """With model_args the models are opened by path; nothing slow was begun."""
    family = evolving.write_family(tmp_path / "family")
    for who in ("father", "mother", "base"):
        file = family / who / "model.safetensors"
        weights = load_file(file)
        del weights[DOWN]
        save_file(weights, file, metadata={"format": "pt"})
    keys = evolving.content(family, model_args={"max_length": 128})
    with pytest.raises(DarwinError, match="down_proj") as caught:
        evolve(make_config(keys), tmp_path / "run", RunOptions(quiet=True))
    assert "\n" not in caught.value.message
    assert not (tmp_path / "run" / "mds").exists()
