"""Backwards through a decoder, layer by layer, each item for itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.scan.decoder import Call, Decoder, apply_layer, finish, record
from mergekit_darwin.scan.layers import Batch, make_batch
from mergekit_darwin.scan.probes import Encoded
from mergekit_darwin.scan.tally import Tally, floating, following

_MOST_STATES = 1 << 30  # elements of layer inputs held at once, 4 GiB in float32


@dataclass
class Run:
    """One item on its way: layer inputs so far, gradient of what follows them."""

    place: int  # among all items
    probe: str
    batch: Batch  # of this item alone
    calls: list[Call] = field(default_factory=list)
    states: list[Tensor] = field(default_factory=list)  # of [1, T, D]
    gradient: Tensor | None = None


def gain_groups(
    decoder: Decoder, items: Sequence[tuple[str, Encoded]]
) -> Iterator[list[Run]]:
    """Yield runs of (probe, item) in groups whose states fit a fixed budget."""
    width = decoder.source.model.get_input_embeddings().weight.shape[-1]  # type: ignore[operator]
    group: list[Run] = []
    held = 0
    for place, (probe, item) in enumerate(items):
        held += len(item.ids) * width * (decoder.depth + 1)
        if group and held > _MOST_STATES:
            yield group
            group, held = [], len(item.ids) * width * (decoder.depth + 1)
        group.append(Run(place, probe, make_batch([item], decoder.source.device)))
    yield group


def reads_more(decoder: Decoder, item: Encoded) -> bool:
    """Return whether layers read more of the weights before them than hidden states."""
    outside = _outside(decoder)
    with following(outside), torch.enable_grad():
        _, calls = record(decoder, make_batch([item], decoder.source.device))
    return any(
        isinstance(value, Tensor) and value.requires_grad
        for call in calls
        for value in (*call.args, *call.kwargs.values())
    )


def run_group(
    decoder: Decoder,
    runs: Sequence[Run],
    tally: Tally,
    step: Callable[[int], None],
) -> None:
    """Run a group forwards and backwards and add up every tensor's gains.

    step is told how many items have passed a layer, there or back.
    """
    _forwards(decoder, runs, step)
    outside = _outside(decoder)
    with following(outside):
        for run in runs:
            _tail(decoder, run)
            tally.add(run.place, outside)
        tally.forget()
    for layer in reversed(range(decoder.depth)):
        path = f"{decoder.path}.{layer}."
        with decoder.source.loaded(path[:-1]):
            inside = floating(decoder.source.model, lambda n, p=path: n.startswith(p))  # type: ignore[misc]
            with following(inside):
                for run in runs:
                    _through(decoder, layer, run)
                    tally.add(run.place, inside)
            tally.forget()
        step(len(runs))
    with following(outside):
        for run in runs:
            _front(decoder, run)
            tally.add(run.place, outside)
        tally.forget()


@torch.no_grad()
def _forwards(
    decoder: Decoder, runs: Sequence[Run], step: Callable[[int], None]
) -> None:
    """Keep what enters every layer, and have norm and head read from disk."""
    for run in runs:
        hidden, run.calls = record(decoder, run.batch)
        run.states = [hidden]
    for layer in range(decoder.depth):
        with decoder.source.loaded(f"{decoder.path}.{layer}"):
            for run in runs:
                call = run.calls[layer]
                run.states.append(apply_layer(decoder, layer, run.states[-1], call))
        step(len(runs))
    finish(decoder, runs[0].batch, runs[0].states[-1])


def _outside(decoder: Decoder) -> dict[str, Tensor]:
    path = f"{decoder.path}."
    return floating(decoder.source.model, lambda name: not name.startswith(path))


def check_loss(model: str, probe: str, loss: Tensor) -> None:
    """Raise DarwinError if a probe's loss is NaN or Inf."""
    if not bool(torch.isfinite(loss)):
        raise DarwinError(
            f"{model}: the loss of probe {probe} must be finite; got {float(loss)}."
            " Check the weights, or scan in --dtype float32."
        )


def _tail(decoder: Decoder, run: Run) -> None:
    hidden = run.states.pop().requires_grad_(True)
    with torch.enable_grad():
        loss = finish(decoder, run.batch, hidden)[1].mean()
    check_loss(decoder.source.name, run.probe, loss)
    loss.backward()
    run.gradient = hidden.grad


def _through(decoder: Decoder, layer: int, run: Run) -> None:
    hidden = run.states.pop().requires_grad_(True)
    with torch.enable_grad():
        output = apply_layer(decoder, layer, hidden, run.calls[layer])
    output.backward(run.gradient)
    run.gradient = hidden.grad


def _front(decoder: Decoder, run: Run) -> None:
    with torch.enable_grad():
        hidden, _ = record(decoder, run.batch)
    if hidden.requires_grad:
        hidden.backward(run.gradient)
