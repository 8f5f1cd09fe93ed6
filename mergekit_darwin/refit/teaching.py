"""What a layer's maps give at the teachers, and what general text asks of the child."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mergekit_darwin.refit.order import Stage, forwards, scales_of, units
from mergekit_darwin.refit.solve import Moments, add_gram, no_moments
from mergekit_darwin.refit.texts import Group, Stream
from mergekit_darwin.scan.decoder import Decoder, apply_layer


@dataclass
class Taught:
    """One batch at its teacher: outputs [n, out] (or streams) by map, banks' inputs.

    weights [n], by map that writes the stream, are what a token's error counts there:
    relative to the stream after the map, since whatever reads it normalises it first.
    Tokens that models park attention on have streams a hundred times the others' and
    would otherwise be all that is fitted.
    """

    outputs: dict[str, Tensor] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)
    inputs: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class Held:
    """General text at the child as it was: moments by stage's first map, banks' calls.

    A call is the inputs of real tokens [n, in] and their experts [n, k]. tokens counts
    all of the text's.
    """

    tokens: int = 0
    moments: dict[str, Moments] = field(default_factory=dict)
    calls: dict[str, list[tuple[Tensor, Tensor]]] = field(default_factory=dict)

    def add(self, path: str, x: Tensor) -> None:
        """Add one batch's inputs [n, in] to a stage's moments."""
        if path not in self.moments:
            self.moments[path] = Moments(no_moments(x))
        add_gram(self.moments[path].xx, x, 1.0)


def chosen(
    decoder: Decoder, layer: int, stages: Sequence[Stage]
) -> dict[str, nn.Module]:
    """Return the modules of all maps of a layer's stages, by path."""
    paths = {path for stage in stages for path in stage.maps}
    return {p: m for p, m in units(decoder.layers[layer]).items() if p in paths}


def teach(
    group: Group, layer: int, stages: Sequence[Stage], residual: bool
) -> list[Taught]:
    """Move a group's teacher through a layer; return what its maps gave, by batch."""
    modules = chosen(group.teacher, layer, stages)
    found = []
    for stream in group.taught:
        noted = Taught()
        with forwards(modules, _notes(stages, stream, noted, residual)):
            call = stream.calls[layer]
            stream.hidden = apply_layer(group.teacher, layer, stream.hidden, call)
        found.append(noted)
    return found


def _notes(
    stages: Sequence[Stage], stream: Stream, noted: Taught, residual: bool
) -> Callable[[str, Any], Callable[..., Any]]:
    scales = scales_of(stages)
    banks = {row.maps[0] for row in stages if row.bank}
    after = [stream.rows(stream.hidden)]

    def make(path: str, original: Any) -> Callable[..., Any]:
        def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            output = original(x, *args, **kwargs)
            real, scale = stream.rows(output), scales[path]
            if scale is not None:
                after[0] = after[0] + scale * real
                noted.weights[path] = relative(after[0])
            if path in banks:
                noted.inputs[path] = stream.rows(x)
            else:
                aims = residual and scale is not None
                noted.outputs[path] = after[0] if aims else real
            return output

        return forward

    return make


def hold(
    child: Decoder,
    layer: int,
    stages: Sequence[Stage],
    solved: Sequence[Stage],
    streams: Sequence[Stream],
) -> Held:
    """Move general text through a layer of the child as it is.

    Returns its moments at the stages that are to be solved.
    """
    modules = chosen(child, layer, stages)
    firsts = {stage.maps[0]: stage for stage in solved}
    held = Held()
    for stream in streams:
        held.tokens += int(stream.batch.real.sum())
        with forwards(modules, _sums(modules, stages, firsts, (stream, held))):
            call = stream.calls[layer]
            stream.hidden = apply_layer(child, layer, stream.hidden, call)
    return held


def _sums(
    modules: dict[str, nn.Module],
    stages: Sequence[Stage],
    firsts: dict[str, Stage],
    walk: tuple[Stream, Held],
) -> Callable[[str, Any], Callable[..., Any]]:
    scales = scales_of(stages)
    stream, held = walk
    after = [stream.rows(stream.hidden)]

    def make(path: str, original: Any) -> Callable[..., Any]:
        def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            output = original(x, *args, **kwargs)
            scale, stage = scales[path], firsts.get(path)
            if scale is not None:
                after[0] = after[0] + scale * stream.rows(output)
            if stage is not None and stage.bank:
                index = stream.rows(index_of(args, kwargs))
                held.calls.setdefault(path, []).append((stream.rows(x), index))
            elif stage is not None:
                real = augmented(stream.rows(x), modules[path])
                if stage.writes:
                    real = real * relative(after[0]).sqrt()[:, None]
                held.add(path, real)
            return output

        return forward

    return make


def relative(after: Tensor) -> Tensor:
    """Return 1 / |x|^2 of a stream's rows [n, D], what a squared error counts there."""
    return after.square().sum(dim=1).clamp_min(1e-30).reciprocal()


def index_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Return the experts [B * T, k] with which a bank was called after its input."""
    found = [x for x in (*args, *kwargs.values()) if _is_index(x)]
    return found[0]


def _is_index(value: object) -> bool:
    return isinstance(value, Tensor) and not value.is_floating_point()


def augmented(x: Tensor, module: nn.Module) -> Tensor:
    """Return inputs with a column of ones where the map has a bias."""
    if getattr(module, "bias", None) is None:
        return x
    return torch.cat([x, x.new_ones(len(x), 1)], dim=1)
