"""Static profiles of all tensors of some models and their task vectors, in one pass."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from mergekit.io.tasks import LoaderCache, LoadTensor
from torch import Tensor

from mergekit_darwin.errors import DarwinError, about
from mergekit_darwin.kernel.profile import Profile, profile_tensor
from mergekit_darwin.models.plan import is_present
from mergekit_darwin.scan.report import PairStatistics

_PIECE = 1 << 16  # elements of a task vector looked at together, in cache
_MAPPED = 1 << 26  # bytes read before a mapped file is let go

Loads = Mapping[str, LoadTensor]


@dataclass(frozen=True)
class TensorRow:
    """What the pass found of one tensor name: a profile a role, and of the pair.

    statistics holds the roles (father, mother, base) that have the tensor; pair is
    None without a base or where shapes differ.
    """

    name: str
    statistics: dict[str, Profile]
    pair: PairStatistics | None = field(default=None)


def all_names(models: Mapping[str, Loads]) -> list[str]:
    """Return every tensor name of the models, once, in the first one's order."""
    names: dict[str, None] = {}
    for loads in models.values():
        names.update(dict.fromkeys(loads))
    return list(names)


def scan_tensors(models: Mapping[str, Loads], names: list[str]) -> Iterator[TensorRow]:
    """Yield the row of each name; at most one tensor of each model is in memory.

    models maps a role to what model_loads returned. Raises DarwinError for NaN or Inf,
    naming tensor and model.
    """
    read = 0
    for name in names:
        tensors = {
            role: load_tensor(loads[name])
            for role, loads in models.items()
            if name in loads and is_present(loads[name])
        }
        yield TensorRow(
            name,
            {
                role: _statistics(tensor, name, str(models[role][name].model))
                for role, tensor in tensors.items()
            },
            _pair(tensors),
        )
        read += sum(tensor.nbytes for tensor in tensors.values())
        if read > _MAPPED:
            read = 0
            LoaderCache().flush_all()


def load_tensor(load: LoadTensor) -> Tensor:
    """Return a tensor, borrowed from its file. Raises DarwinError if it is damaged."""
    named = f"Tensor {load.tensor!r} of {load.model}"
    with about(f"{named} cannot be read", "Download or save the model again."):
        tensor = load.execute()
    if tensor is None:
        raise DarwinError(f"{named} is missing.")
    return tensor


def _statistics(tensor: Tensor, name: str, model: str) -> Profile:
    if not tensor.is_floating_point():
        tensor = tensor.to(torch.float32)  # counters and tables of positions
    try:
        profile = profile_tensor(tensor)
    except DarwinError as error:
        raise DarwinError(f"{name} of {model}: {error.message}") from None
    if profile.nan or profile.inf:
        raise DarwinError(
            f"Every weight must be finite; {name} of {model} holds {profile.nan} NaN"
            f" and {profile.inf} Inf among {profile.numel} values. This model is"
            " damaged: download it again, or train it anew."
        )
    return profile


def _pair(tensors: Mapping[str, Tensor]) -> PairStatistics | None:
    if set(tensors) != {"father", "mother", "base"}:
        return None
    if len({tensor.shape for tensor in tensors.values()}) != 1:
        return None
    return pair_statistics(tensors["base"], tensors["father"], tensors["mother"])


def pair_statistics(base: Tensor, father: Tensor, mother: Tensor) -> PairStatistics:
    """Return norms of two task vectors, their cosine and share of opposite signs.

    The three tensors have one shape. The share is of the entries in which both task
    vectors are not 0; cosine is 0 where a task vector is 0 throughout. Summed in
    float64 in a fixed order, so the same on every machine up to its sqrt.
    """
    squares_father = squares_mother = product = 0.0
    moved = opposite = 0
    flat = [tensor.detach().reshape(-1) for tensor in (base, father, mother)]
    for start in range(0, flat[0].numel(), _PIECE):
        zero, left, right = (
            part[start : start + _PIECE].to(torch.float64).cpu().numpy()
            for part in flat
        )
        left, right = left - zero, right - zero
        squares_father += float(np.einsum("i,i->", left, left))
        squares_mother += float(np.einsum("i,i->", right, right))
        both = left * right
        product += float(np.einsum("i->", both))
        moved += int(np.count_nonzero(both))
        opposite += int(np.count_nonzero(both < 0.0))
    length = math.sqrt(squares_father) * math.sqrt(squares_mother)
    cosine = product / length if length > 0.0 else 0.0
    return PairStatistics(
        norm_father=math.sqrt(squares_father),
        norm_mother=math.sqrt(squares_mother),
        cosine=min(1.0, max(-1.0, cosine)),  # rounding may leave [-1, 1]
        opposite_signs=opposite / moved if moved else 0.0,
    )
