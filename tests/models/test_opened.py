"""One opener for every kind of language model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.models.opened import load_model, open_model, ties_head
from mergekit_darwin.talk import ProbeOptions
from tests import tiny
from tests.matrix import models

KINDS = {
    "llama": "LlamaForCausalLM",
    "gemma3": "Gemma3ForConditionalGeneration",
    "t5": "T5ForConditionalGeneration",
    "bert": "BertForMaskedLM",
}


@pytest.mark.parametrize("name", list(KINDS))
def test_a_model_is_opened_as_what_its_config_names(tmp_path: Path, name: str) -> None:
    source = open_model(str(models.write(name, tmp_path / "model")), ProbeOptions())
    assert type(source.model).__name__ == KINDS[name]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", ["llama", "qwen2_vl"])
def test_whether_a_head_is_tied_is_what_the_built_model_does(
    tmp_path: Path, name: str, tied: bool
) -> None:
    model = models.write(name, tmp_path / "model")
    config = AutoConfig.from_pretrained(model, tie_word_embeddings=tied)
    built = type(models.build(name))(config)
    same = built.get_output_embeddings().weight is built.get_input_embeddings().weight
    assert ties_head(config) is same is tied


def test_a_models_own_files_decide_its_type_where_none_is_asked_for(
    tmp_path: Path,
) -> None:
    path = tiny.tiny_llama(tmp_path / "model", 1, dtype=torch.bfloat16)
    assert load_model("model", str(path)).dtype == torch.bfloat16


def test_what_is_no_language_model_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tiny.tiny_llama(tmp_path / "model", 1)
    (path / "config.json").write_text('{"model_type": "vit", "architectures": ["A"]}')
    with pytest.raises(DarwinError, match="as a language model") as raised:
        load_model("model", str(path))
    assert "\n" not in raised.value.message


def test_asking_whether_a_head_is_tied_leaves_the_config_as_it_was(
    tmp_path: Path,
) -> None:
    path = tiny.tiny_llama(tmp_path / "model", 1, dtype=torch.bfloat16)
    config = AutoConfig.from_pretrained(path)
    before = config.to_dict()
    ties_head(config)
    assert config.to_dict() == before


def test_a_model_with_a_lora_is_opened_with_the_lora_merged_in(tmp_path: Path) -> None:
    import peft

    base = tiny.tiny_llama(tmp_path / "base", 1)
    model = AutoModelForCausalLM.from_pretrained(base)
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    adapted = peft.get_peft_model(model, config)
    adapted.save_pretrained(tmp_path / "adapter")
    options = ProbeOptions(lora_merge_cache=str(tmp_path / "cache"))
    found = open_model(f"{base}+{tmp_path / 'adapter'}", options).model.state_dict()
    expected = adapted.merge_and_unload().state_dict()
    name = "model.layers.1.self_attn.q_proj.weight"
    assert torch.allclose(found[name], expected[name], atol=1e-6)
    plain = open_model(str(base), ProbeOptions()).model.state_dict()
    assert not torch.allclose(found[name], plain[name])
