"""Where a running model has its layers and its head, and what goes in and out there."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.models.names import common_tail, stack_depths
from mergekit_darwin.models.opened import OpenModel, merge_options
from mergekit_darwin.models.plan import model_loads
from mergekit_darwin.scan.probes import Encoded
from mergekit_darwin.talk import ProbeOptions

_TOWERS = ("vision", "visual", "audio", "image", "speech", "encoder")
_DEPTHS = ("num_hidden_layers", "decoder_layers", "num_decoder_layers", "num_blocks")


@dataclass(frozen=True)
class Batch:
    """Items padded on the right to one length, on the model's device.

    ids is int64 [B, T]; real is bool [B, T], false on padding and special tokens;
    rows [N] are the flat positions whose next token is of a completion, targets [N]
    those tokens, owner [N] the item (0 <= owner < B) each belongs to. Padding needs no
    mask: a causal decoder's real tokens never see what lies to their right.
    """

    ids: Tensor
    real: Tensor
    rows: Tensor
    targets: Tensor
    owner: Tensor
    lengths: tuple[int, ...]


def make_batch(items: Sequence[Encoded], device: str) -> Batch:
    """Return items as one batch, padded with each item's last token."""
    width = max(len(item.ids) for item in items)
    ids, real, rows, targets, owner = [], [], [], [], []
    for place, item in enumerate(items):
        length = len(item.ids)
        ids.append([*item.ids, *[item.ids[-1]] * (width - length)])
        real.append([item.special <= t < length for t in range(width)])
        for position in range(item.start, length):
            rows.append(place * width + position - 1)
            targets.append(item.ids[position])
            owner.append(place)
    return Batch(
        ids=torch.tensor(ids, device=device),
        real=torch.tensor(real, device=device),
        rows=torch.tensor(rows, device=device),
        targets=torch.tensor(targets, device=device),
        owner=torch.tensor(owner, device=device),
        lengths=tuple(len(item.ids) for item in items),
    )


def find_layers(source: OpenModel) -> tuple[str, nn.ModuleList]:
    """Return the path and list of the language model's layers.

    It is the outermost list as long as the config says the text model is deep, outside
    encoders and towers if there is one outside. Raises DarwinError if there is none.
    """
    config: Any = source.model.config
    text = config.get_text_config(decoder=True)
    depths = {getattr(text, key, None) for key in _DEPTHS} - {None}
    found = [
        (path, module)
        for path, module in source.model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) in depths
    ]
    inner = [
        row for row in found if not any(tower in row[0].lower() for tower in _TOWERS)
    ]
    for path, module in inner or found:
        return path, module
    known = sorted(filter(None, depths))
    raise DarwinError(
        f"{source.name} must have a list of {known} layers for its probes; none was"
        f" found in {type(source.model).__name__}. Scan it with --no-probes."
    )


@contextlib.contextmanager
def patched(
    modules: Sequence[nn.Module], forwards: Sequence[Callable[..., Any]]
) -> Iterator[None]:
    """Give modules other forwards; attributes that the model reads stay theirs."""
    for module, forward in zip(modules, forwards, strict=True):
        module.__dict__["forward"] = forward
    try:
        yield
    finally:
        for module in modules:
            module.__dict__.pop("forward", None)


def find_head(source: OpenModel) -> Any:
    """Return the LM head. Raises DarwinError if the model has none."""
    head = source.model.get_output_embeddings()  # type: ignore[operator]
    if head is None:
        raise DarwinError(
            f"{source.name} must have an LM head for its probes;"
            f" {type(source.model).__name__} has none. Scan it with --no-probes."
        )
    return head


def read_head(
    source: OpenModel, rows: Tensor, forward: Callable[[], Tensor]
) -> tuple[Tensor, Tensor]:
    """Return the hidden states that the LM head reads, and its logits of some rows.

    forward runs the model and returns its logits; the head sees only the rows [N] of
    the flat hidden states, so logits are [N, V].
    """
    states: list[Tensor] = []

    def choose(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        states.append(args[0])
        flat = args[0].reshape(-1, args[0].shape[-1])
        return (flat[rows].unsqueeze(0), *args[1:])

    handle = find_head(source).register_forward_pre_hook(choose)
    try:
        logits = forward()
    finally:
        handle.remove()
    return states[0], logits.reshape(-1, logits.shape[-1])


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Return each token's loss [N] in nats, float32 or wider, from logits [N, V]."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return nn.functional.cross_entropy(wide, targets, reduction="none")


def item_losses(batch: Batch, losses: Tensor) -> list[float]:
    """Return the mean loss of each item's completion, nats a token, from those [N]."""
    owner, values = batch.owner.cpu(), losses.detach().cpu().double()
    count = len(batch.lengths)
    total = torch.zeros(count, dtype=torch.float64).index_add_(0, owner, values)
    return (total / torch.bincount(owner, minlength=count)).tolist()


def layer_stack(model: str, path: str, depth: int, options: ProbeOptions) -> str:
    """Return the stack that a running model's layers at path are in mergekit's names.

    It is the one of the same depth whose name ends most like the path. Raises
    DarwinError if none has that depth.
    """
    depths = stack_depths(model_loads(model, merge_options(options)))
    fitting = [stack for stack, layers in depths.items() if layers == depth]
    if not fitting:
        raise DarwinError(
            f"mergekit must know the {depth} layers of {model} at {path} for its"
            f" probes; it plans {depths or 'no layers'} for such a model, and a merge"
            " would lose them. Scan it with --no-probes."
        )
    return max(fitting, key=lambda stack: common_tail(stack, path))
