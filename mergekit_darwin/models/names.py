"""What a tensor's name says: its stack, layer and component. Pure text, no tensors."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

Component = Literal["attn", "ffn", "embed", "global"]

_LAYER = re.compile(r"^(?P<stack>.+?)\.(?P<layer>\d+)\.(?P<rest>.+)$")
_NORM = re.compile(r"norm|^ln(_|\d|$)|^rms")
_FFN_LEAF = re.compile(
    r"^(gate_proj|up_proj|down_proj|gate_up_proj|experts?|router|fc1|fc2|fc_in"
    r"|fc_out|dense_h_to_4h|dense_4h_to_h|c_fc)$"
)
_MIXER = re.compile(
    r"attn|attention|mixer|mamba|ssm|retention|recurrent|time_mix|temporal_block"
    r"|^(q|k|v|o|qkv)_proj$|^query_key_value$|^conv$"
)
_FFN = re.compile(
    r"mlp|ffn|feed_?forward|expert|router|moe|channel_mix|^w[123]$|^ff$|^dense$"
)
_EMBED = re.compile(
    r"^(embed_tokens.*|wte|word_embeddings|tok_embeddings|embed_in|embed_out"
    r"|lm_head|shared|output|embeddings)$"
)


@dataclass(frozen=True)
class Site:
    """Where a tensor sits in a model.

    stack is the name prefix of the run of layers it belongs to and layer its
    0-based index there; both are None outside any layer.
    """

    name: str
    stack: str | None
    layer: int | None
    component: Component


@lru_cache(maxsize=65536)
def site_of(name: str) -> Site:
    """Return the site of a tensor by its name; an unknown name is `global`.

    Attention and every other token mixer (linear attention, Mamba) are `attn`; MLP,
    experts and routers `ffn`; token embeddings and LM head `embed`; norms, scalars
    and the rest `global`. Source: our choice.
    """
    match = _LAYER.match(name)
    if match is None:
        return Site(name, None, None, _outside(name.lower().split(".")))
    segments = match["rest"].lower().split(".")
    return Site(name, match["stack"], int(match["layer"]), _inside(segments))


def _outside(segments: list[str]) -> Component:
    owners = segments[:-1] or segments
    if any(_EMBED.search(part) for part in owners[-2:]):
        return "embed"
    return "global"


def _inside(segments: list[str]) -> Component:
    owner = segments[-2] if len(segments) > 1 else segments[-1]
    if _NORM.search(owner):
        return "global"
    if any(_FFN_LEAF.search(part) for part in segments):
        return "ffn"
    for part in segments:
        if _MIXER.search(part):
            return "attn"
        if _FFN.search(part):
            return "ffn"
    return "global"


def stack_depths(names: Iterable[str]) -> dict[str, int]:
    """Return the number of layers of every stack that the names reveal."""
    depths: dict[str, int] = {}
    for name in names:
        site = site_of(name)
        if site.stack is not None and site.layer is not None:
            depths[site.stack] = max(depths.get(site.stack, 0), site.layer + 1)
    return depths


def block_of(layer: int, depth: int, blocks: int) -> int:
    """Return the 0-based block of a layer: floor(layer * B / depth).

    layer is in [0, depth); B is the smaller of blocks and depth, so no block is
    empty. Source: our choice (the published case: 60 layers, 6 blocks of 10).
    """
    return layer * min(blocks, depth) // depth
