"""What a tensor's name says."""

from __future__ import annotations

import pytest

from mergekit_darwin.models.names import block_of, site_of, stack_depths, tails

LAYER = "model.layers.3."
CASES = [
    (LAYER + "self_attn.q_proj.weight", 3, "attn"),
    (LAYER + "self_attn.q_norm.weight", 3, "global"),
    (LAYER + "linear_attn.in_proj_qkvz.weight", 3, "attn"),
    (LAYER + "mixer.in_proj.weight", 3, "attn"),
    (LAYER + "mamba.conv1d.weight", 3, "attn"),
    (LAYER + "mixer.A_log", 3, "attn"),
    (LAYER + "mlp.gate_proj.weight", 3, "ffn"),
    (LAYER + "mlp.experts.17.w1.weight", 3, "ffn"),
    (LAYER + "block_sparse_moe.gate.weight", 3, "ffn"),
    (LAYER + "feed_forward.w2.weight", 3, "ffn"),
    (LAYER + "input_layernorm.weight", 3, "global"),
    (LAYER + "layer_scalar", 3, "global"),
    (LAYER + "something.odd", 3, "global"),
    ("transformer.h.11.attn.c_attn.weight", 11, "attn"),
    ("transformer.h.11.mlp.c_fc.weight", 11, "ffn"),
    ("transformer.h.11.ln_1.weight", 11, "global"),
    ("transformer.wte.weight", None, "embed"),
    ("model.embed_tokens.weight", None, "embed"),
    ("model.language_model.embed_tokens.weight", None, "embed"),
    ("lm_head.weight", None, "embed"),
    ("model.norm.weight", None, "global"),
    ("model.embed_vision.embedding_projection.weight", None, "global"),
    ("x", None, "global"),
]


@pytest.mark.parametrize(("name", "layer", "component"), CASES)
def test_names_have_their_layer_and_component(
    name: str, layer: int | None, component: str
) -> None:
    site = site_of(name)
    assert (site.layer, site.component) == (layer, component)


def test_experts_do_not_hide_the_layer() -> None:
    site = site_of("model.layers.2.mlp.experts.30.up_proj.weight")
    assert (site.stack, site.layer) == ("model.layers", 2)


def test_each_stack_has_its_own_depth() -> None:
    names = [
        "model.language_model.layers.59.mlp.up_proj.weight",
        "model.language_model.layers.0.mlp.up_proj.weight",
        "model.vision_tower.encoder.layers.26.mlp.up_proj.weight",
        "lm_head.weight",
    ]
    assert stack_depths(names) == {
        "model.language_model.layers": 60,
        "model.vision_tower.encoder.layers": 27,
    }


def test_sixty_layers_in_six_blocks_are_blocks_of_ten() -> None:
    assert [block_of(layer, 60, 6) for layer in (0, 9, 10, 59)] == [0, 0, 1, 5]


def test_there_are_never_more_blocks_than_layers() -> None:
    assert [block_of(layer, 4, 6) for layer in range(4)] == [0, 1, 2, 3]


def test_tails_leave_the_first_parts_away() -> None:
    assert tails("model.norm.weight") == ["model.norm.weight", "norm.weight"]
    assert tails("scale") == ["scale"]
