"""What is known of every tensor of a child: streamed, one tensor of each model."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from mergekit.common import ModelReference
from mergekit.io.tasks import LoaderCache, LoadTensor
from mergekit.options import MergeOptions

from mergekit_darwin.health.stray import Stray, measure_stray
from mergekit_darwin.kernel.profile import Profile, pattern_counts, profile_counts
from mergekit_darwin.models.names import site_of
from mergekit_darwin.models.plan import is_present, model_loads

_NEIGHBOURS, _PLACES, _FEWEST = 256, 64, 32  # values, groups, least values; our choice

Role = str  # "child", "father", "mother" or "base"


@dataclass(frozen=True)
class TensorFacts:
    """One tensor of a child beside the same of its parents.

    child, father, mother: static profiles, None where a model lacks the tensor or it
    has no floating-point profile; shapes and dtypes by role; equal: roles whose
    tensor has the same bits; unused_bits: low mantissa bits that are zero in every
    element, by role; grids: share of values that are unlike their neighbours', by
    role (distinct); stray None where there is nothing to compare.
    """

    name: str
    layer: int | None
    shapes: Mapping[Role, tuple[int, ...]]
    dtypes: Mapping[Role, str]
    child: Profile | None
    father: Profile | None
    mother: Profile | None
    equal: frozenset[Role]
    unused_bits: Mapping[Role, int]
    stray: Stray | None
    grids: Mapping[Role, float] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """The tensor's name without its layer: what all layers have alike."""
        if self.layer is None:
            return self.name
        return self.name.replace(f".{self.layer}.", ".*.", 1)


def forget(models: Mapping[Role, ModelReference]) -> None:
    """Drop mergekit's open files of these models; they may have been written anew."""
    for reference in models.values():
        LoaderCache().loaders.pop(reference, None)


def stream_facts(
    models: Mapping[Role, ModelReference],
    options: MergeOptions | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[TensorFacts]:
    """Yield the facts of every tensor that a merge of these models would touch.

    models holds child, father, mother and perhaps base; a tensor that the child lacks
    is yielded too. At most one tensor of each model is in memory. progress gets
    (tensors done, tensors in all).
    """
    loads = {role: model_loads(model, options) for role, model in models.items()}
    names = list(dict.fromkeys(name for rows in loads.values() for name in rows))
    for done, name in enumerate(names, start=1):
        present = {
            role: rows[name]
            for role, rows in loads.items()
            if name in rows and is_present(rows[name])
        }
        if set(present) - {"base"}:
            yield _facts(name, present)
        if progress is not None:
            progress(done, len(names))


def _facts(name: str, present: Mapping[Role, LoadTensor]) -> TensorFacts:
    loaded = {role: load.execute() for role, load in present.items()}
    tensors = {role: row for role, row in loaded.items() if row is not None}
    profiles: dict[Role, Profile] = {}
    unused: dict[Role, int] = {}
    for role in ("child", "father", "mother"):
        if role in tensors and tensors[role].is_floating_point():
            kind, counts = pattern_counts(tensors[role])
            profiles[role] = profile_counts(kind, counts)
            unused[role] = _unused_bits(np.flatnonzero(counts))
    clean = all(row.nan == row.inf == 0 for row in profiles.values())
    return TensorFacts(
        name=name,
        layer=site_of(name).layer,
        shapes={role: tuple(row.shape) for role, row in tensors.items()},
        dtypes={
            role: str(row.dtype).removeprefix("torch.") for role, row in tensors.items()
        },
        child=profiles.get("child"),
        father=profiles.get("father"),
        mother=profiles.get("mother"),
        equal=_equal(tensors),
        unused_bits=unused,
        stray=_measured(tensors) if clean and len(profiles) == 3 else None,
        grids={role: distinct(tensors[role]) for role in profiles},
    )


def _unused_bits(patterns: npt.NDArray[np.int64]) -> int:
    """Return how many low bits are zero in all of these 16-bit patterns."""
    used = int(np.bitwise_or.reduce(patterns & 0x7FFF)) if patterns.size else 0
    return (used & -used).bit_length() - 1 if used else 0


def distinct(tensor: torch.Tensor) -> float:
    """Return the median share of distinct values among 256 neighbours, in [0, 1].

    Zeros do not count. Weights on a grid of few values a group, as quantisation leaves
    them, have a small one: 16 of 256 for four bits. 1.0 where there is too little to
    look at. A fixed sample of 64 places at even steps is taken.
    """
    flat = tensor.detach().reshape(-1)
    width = min(_NEIGHBOURS, tensor.shape[-1] if tensor.ndim else 1)
    if tensor.ndim < 2 or width < _FEWEST or not flat.numel():
        return 1.0
    step = max(1, flat.numel() // width // _PLACES) * width
    groups = flat.unfold(0, width, step).float().sort(dim=1).values
    counted = groups != 0
    new = counted.clone()
    new[:, 1:] &= groups[:, 1:] != groups[:, :-1]
    counts = zip(new.sum(1).tolist(), counted.sum(1).tolist(), strict=True)
    shares = [unlike / count for unlike, count in counts if count >= _FEWEST]
    return statistics.median(shares) if shares else 1.0


def _equal(tensors: Mapping[Role, torch.Tensor]) -> frozenset[Role]:
    if "child" not in tensors:
        return frozenset()
    child = tensors["child"]
    return frozenset(
        role
        for role, row in tensors.items()
        if role != "child" and same_bits(child, row)
    )


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Return whether two tensors agree in type, shape and every byte; NaN included."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    left, right = (row.contiguous().reshape(-1) for row in (one, other))
    return torch.equal(left.view(torch.uint8), right.view(torch.uint8))


def _measured(tensors: Mapping[Role, torch.Tensor]) -> Stray | None:
    base = tensors.get("base")
    if base is not None and base.shape != tensors["child"].shape:
        base = None
    return measure_stray(tensors["child"], tensors["father"], tensors["mother"], base)
