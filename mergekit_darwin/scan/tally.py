"""Gradients against task vectors: every item's own gain of every tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.models.opened import merge_options
from mergekit_darwin.models.plan import is_present, model_loads
from mergekit_darwin.scan.static import Loads, load_tensor
from mergekit_darwin.talk import ProbeOptions

_PIECE = 1 << 16  # elements of one inner product's part, in cache

Gains = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Tally:
    """The gains of Father and Mother so far, [items] a tensor in mergekit's names.

    outputs maps every name a tensor may have (the model's own, the file's) to
    mergekit's; deltas holds the task vectors in use.
    """

    model: nn.Module
    base: Loads
    parents: tuple[Loads, Loads]
    outputs: Mapping[str, str]
    sides: tuple[dict[str, list[float]], dict[str, list[float]]]
    deltas: dict[str, tuple[Tensor | None, ...]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        model: nn.Module,
        names: tuple[str, str, str],
        options: ProbeOptions,
        items: int,
    ) -> Tally:
        """Return an empty tally; names are those of base, Father and Mother."""
        base, *others = (model_loads(name, merge_options(options)) for name in names)
        outputs = {name: name for name in base}
        for name, load in base.items():
            for other in (load.tensor, *(load.aliases or ()), *(load.tied_names or ())):
                outputs.setdefault(other, name)
        sides = tuple(
            {name: [0.0] * items for name in _shared(base, parent)} for parent in others
        )
        return cls(model, base, (others[0], others[1]), outputs, (sides[0], sides[1]))

    def add(self, item: int, tensors: Mapping[str, Tensor]) -> None:
        """Add -g . delta of every tensor with a gradient, and clear the gradients."""
        found = {k: t.grad for k, t in tensors.items() if t.grad is not None}
        for tensor in tensors.values():
            tensor.grad = None
        seen: set[str] = set()
        for name, gradient in self._named(found).items():
            output = self.outputs.get(name)
            if output is None or output in seen:
                continue
            seen.add(output)
            for side, delta in zip(
                self.sides, self._deltas(output, gradient), strict=True
            ):
                if delta is not None:
                    side[output][item] -= _along(gradient, delta)

    def forget(self) -> None:
        """Let go of the task vectors in use."""
        self.deltas.clear()

    def _named(self, found: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return gradients by names that mergekit knows, unpacked where need be."""
        if all(name in self.outputs for name in found):
            return found
        from transformers.core_model_loading import revert_weight_conversion

        # Experts and prefixes are taken apart again, as files have them. That only
        # re-orders elements: inner products with task vectors stay the same.
        unpacked = revert_weight_conversion(self.model, dict(found))  # type: ignore[arg-type]
        return {**unpacked, **found}

    def _deltas(self, output: str, like: Tensor) -> tuple[Tensor | None, ...]:
        """Return a tensor's task vectors in the gradient's type and place."""
        if output not in self.deltas:
            base = load_tensor(self.base[output])
            if base.shape != like.shape:
                raise DarwinError(
                    f"{output} is {tuple(base.shape)} in the files of the base and"
                    f" {tuple(like.shape)} in the model; gains need one shape."
                    " Scan without --base."
                )
            self.deltas[output] = tuple(
                _task_vector(base, parent[output], like) if output in side else None
                for parent, side in zip(self.parents, self.sides, strict=True)
            )
        return self.deltas[output]


def _shared(base: Loads, parent: Loads) -> list[str]:
    return [
        name
        for name, load in base.items()
        if name in parent and is_present(load) and is_present(parent[name])
    ]


def _task_vector(base: Tensor, load: object, like: Tensor) -> Tensor | None:
    parent = load_tensor(load)
    if parent.shape != base.shape:
        return None
    wide = torch.float64 if like.dtype == torch.float64 else torch.float32
    return (parent.to(like.device, wide) - base.to(like.device, wide)).reshape(-1)


def _along(gradient: Tensor, delta: Tensor) -> float:
    """Return gradient . delta, summed in float64 in a fixed order.

    Not by a BLAS, whose last bits depend on where in memory the numbers lie.
    """
    flat = gradient.detach().reshape(-1)
    total = 0.0
    for start in range(0, flat.numel(), _PIECE):
        stop = start + _PIECE
        product = flat[start:stop].to(delta.dtype) * delta[start:stop]
        total += float(product.sum(dtype=torch.float64))
    return total


def floating(model: nn.Module, wanted: Callable[[str], bool]) -> dict[str, Tensor]:
    """Return a running model's floating tensors in memory whose names are wanted.

    A tensor that two names share is there once.
    """
    found: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        held = tensor.is_floating_point() and tensor.device.type != "meta"
        if held and wanted(name):
            found.setdefault(id(tensor), (name, tensor))
    return dict(found.values())


@contextmanager
def following(tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Let autograd follow some tensors while the context lasts."""
    for tensor in tensors.values():
        tensor.requires_grad_(True)
    try:
        yield
    finally:
        for tensor in tensors.values():
            tensor.requires_grad_(False)
            tensor.grad = None
