"""What each parent's task vector gains, tensor by tensor, to first order.

gain = -g . delta, where g is the gradient of a probe's mean completion loss at the
base and delta = parent - base: the fall of the loss, in nats a token, that a small step
along the task vector promises per unit of step. It is blind to curvature: large task
vectors fall short of it (benchmarks/diagnosis.md). Source: our choice (a Taylor
expansion).

The backward pass runs layer by layer from stored layer inputs, so that one layer's
gradients are held at a time, and with --stream one layer's weights.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.models.checkpoint import is_present, model_loads
from mergekit_darwin.models.opened import ProbeOptions, merge_options, open_model
from mergekit_darwin.scan.decoder import (
    Batch,
    Call,
    Decoder,
    apply_layer,
    finish,
    make_batch,
    open_decoder,
    record,
)
from mergekit_darwin.scan.importance import Progress
from mergekit_darwin.scan.naming import checkpoint_tensors
from mergekit_darwin.scan.probes import Probe, encode
from mergekit_darwin.scan.static import Loads, load_tensor

LOG = logging.getLogger(__name__)
_PIECE = 1 << 20  # elements of one inner product's part, in float64
_MOST_STATES = 1 << 30  # elements of layer inputs held at once, 4 GiB in float32

Gains = dict[str, dict[str, float]]


@dataclass
class _Run:
    """One batch on its way: layer inputs so far, gradient of what follows them."""

    probe: str
    batch: Batch
    weights: Tensor  # [N], share of each completion token in the probe's loss
    calls: list[Call]
    states: list[Tensor]  # of [B, T, D]
    gradient: Tensor | None = None


@dataclass(frozen=True)
class _Family:
    """How to load base, Father and Mother by mergekit's names, and what names mean.

    outputs maps every name a tensor may have (the model's own, the file's) to
    mergekit's.
    """

    base: Loads
    father: Loads
    mother: Loads
    outputs: Mapping[str, str]


def measure_gains(
    base: str,
    father: str,
    mother: str,
    probes: Sequence[Probe],
    options: ProbeOptions,
    progress: Progress | None = None,
) -> tuple[Gains, Gains]:
    """Return the gains of Father and Mother: probe -> tensor name -> nats a token.

    Names are those of model_loads. Every tensor that base and a parent have in one
    shape is there; those the loss does not depend on (a vision tower) have 0.
    A probe's loss is the mean over items of the mean over a completion's tokens.
    Raises DarwinError if the base cannot be run.
    """
    loading = merge_options(options)
    loads = model_loads(base, loading)
    family = _Family(
        loads,
        model_loads(father, loading),
        model_loads(mother, loading),
        outputs=_output_names(loads),
    )
    source = open_model(base, options)
    with torch.no_grad():
        decoder = open_decoder(source)
    gains: tuple[Gains, Gains] = ({}, {})
    for probe in probes:
        for side, parent in zip(gains, (family.father, family.mother), strict=True):
            side[probe.name] = {name: 0.0 for name in _shared(family.base, parent)}
    groups = list(_groups(decoder, probes, options))
    for place, runs in enumerate(groups):
        steps = _Steps(progress, place * 2 * decoder.depth, len(groups) * 2)
        _forward(decoder, runs, steps)
        _backward(decoder, runs, family, gains, steps)
    return gains


@dataclass
class _Steps:
    """Counts layers passed, forwards and backwards, for a progress bar."""

    progress: Progress | None
    done: int
    passes: int

    def one(self, depth: int) -> None:
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.passes * depth)


def _output_names(loads: Loads) -> dict[str, str]:
    outputs = {name: name for name in loads}
    for name, load in loads.items():
        for other in (load.tensor, *(load.aliases or ()), *(load.tied_names or ())):
            outputs.setdefault(other, name)
    return outputs


def _shared(base: Loads, parent: Loads) -> list[str]:
    return [
        name
        for name, load in base.items()
        if name in parent and is_present(load) and is_present(parent[name])
    ]


def _groups(
    decoder: Decoder, probes: Sequence[Probe], options: ProbeOptions
) -> Iterator[list[_Run]]:
    """Yield batches, each of one probe, in groups whose states fit the budget."""
    group: list[_Run] = []
    held = 0
    for probe in probes:
        items = encode(decoder.source.tokenizer, probe.items, options.max_tokens)
        items.sort(key=lambda item: len(item.ids))
        for start in range(0, len(items), options.batch_size):
            batch = make_batch(
                items[start : start + options.batch_size], decoder.source.device
            )
            counts = torch.bincount(batch.owner)[batch.owner]
            run = _Run(probe.name, batch, 1.0 / (counts * len(items)), [], [])
            held += batch.ids.numel() * _width(decoder) * (decoder.depth + 1)
            if group and held > _MOST_STATES:
                yield group
                group, held = [], 0
            group.append(run)
    yield group


def _width(decoder: Decoder) -> int:
    return decoder.source.model.get_input_embeddings().weight.shape[-1]  # type: ignore[operator]


def _forward(decoder: Decoder, runs: Sequence[_Run], steps: _Steps) -> None:
    """Fill every run's states: the input of each layer, and the last one's output."""
    with torch.no_grad():
        for run in runs:
            hidden, run.calls = record(decoder, run.batch)
            run.states = [hidden]
        for layer in range(decoder.depth):
            with decoder.source.loaded(f"{decoder.path}.{layer}"):
                for run in runs:
                    run.states.append(
                        apply_layer(decoder, layer, run.states[-1], run.calls[layer])
                    )
            steps.one(decoder.depth)
        finish(decoder, runs[0].batch, runs[0].states[-1])  # reads norm and head


def _backward(
    decoder: Decoder,
    runs: Sequence[_Run],
    family: _Family,
    gains: tuple[Gains, Gains],
    steps: _Steps,
) -> None:
    """Go back from the losses to the embedding and add up every tensor's gains."""
    outside = _trainable(decoder, None)
    with _following(outside):
        for probe, own in _by_probe(runs):
            for run in own:
                _tail(decoder, run)
            _add_gains(decoder, family, probe, outside, gains)
    for layer in reversed(range(decoder.depth)):
        with decoder.source.loaded(f"{decoder.path}.{layer}"):
            inside = _trainable(decoder, layer)
            with _following(inside):
                for probe, own in _by_probe(runs):
                    for run in own:
                        _through(decoder, layer, run)
                    _add_gains(decoder, family, probe, inside, gains)
        steps.one(decoder.depth)
    with _following(outside):
        for probe, own in _by_probe(runs):
            for run in own:
                _front(decoder, run)
            _add_gains(decoder, family, probe, outside, gains)


def _by_probe(runs: Sequence[_Run]) -> list[tuple[str, list[_Run]]]:
    names = dict.fromkeys(run.probe for run in runs)
    return [(name, [run for run in runs if run.probe == name]) for name in names]


def _trainable(decoder: Decoder, layer: int | None) -> dict[str, Tensor]:
    """Return the floating tensors of a layer, or of all that lies outside the layers.

    Names are the running model's; a tensor that two names share is there once.
    """
    path = f"{decoder.path}." if layer is None else f"{decoder.path}.{layer}."
    found: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in decoder.source.model.state_dict(keep_vars=True).items():
        wanted = name.startswith(path) != (layer is None)
        if wanted and tensor.is_floating_point() and tensor.device.type != "meta":
            found.setdefault(id(tensor), (name, tensor))
    return dict(found.values())


class _following:
    """Let autograd follow some tensors while the context lasts."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors

    def __enter__(self) -> None:
        for tensor in self.tensors.values():
            tensor.requires_grad_(True)

    def __exit__(self, *error: object) -> None:
        for tensor in self.tensors.values():
            tensor.requires_grad_(False)
            tensor.grad = None


def _tail(decoder: Decoder, run: _Run) -> None:
    hidden = run.states.pop().requires_grad_(True)
    with torch.enable_grad():
        _, losses = finish(decoder, run.batch, hidden)
        loss = (losses * run.weights.to(losses.dtype)).sum()
    if not bool(torch.isfinite(loss)):
        raise DarwinError(
            f"{decoder.source.name}: the loss of probe {run.probe} must be finite; got"
            f" {float(loss)}. Check the weights, or scan in --dtype float32."
        )
    loss.backward()
    run.gradient = hidden.grad


def _through(decoder: Decoder, layer: int, run: _Run) -> None:
    hidden = run.states.pop().requires_grad_(True)
    with torch.enable_grad():
        output = apply_layer(decoder, layer, hidden, run.calls[layer])
    output.backward(run.gradient)
    run.gradient = hidden.grad


def _front(decoder: Decoder, run: _Run) -> None:
    with torch.enable_grad():
        hidden, calls = record(decoder, run.batch)
    for layer, call in enumerate(calls):
        for value in (*call.args, *call.kwargs.values()):
            if isinstance(value, Tensor) and value.requires_grad:
                raise DarwinError(
                    f"{decoder.source.name}: layer {layer} reads more than hidden"
                    " states from the weights before it, which gains do not cover."
                    " Scan without --base."
                )
    if hidden.requires_grad:
        hidden.backward(run.gradient)


def _add_gains(
    decoder: Decoder,
    family: _Family,
    probe: str,
    tensors: Mapping[str, Tensor],
    gains: tuple[Gains, Gains],
) -> None:
    """Add -g . delta of every tensor with a gradient, and clear the gradients."""
    found = {k: t.grad for k, t in tensors.items() if t.grad is not None}
    for tensor in tensors.values():
        tensor.grad = None
    named = {**checkpoint_tensors(decoder.source.model, found), **found}
    seen: set[str] = set()
    for name, gradient in named.items():
        output = family.outputs.get(name)
        if output is None or output in seen:
            continue
        seen.add(output)
        zero = load_tensor(family.base[output])
        if zero.shape != gradient.shape:
            raise DarwinError(
                f"{decoder.source.name}: {output} is {tuple(zero.shape)} in the file"
                f" and {tuple(gradient.shape)} in the model; gains need one shape."
                " Scan without --base."
            )
        for side, parent in zip(gains, (family.father, family.mother), strict=True):
            if output in side[probe]:
                tensor = load_tensor(parent[output])
                if tensor.shape == zero.shape:
                    side[probe][output] -= _along(gradient, tensor, zero)


def _along(gradient: Tensor, parent: Tensor, base: Tensor) -> float:
    """Return gradient . (parent - base), summed in float64 in a fixed order."""
    total = 0.0
    flat = [tensor.detach().reshape(-1) for tensor in (gradient, parent, base)]
    for start in range(0, flat[0].numel(), _PIECE):
        g, p, b = (part[start : start + _PIECE].cpu().double() for part in flat)
        total += float(torch.sum(g * (p - b)))
    return total
