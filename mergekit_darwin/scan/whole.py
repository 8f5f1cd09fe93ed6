"""Whole forward passes with one layer skipped, where layers cannot be run one by one.

The skipped layer runs as always and hands on its input, so that what later layers read
of it (keys and values) is there. That costs L + 1 passes an item. Items go one at a
time, without padding, so that models which are not causal read what they should.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.models.opened import OpenModel
from mergekit_darwin.scan.layers import find_layers, patched, read_head, token_losses
from mergekit_darwin.scan.probes import Encoded

Reading = Literal["causal", "masked", "encoder-decoder"]


@dataclass(frozen=True)
class Whole:
    """An open model, the layers that are skipped in turn, and how it reads an item.

    causal: prompt and completion, each token from those before it; masked: the same
    with the completion masked; encoder-decoder: the prompt, then the completion.
    """

    source: OpenModel
    layers: tuple[nn.Module, ...]
    path: str
    reading: Reading

    @property
    def depth(self) -> int:
        """The number of layers, L."""
        return len(self.layers)


@dataclass(frozen=True)
class _Inputs:
    given: dict[str, Tensor]  # what the model is called with, [1, T] each
    rows: Tensor  # [N], positions that predict a token of the completion
    targets: Tensor  # [N], those tokens
    first: int  # the first position that is no special token


def reading_of(model: nn.Module) -> Reading:
    """Return how a model reads an item."""
    config: Any = model.config
    if getattr(config, "is_encoder_decoder", False):
        return "encoder-decoder"
    return "masked" if "MaskedLM" in type(model).__name__ else "causal"


def open_whole(source: OpenModel) -> Whole:
    """Return an open model for whole passes. Raises DarwinError if it is streamed."""
    if source.disk is not None:
        raise DarwinError(
            f"{source.name} cannot be run layer by layer, which --stream needs."
            " Scan it without --stream."
        )
    path, modules = find_layers(source)
    return Whole(source, tuple(modules), path, reading_of(source.model))


def run_whole(whole: Whole, item: Encoded, skip: int | None) -> tuple[Tensor, Tensor]:
    """Return the final hidden states [T, D] and each completion token's loss [N].

    skip is the layer that hands on its input, None for the full model. Final hidden
    states are what the LM head reads; losses are in nats, float32 or wider.
    """
    inputs = _inputs(whole, item)
    model = whole.source.model
    known = inspect.signature(model.forward).parameters
    quick = {"use_cache": False} if "use_cache" in known else {}
    skipped = [] if skip is None else [whole.layers[skip]]
    forwards = [_hand_on(whole, skip or 0, layer.forward) for layer in skipped]
    with patched(skipped, forwards):
        states, logits = read_head(
            whole.source, inputs.rows, lambda: model(**inputs.given, **quick).logits
        )
    flat = states.reshape(-1, states.shape[-1])
    return flat[inputs.first :], token_losses(logits, inputs.targets)


def _inputs(whole: Whole, item: Encoded) -> _Inputs:
    """Return what the model is called with for one item."""
    ids, start = list(item.ids), item.start
    if whole.reading == "causal":
        rows = list(range(start - 1, len(ids) - 1))
        return _made(whole, {"input_ids": ids}, rows, ids[start:], item.special)
    tokenizer = whole.source.tokenizer
    if whole.reading == "masked":
        special = set(tokenizer.all_special_ids)
        rows = [t for t in range(start, len(ids)) if ids[t] not in special]
        targets = [ids[t] for t in rows]
        for t in rows:
            ids[t] = _mask(tokenizer, ids[t])
        return _made(whole, {"input_ids": ids}, rows, targets, item.special)
    config: Any = whole.source.model.config
    begin = getattr(config, "decoder_start_token_id", None)
    end = getattr(tokenizer, "eos_token_id", None)
    given = {
        "input_ids": [*ids[:start], *([] if end is None else [end])],
        "decoder_input_ids": [
            tokenizer.pad_token_id or 0 if begin is None else begin,
            *ids[start:-1],
        ],
    }
    return _made(whole, given, list(range(len(ids) - start)), ids[start:], 0)


def _mask(tokenizer: Any, token: int) -> int:
    """Return the token that stands for one that is to be guessed."""
    for known in (tokenizer.mask_token_id, tokenizer.unk_token_id):
        if known is not None:
            return int(known)
    return token


def _made(
    whole: Whole,
    given: dict[str, list[int]],
    rows: list[int],
    targets: list[int],
    first: int,
) -> _Inputs:
    device = whole.source.device
    tensors = {key: torch.tensor([ids], device=device) for key, ids in given.items()}
    ends = torch.tensor([rows, targets], device=device)
    return _Inputs(tensors, ends[0], ends[1], first)


def _hand_on(whole: Whole, layer: int, forward: Callable[..., Any]) -> Any:
    def run(*args: Any, **kwargs: Any) -> Any:
        hidden = args[0] if args else kwargs.get("hidden_states")
        output = forward(*args, **kwargs)
        first = output if isinstance(output, Tensor) else output[0]
        if not isinstance(hidden, Tensor) or hidden.shape != first.shape:
            raise DarwinError(
                f"{whole.source.name}: layer {layer} ({whole.path}) must return hidden"
                " states of its input's shape to be skipped. Scan with --no-probes."
            )
        if isinstance(output, Tensor):
            return hidden
        return type(output)((hidden, *output[1:]))

    return run
