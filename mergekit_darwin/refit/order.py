"""Which maps a layer has, in which order they run, and which write its stream.

All of it is found by running the layer on a few tokens; no name is looked at.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mergekit_darwin.scan.decoder import Call, Decoder, apply_layer, record
from mergekit_darwin.scan.layers import Batch, patched

_TOKENS = 8
_ALONE = 1e-2  # share of a push that may come out of the layer as something else


@dataclass(frozen=True)
class Stage:
    """Maps of a layer that read one input and are solved together.

    maps are paths in the layer. scales[i] is the factor with which map i's output is
    added to the residual stream; None if it is not added as it is. bank: the one map is
    a bank of fused experts.
    """

    maps: tuple[str, ...]
    scales: tuple[float | None, ...]
    bank: bool = False

    @property
    def writes(self) -> bool:
        """Whether all that the maps give is added to the stream."""
        return None not in self.scales


def scales_of(stages: Iterable[Stage]) -> dict[str, float | None]:
    """Return the factor of every map of some stages, by path."""
    return {p: s for row in stages for p, s in zip(row.maps, row.scales, strict=True)}


class Stopped(Exception):
    """Ends a layer's forward once the wanted input has been seen."""


def linear_maps(layer: nn.Module) -> dict[str, nn.Module]:
    """Return a layer's nn.Linear and Conv1D modules with float weights, by path."""
    from transformers.pytorch_utils import Conv1D

    return {
        path: module
        for path, module in layer.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and module.weight.is_floating_point()
    }


def expert_banks(layer: nn.Module) -> dict[str, nn.Module]:
    """Return the modules that hold a layer's experts fused: weights [E, ..., ...]."""
    return {
        path: module
        for path, module in layer.named_modules()
        if sum(p.dim() == 3 for p in module.parameters(recurse=False)) > 1
    }


def units(layer: nn.Module) -> dict[str, nn.Module]:
    """Return what a layer can be refitted in: linear maps and banks of experts."""
    return linear_maps(layer) | expert_banks(layer)


@contextlib.contextmanager
def forwards(
    modules: Mapping[str, nn.Module], make: Callable[[str, Any], Callable[..., Any]]
) -> Iterator[None]:
    """Give modules the forwards that make(path, original) returns, for a while."""
    made = [make(p, type(m).forward.__get__(m)) for p, m in modules.items()]
    with patched(list(modules.values()), made):
        yield


@dataclass(frozen=True)
class _Trial:
    """One layer run on a few tokens: what every unit read and gave, and the layer."""

    decoder: Decoder
    layer: int
    hidden: Tensor
    call: Call
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    full: Tensor


def find_stages(decoder: Decoder, layer: int) -> tuple[Stage, ...]:
    """Return a layer's stages in the order in which they run.

    A map that does not see every token once (an expert of its own, a map run twice) is
    in none. The layer's weights must be loaded.
    """
    trial = _run(decoder, layer)
    banks = expert_banks(decoder.layers[layer])
    groups: list[list[str]] = []
    last: Tensor | None = None
    for path, x in trial.inputs.items():
        if x is not last or path in banks:
            groups.append([])
        groups[-1].append(path)
        last = x
    return tuple(
        Stage(
            tuple(paths),
            tuple(_scale(trial, path) for path in paths),
            paths[0] in banks,
        )
        for paths in groups
    )


def _run(decoder: Decoder, layer: int) -> _Trial:
    device = decoder.source.device
    ids = torch.arange(_TOKENS, device=device)[None] + 1
    real = torch.ones_like(ids, dtype=torch.bool)
    none = torch.zeros(0, dtype=torch.int64, device=device)
    hidden, calls = record(decoder, Batch(ids, real, none, none, none, (_TOKENS,)))
    seen: list[str] = []
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}

    def watch(path: str, original: Any) -> Callable[..., Any]:
        def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            seen.append(path)
            inputs[path], outputs[path] = x, original(x, *args, **kwargs)
            return outputs[path]

        return forward

    with forwards(units(decoder.layers[layer]), watch):
        full = apply_layer(decoder, layer, hidden, calls[layer])
    for path in [p for p in inputs if seen.count(p) > 1 or not _whole(inputs[p])]:
        del inputs[path], outputs[path]
    return _Trial(decoder, layer, hidden, calls[layer], inputs, outputs, full)


def _whole(x: Tensor) -> bool:
    return x.shape[:-1].numel() == _TOKENS


def _scale(trial: _Trial, chosen: str) -> float | None:
    """Push one output, all others held: what comes out of the layer of the push?"""
    if trial.outputs[chosen].numel() != trial.full.numel():
        return None
    full = trial.full.double()
    noise = torch.randn(full.shape, generator=torch.Generator().manual_seed(0))
    push = noise.to(trial.full) * full.square().mean().sqrt().to(trial.full.dtype)

    def hold(path: str, original: Any) -> Callable[..., Any]:
        def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            held = trial.outputs[path]
            return held + push.reshape(held.shape) if path == chosen else held

        return forward

    modules = units(trial.decoder.layers[trial.layer])
    with forwards({p: modules[p] for p in trial.outputs}, hold):
        moved = apply_layer(trial.decoder, trial.layer, trial.hidden, trial.call)
    moved, pushed = (moved - trial.full).double(), push.double()
    factor = float((moved * pushed).sum() / pushed.square().sum())
    rest = float((moved - factor * pushed).norm() / pushed.norm())
    return factor if factor != 0.0 and rest <= _ALONE * abs(factor) else None
