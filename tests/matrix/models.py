"""Toy models of many architectures, built by the installed transformers, as data.

A row names the config class, the model class and the sizes that differ from the common
ones; a value that is a dict goes into the sub-config of that name. Weights are noise.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tests import tiny

COMMON: dict[str, Any] = {
    "vocab_size": tiny.VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "pad_token_id": tiny.PAD,
    "bos_token_id": tiny.BOS,
    "eos_token_id": tiny.EOS,
}
MOE: dict[str, Any] = {
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
}
DEEPSEEK: dict[str, Any] = {
    **MOE,
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
    "n_shared_experts": 1,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "num_key_value_heads": 4,
}
ENCODER: dict[str, Any] = {"num_key_value_heads": None, "head_dim": None}
VISION: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 4,
    "num_channels": 3,
}
QWEN_VISION: dict[str, Any] = {
    "depth": 2,
    "hidden_size": 16,
    "embed_dim": 16,
    "intermediate_size": 32,
    "num_heads": 2,
    "patch_size": 4,
    "out_hidden_size": 32,
    "num_position_embeddings": 16,
    "deepstack_visual_indexes": [0],
    "fullatt_block_indexes": [1],
}


DEEP_VISION = {**QWEN_VISION, "depth": 3, "deepstack_visual_indexes": [0, 1, 2]}


@dataclass(frozen=True)
class Row:
    """One architecture: classes of transformers, and sizes beside the common ones."""

    config: str
    model: str
    sizes: dict[str, Any] = field(default_factory=dict)


def row(stem: str, kind: str = "ForCausalLM", **sizes: Any) -> Row:
    """Return the row of a family whose classes share a stem."""
    return Row(f"{stem}Config", f"{stem}{kind}", sizes)


DENSE = {
    "llama": row("Llama"),
    "mistral": row("Mistral"),
    "qwen2": row("Qwen2"),
    "qwen3": row("Qwen3", tie_word_embeddings=True),
    "gemma": row("Gemma"),
    "gemma2": row("Gemma2", query_pre_attn_scalar=8),
    "gemma3_text": Row("Gemma3TextConfig", "Gemma3ForCausalLM"),
    "gemma3n_text": Row(
        "Gemma3nTextConfig",
        "Gemma3nForCausalLM",
        {
            "num_hidden_layers": 4,
            "intermediate_size": [64] * 4,
            "num_kv_shared_layers": 2,
            "hidden_size_per_layer_input": 8,
            "vocab_size_per_layer_input": tiny.VOCABULARY,
            "laurel_rank": 4,
            "activation_sparsity_pattern": [0.0] * 4,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "altup_num_inputs": 2,
        },
    ),
    "gemma4_text": Row(
        "Gemma4TextConfig",
        "Gemma4ForCausalLM",
        {
            "num_global_key_value_heads": 1,
            "global_head_dim": 8,
            "hidden_size_per_layer_input": 0,
            "num_kv_shared_layers": 0,
        },
    ),
    "gemma4_e2b": Row(
        "Gemma4TextConfig",
        "Gemma4ForCausalLM",
        {
            "num_hidden_layers": 4,
            "hidden_size_per_layer_input": 8,
            "vocab_size_per_layer_input": tiny.VOCABULARY,
            "num_kv_shared_layers": 2,
            "global_head_dim": 8,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
        },
    ),
    "phi": row("Phi"),
    "phi3": row("Phi3", num_key_value_heads=4),
    "gpt2": Row("GPT2Config", "GPT2LMHeadModel"),
    "gpt_neox": row("GPTNeoX"),
    "gptj": row("GPTJ", rotary_dim=4),
    "gpt_neo": row(
        "GPTNeo",
        attention_types=[[["global", "local"], 2]],
        num_layers=4,
        num_hidden_layers=None,
    ),
    "gpt_bigcode": row("GPTBigCode"),
    "opt": row("OPT", ffn_dim=64, word_embed_proj_dim=32),
    "bloom": row("Bloom"),
    "falcon": row("Falcon", head_dim=None),
    "mpt": row("Mpt", d_model=32, n_heads=4, n_layers=3, max_seq_len=128),
    "stablelm": row("StableLm"),
    "starcoder2": row("Starcoder2"),
    "cohere": row("Cohere"),
    "cohere2": row("Cohere2"),
    "olmo": row("Olmo"),
    "olmo2": row("Olmo2"),
    "olmo3": row("Olmo3"),
    "glm": row("Glm"),
    "glm4": row("Glm4"),
    "granite": row("Granite"),
    "smollm3": row("SmolLM3"),
    "exaone4": row("Exaone4"),
    "ernie4_5": row("Ernie4_5"),
    "nemotron": row("Nemotron"),
    "arcee": row("Arcee"),
    "apertus": row("Apertus"),
    "hunyuan_dense": row("HunYuanDenseV1"),
    "seed_oss": row("SeedOss"),
    "helium": row("Helium"),
    "codegen": row("CodeGen", rotary_dim=4),
    "persimmon": row("Persimmon"),
    "xglm": row(
        "XGLM", d_model=32, ffn_dim=64, attention_heads=4, num_layers=3, pad_token_id=1
    ),
    "biogpt": row("BioGpt"),
    "bitnet": row("BitNet"),
    "ctrl": Row("CTRLConfig", "CTRLLMHeadModel", {"dff": 64}),
    "diffllama": row("DiffLlama"),
    "doge": row("Doge"),
}
EXPERTS = {
    "mixtral": row("Mixtral", **MOE),
    "qwen2_moe": row("Qwen2Moe", **MOE, shared_expert_intermediate_size=16),
    "qwen3_moe": row("Qwen3Moe", **MOE),
    "olmoe": row("Olmoe", **MOE),
    "glm4_moe": row("Glm4Moe", **DEEPSEEK, first_k_dense_replace=1),
    "qwen3_next": row(
        "Qwen3Next",
        **MOE,
        num_hidden_layers=4,
        shared_expert_intermediate_size=16,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
    ),
    "deepseek_v2": row("DeepseekV2", **DEEPSEEK, first_k_dense_replace=0),
    "deepseek_v2_dense_first": row("DeepseekV2", **DEEPSEEK, first_k_dense_replace=1),
    "deepseek_v3": row("DeepseekV3", **DEEPSEEK, first_k_dense_replace=0),
    "deepseek_v3_dense_first": row("DeepseekV3", **DEEPSEEK, first_k_dense_replace=1),
    "minimax": row("MiniMax", **MOE, block_size=16),
    "minimax_m2": row("MiniMaxM2", **MOE),
    "gpt_oss": row("GptOss", **MOE),
    "ernie4_5_moe": row(
        "Ernie4_5_Moe", **MOE, moe_num_experts=4, moe_k=2, moe_layer_start_index=1
    ),
    "granitemoe": row("GraniteMoe", **MOE),
    "phimoe": row("Phimoe", **MOE),
    "dots1": row("Dots1", **DEEPSEEK, first_k_dense_replace=1),
    "flex_olmo": row("FlexOlmo", **MOE),
    "llama4_text": Row(
        "Llama4TextConfig",
        "Llama4ForCausalLM",
        {**MOE, "intermediate_size_mlp": 64, "interleave_moe_layer_step": 1},
    ),
    "lfm2_moe": row(
        "Lfm2Moe",
        **MOE,
        num_dense_layers=1,
        layer_types=["conv", "full_attention", "conv"],
    ),
    "hunyuan_moe": row("HunYuanMoEV1", **MOE, moe_topk=2),
    "jetmoe": row("JetMoe", **MOE, kv_channels=8),
    "dbrx": row(
        "Dbrx",
        d_model=32,
        n_heads=4,
        n_layers=3,
        max_seq_len=128,
        attn_config={"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
        ffn_config={
            "ffn_hidden_size": 32,
            "moe_num_experts": 4,
            "moe_top_k": 2,
            "hidden_size": 32,
        },
    ),
}
MIXERS = {
    "mamba": row("Mamba", state_size=8),
    "mamba2": row(
        "Mamba2",
        expand=2,
        num_heads=4,
        head_dim=16,
        n_groups=1,
        state_size=8,
        chunk_size=16,
    ),
    "falcon_mamba": row("FalconMamba", state_size=8),
    "bamba": row(
        "Bamba",
        num_hidden_layers=4,
        attn_layer_indices=[2],
        mamba_n_heads=4,
        mamba_d_head=16,
        mamba_n_groups=1,
        mamba_d_state=8,
        mamba_chunk_size=16,
    ),
    "jamba": row(
        "Jamba",
        **MOE,
        num_hidden_layers=4,
        attn_layer_period=4,
        attn_layer_offset=2,
        expert_layer_period=2,
        expert_layer_offset=1,
        mamba_d_state=8,
        mamba_dt_rank=4,
        use_mamba_kernels=False,
    ),
    "granitemoehybrid": row(
        "GraniteMoeHybrid",
        **MOE,
        mamba_n_heads=4,
        mamba_d_head=16,
        mamba_n_groups=1,
        mamba_d_state=8,
        mamba_chunk_size=16,
        shared_intermediate_size=32,
        layer_types=["mamba", "attention", "mamba"],
    ),
    "nemotron_h": row(
        "NemotronH",
        num_hidden_layers=4,
        hybrid_override_pattern="M*M-",
        mamba_num_heads=4,
        mamba_head_dim=16,
        n_groups=1,
        ssm_state_size=8,
        chunk_size=16,
    ),
    "falcon_h1": row(
        "FalconH1",
        mamba_n_heads=4,
        mamba_d_head=16,
        mamba_n_groups=1,
        mamba_d_state=8,
        mamba_chunk_size=16,
        mamba_d_ssm=64,
    ),
    "zamba2": row(
        "Zamba2",
        num_hidden_layers=4,
        num_key_value_heads=4,
        attention_head_dim=16,
        hybrid_layer_ids=[1, 3],
        n_mamba_heads=4,
        mamba_headdim=16,
        mamba_ngroups=1,
        mamba_d_state=8,
        chunk_size=16,
        num_mem_blocks=1,
        layers_block_type=["mamba", "hybrid", "mamba", "hybrid"],
    ),
    "recurrent_gemma": row("RecurrentGemma", lru_width=32),
    "rwkv": row("Rwkv"),
    "lfm2": row("Lfm2", layer_types=["conv", "full_attention", "conv"]),
    "qwen3_5_text": Row(
        "Qwen3_5TextConfig",
        "Qwen3_5ForCausalLM",
        {
            "num_hidden_layers": 4,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
        },
    ),
}
SEVERAL = {
    "gemma3": row(
        "Gemma3",
        "ForConditionalGeneration",
        text_config=COMMON,
        vision_config=VISION,
        mm_tokens_per_image=4,
    ),
    "gemma4": row(
        "Gemma4",
        "ForConditionalGeneration",
        text_config={
            **COMMON,
            "num_global_key_value_heads": 1,
            "global_head_dim": 8,
            "hidden_size_per_layer_input": 0,
            "num_kv_shared_layers": 0,
        },
        vision_config={
            **VISION,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "position_embedding_size": 16,
            "standardize": True,
        },
        audio_config=None,
    ),
    "qwen2_vl": row(
        "Qwen2VL",
        "ForConditionalGeneration",
        text_config={
            **COMMON,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [1, 1, 2],
            },
        },
        vision_config={**QWEN_VISION, "hidden_size": 32},
    ),
    "qwen2_5_vl": row(
        "Qwen2_5_VL",
        "ForConditionalGeneration",
        text_config={
            **COMMON,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [1, 1, 2],
            },
        },
        vision_config=QWEN_VISION,
    ),
    "qwen3_vl": row(
        "Qwen3VL",
        "ForConditionalGeneration",
        text_config={
            **COMMON,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [1, 1, 2],
            },
        },
        vision_config=DEEP_VISION,
    ),
    "qwen3_vl_moe": row(
        "Qwen3VLMoe",
        "ForConditionalGeneration",
        text_config={
            **COMMON,
            **MOE,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [1, 1, 2],
            },
        },
        vision_config=DEEP_VISION,
    ),
    "llava": row(
        "Llava",
        "ForConditionalGeneration",
        text_config={**COMMON, "model_type": "llama"},
        vision_config={**VISION, "model_type": "clip_vision_model"},
    ),
    "paligemma": row(
        "PaliGemma",
        "ForConditionalGeneration",
        text_config={**COMMON, "model_type": "gemma"},
        vision_config={**VISION, "model_type": "siglip_vision_model"},
        hidden_size=32,
        projection_dim=32,
    ),
    "idefics3": row(
        "Idefics3",
        "ForConditionalGeneration",
        text_config={**COMMON, "model_type": "llama"},
        vision_config=VISION,
    ),
    "mistral3": row(
        "Mistral3",
        "ForConditionalGeneration",
        text_config={**COMMON, "model_type": "mistral"},
        vision_config={**VISION, "head_dim": 8, "model_type": "pixtral"},
    ),
    "internvl": row(
        "InternVL",
        "ForConditionalGeneration",
        text_config={**COMMON, "model_type": "qwen2"},
        vision_config={**VISION, "image_size": [16, 16], "patch_size": [4, 4]},
    ),
    "llama4": row(
        "Llama4",
        "ForConditionalGeneration",
        text_config={**COMMON, **MOE, "intermediate_size_mlp": 64},
        vision_config={
            **VISION,
            "vision_output_dim": 32,
            "projector_input_dim": 32,
            "projector_output_dim": 32,
        },
    ),
}
ENCODERS = {
    "t5": row(
        "T5",
        "ForConditionalGeneration",
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_heads=4,
        num_layers=3,
        num_decoder_layers=3,
        decoder_start_token_id=tiny.PAD,
    ),
    "t5_gated": row(
        "T5",
        "ForConditionalGeneration",
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_heads=4,
        num_layers=3,
        num_decoder_layers=3,
        decoder_start_token_id=tiny.PAD,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    ),
    "umt5": row(
        "UMT5",
        "ForConditionalGeneration",
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_heads=4,
        num_layers=3,
        num_decoder_layers=3,
        decoder_start_token_id=tiny.PAD,
    ),
    "bart": row(
        "Bart",
        "ForConditionalGeneration",
        d_model=32,
        encoder_layers=3,
        decoder_layers=3,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
    ),
    "bert": row("Bert", "ForMaskedLM", **ENCODER),
    "roberta": row("Roberta", "ForMaskedLM", **ENCODER, pad_token_id=1),
    "distilbert": row(
        "DistilBert", "ForMaskedLM", dim=32, n_layers=3, n_heads=4, hidden_dim=64
    ),
    "modernbert": row("ModernBert", "ForMaskedLM"),
    "electra": row("Electra", "ForMaskedLM", embedding_size=32, **ENCODER),
}
ROWS: dict[str, Row] = {**DENSE, **EXPERTS, **MIXERS, **SEVERAL, **ENCODERS}


def build(name: str) -> torch.nn.Module:
    """Return a toy model of one row, with the library's own random weights."""
    import transformers

    chosen = ROWS[name]
    several = "text_config" in chosen.sizes
    sizes = {**({} if several else COMMON), **chosen.sizes}
    sizes = {key: value for key, value in sizes.items() if value is not None}
    config = getattr(transformers, chosen.config)(**sizes)
    return getattr(transformers, chosen.model)(config)


def write(name: str, folder: Path, seed: int = 1) -> Path:
    """Write a toy model of one row, weights of this seed, with a byte tokenizer."""
    return tiny.save(build(name), folder, seed)
