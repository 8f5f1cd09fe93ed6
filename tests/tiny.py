"""Tiny random models on disk, with a byte-level tokenizer, for tests.

Every builder writes a whole checkpoint (config, model.safetensors, tokenizer) into a
folder and returns it. The weights depend on the seed alone; all builders of one kind
with the same sizes give models that can be merged with each other.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    BambaConfig,
    BambaForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Mamba2Config,
    Mamba2ForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

VOCABULARY = 260  # 256 bytes, then <pad>, <bos>, <eos>, <unk>
PAD, BOS, EOS, UNK = 256, 257, 258, 259
GEMMA4_TENSORS = 1188  # of a Gemma 4 31B checkpoint


def byte_tokenizer(folder: str | Path, bos: bool = False) -> Path:
    """Write a tokenizer of one token a byte into a folder; bos puts <bos> first."""
    characters = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = [*characters, "<pad>", "<bos>", "<eos>", "<unk>"]
    core = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=False
    )
    core.decoder = decoders.ByteLevel()
    if bos:
        from tokenizers.processors import TemplateProcessing

        core.post_processor = TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", BOS)]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
    )
    tokenizer.save_pretrained(folder)
    return Path(folder)


def save(
    model: PreTrainedModel,
    folder: str | Path,
    seed: int,
    *,
    dtype: torch.dtype = torch.float32,
    scale: float = 0.08,
    tokenizer: bool = True,
) -> Path:
    """Fill a model with noise of this seed and write it; returns the folder.

    Matrices are normal with deviation scale, vectors vary around what the model's own
    initialisation gave them, so that no two layers and no two seeds agree.
    """
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, tensor in sorted(model.named_parameters()):
            noise = torch.randn(tensor.shape, generator=draw)
            if tensor.ndim > 1:
                tensor.copy_(scale * noise)
            else:
                tensor.add_(scale * noise)
    model.to(dtype).save_pretrained(folder, safe_serialization=True)
    return byte_tokenizer(folder) if tokenizer else Path(folder)


def tiny_llama(
    folder: str | Path,
    seed: int,
    layers: int = 2,
    *,
    hidden: int = 32,
    tied: bool = False,
    dtype: torch.dtype = torch.float32,
    tokenizer: bool = True,
    **config: Any,
) -> Path:
    """Write a Llama: 4 heads, 2 of keys and values, MLP of twice the hidden size."""
    sizes: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": tied,
        **_SPECIAL,
        **config,
    }
    model = LlamaForCausalLM(LlamaConfig(**sizes))
    return save(model, folder, seed, dtype=dtype, tokenizer=tokenizer)


def tiny_qwen3(
    folder: str | Path,
    seed: int,
    layers: int = 3,
    *,
    hidden: int = 32,
    tied: bool = True,
    dtype: torch.dtype = torch.float32,
    **config: Any,
) -> Path:
    """Write a Qwen3 with tied head: 4 heads of 8, 2 of keys and values."""
    sizes: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 512,
        "tie_word_embeddings": tied,
        **_SPECIAL,
        **config,
    }
    return save(Qwen3ForCausalLM(Qwen3Config(**sizes)), folder, seed, dtype=dtype)


def tiny_gemma4(
    folder: str | Path,
    seed: int,
    layers: int = 60,
    *,
    vision_layers: int = 27,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Write a multimodal Gemma 4 of the 31B tensor layout at toy width.

    With the default layers the file holds the 1,188 tensors of Gemma 4 31B: every
    sixth text layer has full attention whose values are its keys (no v_proj), the
    head is tied, the vision tower is standardised.
    """
    text = {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "num_global_key_value_heads": 1,
        "head_dim": 8,
        "global_head_dim": 16,
        "sliding_window": 8,
        "attention_k_eq_v": True,
        "hidden_size_per_layer_input": 0,
        "num_kv_shared_layers": 0,
        "final_logit_softcapping": 30.0,
        "use_bidirectional_attention": "vision",
        **_SPECIAL,
    }
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": vision_layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "patch_size": 4,
        "position_embedding_size": 16,
        "standardize": True,
    }
    from transformers import (  # not in 5.0, the lowest we take
        Gemma4Config,
        Gemma4ForConditionalGeneration,
    )

    config = Gemma4Config(text_config=text, vision_config=vision, audio_config=None)
    model = Gemma4ForConditionalGeneration(config)
    with torch.no_grad():
        for buffer_name, buffer in model.named_buffers():
            if buffer_name.endswith("layer_scalar"):
                buffer.fill_(0.9)
    return save(model, folder, seed, dtype=dtype, scale=0.1)


def tiny_hybrid(
    folder: str | Path,
    seed: int,
    layers: int = 4,
    *,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Write a Bamba: Mamba-2 layers with one layer of attention among them."""
    config = BambaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        attn_layer_indices=[layers // 2],
        mamba_n_heads=4,
        mamba_d_head=16,
        mamba_n_groups=1,
        mamba_d_state=8,
        mamba_chunk_size=16,
        **_SPECIAL,
    )
    return save(BambaForCausalLM(config), folder, seed, dtype=dtype)


def tiny_mamba2(
    folder: str | Path,
    seed: int,
    layers: int = 3,
    *,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Write a pure Mamba-2."""
    config = Mamba2Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=layers,
        expand=2,
        num_heads=4,
        head_dim=16,
        n_groups=1,
        state_size=8,
        chunk_size=16,
        tie_word_embeddings=False,
        **_SPECIAL,
    )
    return save(Mamba2ForCausalLM(config), folder, seed, dtype=dtype)


def nudged(
    source: str | Path, folder: str | Path, seed: int, *, size: float = 0.1
) -> Path:
    """Write a sibling of a checkpoint: the same files, every weight moved a little.

    Each tensor gets normal noise of deviation size times its own; non-floating
    tensors are kept.
    """
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(source, folder, dirs_exist_ok=True)
    draw = torch.Generator().manual_seed(seed)
    for file in sorted(Path(folder).glob("*.safetensors")):
        moved = {}
        for name, tensor in sorted(load_file(file).items()):
            if not tensor.is_floating_point():
                moved[name] = tensor
                continue
            spread = tensor.float().std(correction=0) + 1e-3
            noise = torch.randn(tensor.shape, generator=draw)
            moved[name] = (tensor.float() + size * spread * noise).to(tensor.dtype)
        save_file(moved, file, metadata={"format": "pt"})
    return Path(folder)


_SPECIAL = {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}
