"""A decoder opened for scanning: its run of layers, driven one layer at a time.

The model's own forward is used for all that lies before and after its layers, so that
masks, positions, final norm and head are right for every architecture: its layers are
replaced for a moment by stand-ins that note what they are called with (`record`) or
hand on hidden states of ours (`finish`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.models.opened import OpenModel
from mergekit_darwin.models.stream import load_on_call
from mergekit_darwin.scan.layers import (
    Batch,
    find_head,
    find_layers,
    patched,
    read_head,
    token_losses,
)

_MOST_LOGITS = 1 << 27  # elements of one head output, 512 MiB in float32


@dataclass(frozen=True)
class Call:
    """What the model hands to one layer beside the hidden states."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    by_name: bool  # hidden states came as keyword `hidden_states`


@dataclass(frozen=True)
class Decoder:
    """An open model, its layers in order, and how they return hidden states.

    extras is None if a layer returns a tensor, else how many things follow the hidden
    states in the tuple that it returns.
    """

    source: OpenModel
    layers: tuple[nn.Module, ...]
    path: str
    extras: int | None

    @property
    def depth(self) -> int:
        """The number of layers, L."""
        return len(self.layers)


class CannotDrive(DarwinError):
    """The model runs, but its layers cannot be run one by one."""


class _Stop(Exception):
    """Ends a forward pass once the layers have been seen."""


def open_decoder(source: OpenModel) -> Decoder:
    """Return the decoder of an open model; its layers' convention is tried out.

    Raises CannotDrive, a DarwinError, if layers exchange more than hidden states.
    """
    path, modules = find_layers(source)
    text: Any = source.model.config.get_text_config(decoder=True)  # type: ignore[operator, union-attr]
    if getattr(text, "num_kv_shared_layers", 0):
        raise CannotDrive(
            f"{source.name} cannot be run layer by layer: {text.num_kv_shared_layers}"
            " of its layers read keys and values of other layers."
        )
    if source.disk is not None:
        load_on_call(source.disk, path)
    decoder = Decoder(source, tuple(modules), path, None)
    return Decoder(source, tuple(modules), path, _extras(decoder))


def _extras(decoder: Decoder) -> int | None:
    """Run the first layer for real on two tokens and look at what it returns."""
    outputs: list[Any] = []
    first = decoder.layers[0]
    with decoder.source.loaded(f"{decoder.path}.0"), torch.no_grad():
        original = first.forward

        def watch(*args: Any, **kwargs: Any) -> None:
            outputs.append((args, kwargs, original(*args, **kwargs)))
            raise _Stop

        ids = torch.zeros((1, 2), dtype=torch.int64, device=decoder.source.device)
        with patched([first], [watch]):
            _forward(decoder, ids)
    if len(outputs) != 1:
        raise _not_plain(decoder, 0, "it is not called")
    args, kwargs, output = outputs[0]
    hidden, _, _ = _split_call(decoder, 0, args, kwargs)
    if isinstance(output, Tensor):
        return None
    rest = output[1:] if isinstance(output, (tuple, list)) else None
    if rest is None or any(_like(value, hidden) for value in rest):
        raise _not_plain(decoder, 0, "it hands on more than hidden states")
    return len(rest)


def _like(value: object, hidden: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == hidden.shape


def _not_plain(decoder: Decoder, layer: int, why: str) -> CannotDrive:
    return CannotDrive(
        f"{decoder.source.name} cannot be run layer by layer: layer {layer}"
        f" ({decoder.path}) must map hidden states to hidden states; {why}."
    )


def _forward(decoder: Decoder, ids: Tensor) -> Any:
    """Run the model's own forward; None if a stand-in ended it."""
    try:
        return decoder.source.model(input_ids=ids, use_cache=False)
    except _Stop:
        return None


def _split_call(
    decoder: Decoder, layer: int, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Tensor, tuple[Any, ...], bool]:
    if args and isinstance(args[0], Tensor):
        return args[0], args[1:], False
    if isinstance(kwargs.get("hidden_states"), Tensor):
        return kwargs["hidden_states"], args, True
    raise _not_plain(decoder, layer, "it is called without hidden states")


def _wrap(decoder: Decoder, hidden: Tensor | None) -> Any:
    if decoder.extras is None:
        return hidden
    return (hidden, *[None] * decoder.extras)


def record(decoder: Decoder, batch: Batch) -> tuple[Tensor, list[Call]]:
    """Return what enters the first layer, [B, T, D], and every layer's other inputs.

    No layer runs. Raises DarwinError if something happens between the layers.
    """
    entered: list[Tensor] = []
    calls: list[Call] = []

    def stand_in(layer: int) -> Callable[..., Any]:
        def note(*args: Any, **kwargs: Any) -> Any:
            hidden, rest, by_name = _split_call(decoder, layer, args, kwargs)
            if len(calls) != layer or (entered and hidden is not entered[0]):
                raise _not_plain(decoder, layer, "its input is not the last's output")
            entered.append(hidden)
            others = {k: v for k, v in kwargs.items() if k != "hidden_states"}
            calls.append(Call(rest, others if by_name else kwargs, by_name))
            if layer + 1 == decoder.depth:
                raise _Stop
            return _wrap(decoder, hidden)

        return note

    stand_ins = [stand_in(layer) for layer in range(decoder.depth)]
    with patched(decoder.layers, stand_ins):
        _forward(decoder, batch.ids)
    if len(calls) != decoder.depth:
        raise _not_plain(decoder, len(calls), "it is not called")
    return entered[0], calls


def apply_layer(decoder: Decoder, layer: int, hidden: Tensor, call: Call) -> Tensor:
    """Return a layer's output for hidden states [B, T, D] of the call's batch."""
    module = decoder.layers[layer]
    if call.by_name:
        output = module(*call.args, hidden_states=hidden, **call.kwargs)
    else:
        output = module(hidden, *call.args, **call.kwargs)
    return output if isinstance(output, Tensor) else output[0]


def finish(
    decoder: Decoder, batch: Batch, hidden: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the final hidden states [B, T, D] and each completion token's loss [N].

    hidden is what the last layer gives; with None the model's own layers run. Final
    hidden states are what the LM head reads, after the last norm; losses are in nats,
    float32 or wider.
    """
    vocabulary = find_head(decoder.source).weight.shape[0]
    most = max(1, _MOST_LOGITS // vocabulary)
    losses = []
    for rows, targets in zip(
        batch.rows.split(most), batch.targets.split(most), strict=True
    ):
        state, logits = _tail(decoder, batch, hidden, rows)
        losses.append(token_losses(logits, targets))
    return state, torch.cat(losses)


def _tail(
    decoder: Decoder, batch: Batch, hidden: Tensor | None, rows: Tensor
) -> tuple[Tensor, Tensor]:
    """Run what follows the layers; return what the head reads, and logits [N, V]."""

    def stand_in(layer: int) -> Callable[..., Any]:
        def hand_on(*args: Any, **kwargs: Any) -> Any:
            last = layer + 1 == decoder.depth
            seen = hidden if last else _split_call(decoder, layer, args, kwargs)[0]
            return _wrap(decoder, seen)

        return hand_on

    layers = decoder.layers if hidden is not None else ()
    stand_ins = [stand_in(layer) for layer in range(len(layers))]
    with patched(layers, stand_ins):
        return read_head(
            decoder.source, rows, lambda: _forward(decoder, batch.ids).logits
        )
