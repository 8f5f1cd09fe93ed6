"""What a tensor's name says: its stack, layer and component. Pure text, no tensors."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile
from typing import Literal

Component = Literal["attn", "ffn", "embed", "global"]

_LAYER = re.compile(r"^(?P<stack>.+?)\.(?P<layer>\d+)\.(?P<rest>.+)$")
_BRIDGE = re.compile(r"merger|projector|connector|altup")  # lists that are no layers
_NORM = re.compile(r"norm|^ln(_|\d|$)|^rms")
_BESIDE = re.compile(r"altup|laurel|per_layer_")  # streams of their own, as in Gemma 3n
_ATTENTION = re.compile(r"^(self_)?(attn|attention)$")
_FFN_LEAF = re.compile(
    r"^(gate_proj|up_proj|down_proj|gate_up_proj|experts?|router|fc1|fc2|fc_in"
    r"|fc_out|dense_h_to_4h|dense_4h_to_h|c_fc)$"
)
_MIXER = re.compile(
    r"attn|attention|mixer|mamba|ssm|lstm|retention|recurrent|time_mix|temporal_block"
    r"|^(q|k|v|o|qkv)_proj$|^query_key_value$|^conv$"
)
_FFN = re.compile(
    r"mlp|ffn|feed_?forward|expert|router|moe|channel_mix|^w[123]$|^ff$|^dense$"
    r"|^dense\w*dense$|^w[io](_\d)?$"
)
_TOKENS = re.compile(
    r"^(embed_tokens.*|wte|w|(word|tok)_embeddings?|embeddings|embed_in|shared"
    r"|lm_head|embed_out|output|output_layer|output_projection|vocab_projector"
    r"|generator_lm_head)$"
)
_HEAD_PATHS = re.compile(
    r"^(head|decoder|cls\.predictions|(cls\.predictions|lm_head)\.decoder)"
    r"\.(weight|bias)$"
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
    and the rest `global`. A numbered list is a stack if modules of modules stand in it;
    single maps and what joins a tower to the text are not. Source: our choice, held to
    what the models themselves say (tests/matrix/test_names.py).
    """
    match = _LAYER.match(name)
    leaf = match is not None and match["rest"] in ("weight", "bias")
    if match is None or leaf or _BRIDGE.search(match["stack"]):
        return Site(name, None, None, _outside(name.lower()))
    segments = match["rest"].lower().split(".")
    return Site(name, match["stack"], int(match["layer"]), _inside(segments))


def _outside(name: str) -> Component:
    *owners, leaf = name.split(".")
    token = bool(owners) and leaf in ("weight", "bias") and _TOKENS.match(owners[-1])
    return "embed" if token or _HEAD_PATHS.match(name) else "global"


def _inside(segments: list[str]) -> Component:
    owner = segments[-2] if len(segments) > 1 else segments[-1]
    if _NORM.search(owner) or any(_BESIDE.search(part) for part in segments):
        return "global"
    if any(_ATTENTION.match(part) for part in segments):
        return "attn"
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


def common_tail(left: str, right: str) -> int:
    """Return how many parts between dots two names share at their ends."""
    pairs = zip(reversed(left.split(".")), reversed(right.split(".")), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def tails(name: str) -> list[str]:
    """Return a name and what is left of it without its first parts, two at least.

    Older files lack a prefix that a model's names have (GPT-2's `transformer.`).
    """
    parts = name.split(".")
    return [name, *(".".join(parts[start:]) for start in range(1, len(parts) - 1))]
