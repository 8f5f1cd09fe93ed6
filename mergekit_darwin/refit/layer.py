"""One layer of the child: its maps solved in the order in which they run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.refit.experts import (
    experts_of,
    kept,
    products,
    routed,
    weight_at,
)
from mergekit_darwin.refit.options import Maps
from mergekit_darwin.refit.order import Stage, Stopped, forwards, scales_of, units
from mergekit_darwin.refit.solve import (
    Moments,
    add,
    add_gram,
    change,
    change_map,
    gram,
    no_moments,
    product,
)
from mergekit_darwin.refit.teaching import Held, Taught, augmented, chosen, index_of
from mergekit_darwin.refit.texts import Group, Stream
from mergekit_darwin.scan.decoder import Decoder, apply_layer


@dataclass(frozen=True)
class Rule:
    """Which maps are solved, and how.

    maps: last, each layer's last map and its experts; writers, all that write the
    stream; all. residual: maps that write the stream aim at the teacher's stream after
    them, not at the teacher's own output. keep: the share of general text beside each
    parent's 1. dtype: what the child is stored in, to which solved weights are rounded.
    """

    ridge: float
    keep: float
    residual: bool = True
    dtype: torch.dtype = torch.float32
    maps: Maps = "last"

    def chosen(self, stages: Sequence[Stage]) -> list[Stage]:
        """Return those of a layer's stages that are solved."""
        if self.maps == "all":
            return list(stages)
        if self.maps == "writers":
            found = [stage for stage in stages if stage.writes or stage.bank]
            return found or list(stages[-1:])
        return [stage for stage in stages if stage is stages[-1] or stage.bank]


@dataclass
class _Walk:
    """One batch on its way through the layer's stages at the child.

    share is its group's, a token. read is what the present stage's maps read, done the
    outputs of maps before it, before the real rows of the stream that they left.
    """

    stream: Stream
    taught: Taught
    teacher: nn.Module  # its layer
    share: float
    before: Tensor
    read: Tensor = field(default_factory=lambda: torch.empty(0))
    rest: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})
    done: dict[str, Tensor] = field(default_factory=dict)


def refit_layer(
    child: Decoder,
    layer: int,
    stages: Sequence[Stage],
    texts: Sequence[tuple[Group, Sequence[Taught]]],
    held: Held,
    rule: Rule,
) -> None:
    """Solve the maps of one layer in order and move the groups' child through it.

    Raises DarwinError, naming the map, where it cannot be solved.
    """
    modules = chosen(child, layer, stages)
    scales = scales_of(stages)
    walks = _walks(layer, texts)
    for stage in rule.chosen(stages):
        for walk in walks:
            _read(child, layer, stage, scales, walk)
        try:
            solve = _solve_bank if stage.bank else _solve_maps
            solve(stage, modules, walks, held, rule)
        except DarwinError as error:
            place = f"{child.source.name}, layer {layer}, {stage.maps[0]}"
            raise DarwinError(f"{place}: {error.message}") from None
        for walk in walks:
            args, kwargs = walk.rest
            for path in stage.maps:
                walk.done[path] = modules[path](walk.read, *args, **kwargs)
    for walk in walks:
        with forwards(modules, _replay(walk, (), {})):
            call = walk.stream.calls[layer]
            walk.stream.hidden = apply_layer(child, layer, walk.stream.hidden, call)


def _walks(layer: int, texts: Sequence[tuple[Group, Sequence[Taught]]]) -> list[_Walk]:
    """Return all batches, standing before the layer."""
    return [
        _Walk(
            stream,
            taught,
            group.teacher.layers[layer],
            group.share / group.tokens,
            stream.rows(stream.hidden),
        )
        for group, rows in texts
        for stream, taught in zip(group.child, rows, strict=True)
    ]


def _replay(
    walk: _Walk, wanted: Sequence[str], scales: Mapping[str, float | None]
) -> Callable[[str, Any], Callable[..., Any]]:
    """Make forwards that give what is done, stop at wanted, and follow the stream."""

    def make(path: str, original: Any) -> Callable[..., Any]:
        def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            if path in wanted:
                walk.read, walk.rest = x, (args, kwargs)
                raise Stopped
            if path not in walk.done:
                walk.done[path] = original(x, *args, **kwargs)
            scale = scales.get(path)
            if scale is not None:
                walk.before = walk.before + scale * walk.stream.rows(walk.done[path])
            return walk.done[path]

        return forward

    return make


def _read(
    child: Decoder,
    layer: int,
    stage: Stage,
    scales: Mapping[str, float | None],
    walk: _Walk,
) -> None:
    """Run the layer up to a stage; maps that are done give what they gave."""
    modules = {p: m for p, m in units(child.layers[layer]).items() if p in scales}
    walk.before = walk.stream.rows(walk.stream.hidden)
    try:
        with forwards(modules, _replay(walk, stage.maps, scales)):
            call = walk.stream.calls[layer]
            apply_layer(child, layer, walk.stream.hidden, call)
    except Stopped:
        return


def _solve_maps(
    stage: Stage,
    modules: dict[str, nn.Module],
    walks: Sequence[_Walk],
    held: Held,
    rule: Rule,
) -> None:
    first = modules[stage.maps[0]]
    xx = torch.empty(0)
    xr: dict[str, Tensor] = {}
    for walk in walks:
        x = walk.stream.rows(walk.read)
        wide = augmented(x, first)
        if stage.writes:
            wide = wide * walk.taught.weights[stage.maps[0]].sqrt()[:, None]
        if not len(xx):
            xx = no_moments(wide)
        add_gram(xx, wide, walk.share)
        for path, scale in zip(stage.maps, stage.scales, strict=True):
            aim = walk.taught.outputs[path]
            if rule.residual and scale is not None:
                aim = (aim - walk.before) / scale
            lack = aim - modules[path](x)
            if stage.writes:
                lack = lack * walk.taught.weights[path].sqrt()[:, None]
            lack = product(wide, lack)
            xr[path] = _plus(xr.get(path), lack, walk.share)
    if not len(xx):
        return
    keep = (
        [(rule.keep / held.tokens, held.moments[stage.maps[0]])] if held.tokens else []
    )
    for path in stage.maps:
        found = change([(1.0, Moments(xx, xr[path])), *keep], rule.ridge)
        change_map(modules[path], found, rule.dtype)


def _plus(total: Tensor | None, term: Tensor, share: float) -> Tensor:
    term *= share
    return term if total is None else total.add_(term)


def _solve_bank(
    stage: Stage,
    modules: dict[str, nn.Module],
    walks: Sequence[_Walk],
    held: Held,
    rule: Rule,
) -> None:
    """Solve each expert's maps on the tokens that the child routes to it."""
    path = stage.maps[0]
    bank = modules[path]
    for expert in range(experts_of(bank)):
        keep = kept(bank, expert, held.calls.get(path, []))
        sides = []
        for walk in walks:
            rows = routed(walk.stream.rows(index_of(*walk.rest)), expert)
            if len(rows):
                x = walk.stream.rows(walk.read)[rows]
                theirs = walk.taught.inputs[path][rows]
                outputs = products(walk.teacher.get_submodule(path), expert, theirs)
                sides.append((walk.share, x, [row.y for row in outputs]))
        for place in range(len(sides[0][2]) if sides else 0):
            parts = [_product_moments(bank, expert, place, side) for side in sides]
            if place < len(keep):
                parts.append((rule.keep / held.tokens, Moments(keep[place])))
            weight, turned = weight_at(bank, expert, place, sides[0][1])
            found = change(parts, rule.ridge)
            add(weight, found.T if turned else found, rule.dtype)


def _product_moments(
    bank: nn.Module, expert: int, place: int, side: tuple[float, Tensor, list[Tensor]]
) -> tuple[float, Moments]:
    share, x, outputs = side
    ours = products(bank, expert, x)[place]
    lack = product(ours.x, outputs[place] - ours.y)
    return share, Moments(gram(ours.x), lack)
