"""The static profile of one tensor, from counts of its 16-bit patterns: exact."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated

import numpy as np
import numpy.typing as npt
import torch
from pydantic import ConfigDict, Field

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.kernel.work import WORK, over_pages

_PATTERNS = 65536
_BINS = 256
_CHUNK = 1 << 19  # elements counted at a time
_DIGITS = 12  # significant digits kept: more than libm's last-bit freedom disturbs
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Profile:
    """Statistics of one tensor's weights.

    entropy in [0, 1], of a histogram of 256 equal bins over [-max_abs, max_abs],
    divided by ln 256; std the population standard deviation; norm the L2 norm;
    zeros, nan, inf counts of elements. NaN and Inf take no part in the statistics.
    The bounds are for reports, which hold finite tensors only, without nan and inf.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)

    entropy: Annotated[float, Field(ge=0.0, le=1.0 + 1e-9)]
    std: Annotated[float, Field(ge=0.0)]
    norm: Annotated[float, Field(ge=0.0)]
    max_abs: Annotated[float, Field(ge=0.0)]
    zeros: Annotated[int, Field(ge=0)]
    numel: Annotated[int, Field(ge=0)]
    nan: Annotated[int, Field(exclude=True, ge=0, le=0)] = 0
    inf: Annotated[int, Field(exclude=True, ge=0, le=0)] = 0

    @property
    def static(self) -> float:
        """The static score: 0.3 entropy + 0.2 std + 0.002 min(norm, 100)."""
        entropy, std, norm = (weight * value for _, weight, value in self.static_terms)
        return entropy + std + norm

    @property
    def static_terms(self) -> tuple[tuple[str, float, float], ...]:
        """Name, weight and value of the static score's terms. Source: Darwin V6."""
        return (
            ("entropy", 0.3, self.entropy),
            ("std", 0.2, self.std),
            ("min(norm, 100)", 0.002, min(self.norm, 100.0)),
        )


def profile_tensor(tensor: torch.Tensor) -> Profile:
    """Return the profile of a floating-point tensor of any shape; it is not changed.

    bfloat16 and float16 are exact; wider types are profiled by the upper 16 bits of
    their float32 form. The result is the same for every device, thread count and
    chunking. Raises DarwinError for types of less than 16 bits.
    """
    kind, counts = pattern_counts(tensor)
    return profile_counts(kind, counts)


def pattern_counts(tensor: torch.Tensor) -> tuple[torch.dtype, Counts]:
    """Return the 16-bit type counted and how often each pattern occurs, int64 [65536].

    Raises DarwinError for a type without a 16-bit form (float8, integers).
    """
    flat = tensor.detach().reshape(-1)
    if flat.dtype == torch.float64:
        flat = flat.to(torch.float32)
    if flat.dtype not in (torch.bfloat16, torch.float16, torch.float32):
        raise DarwinError(
            f"A static profile needs float16, bfloat16, float32 or float64 weights;"
            f" got {tensor.dtype}. Dequantise the checkpoint first."
        )
    kind = torch.bfloat16 if flat.dtype == torch.float32 else flat.dtype
    flat = flat.contiguous()
    if flat.device.type != "cpu":
        counts = torch.zeros(_PATTERNS, dtype=torch.int64, device=flat.device)
        for piece in torch.split(flat, 1 << 26):
            add_counts(piece, counts)
        return kind, counts.cpu().numpy()
    return kind, _host_counts(flat)


def _host_counts(flat: torch.Tensor) -> Counts:
    compiled = WORK.module("fused", flat.numel())
    add = compiled.add_counts if compiled else add_counts
    totals: list[torch.Tensor] = []

    def work(pages: Iterator[int]) -> None:
        total = torch.zeros(_PATTERNS, dtype=torch.int64)
        for page in pages:
            add(flat[page * _CHUNK : (page + 1) * _CHUNK], total)
        totals.append(total)

    over_pages(-(-flat.numel() // _CHUNK), work)
    counts = totals[0] if totals else torch.zeros(_PATTERNS, dtype=torch.int64)
    for total in totals[1:]:  # integers: neither order nor who counted shows
        counts += total
    return counts.numpy()


def add_counts(flat: torch.Tensor, counts: torch.Tensor) -> None:
    """Add to counts, int64 [65536], the 16-bit patterns of a contiguous tensor.

    Of float32 the upper half counts (on a little-endian machine).
    """
    halves = flat.view(torch.int16)
    if flat.dtype == torch.float32:
        halves = halves[1::2]
    patterns = halves.to(torch.int32).bitwise_and_(0xFFFF)
    counts += torch.bincount(patterns, minlength=_PATTERNS)


@lru_cache(maxsize=2)
def _pattern_values(kind: torch.dtype) -> npt.NDArray[np.float64]:
    patterns = np.arange(_PATTERNS, dtype=np.uint16).view(np.int16)
    return torch.from_numpy(patterns).view(kind).to(torch.float64).numpy()


def profile_counts(kind: torch.dtype, counts: Counts) -> Profile:
    """Return the profile that pattern counts (int64 [65536]) of a type imply."""
    seen = np.flatnonzero(counts)
    values, weights = _pattern_values(kind)[seen], counts[seen]
    finite = np.isfinite(values)
    nan = int(weights[np.isnan(values)].sum())
    inf = int(weights[np.isinf(values)].sum())
    values, weights = values[finite], weights[finite]
    numel = int(weights.sum())
    if numel == 0:
        return Profile(0.0, 0.0, 0.0, 0.0, 0, nan + inf, nan, inf)
    max_abs = float(np.abs(values).max())
    total = math.fsum((values * weights).tolist())
    squares = math.fsum((values * values * weights).tolist())
    mean = total / numel
    spread = math.fsum(((values - mean) ** 2 * weights).tolist())
    return Profile(
        entropy=_rounded(_entropy(values, weights, max_abs)),
        std=_rounded(math.sqrt(spread / numel)),
        norm=_rounded(math.sqrt(squares)),
        max_abs=max_abs,
        zeros=int(weights[values == 0.0].sum()),
        numel=numel + nan + inf,
        nan=nan,
        inf=inf,
    )


def _entropy(values: npt.NDArray[np.float64], weights: Counts, max_abs: float) -> float:
    """Shannon entropy of 256 equal bins over [-max_abs, max_abs], over ln 256."""
    if max_abs == 0.0:
        return 0.0
    place = np.floor((values / max_abs + 1.0) * (_BINS / 2)).astype(np.int64)
    bins = np.bincount(np.minimum(place, _BINS - 1), weights=weights, minlength=_BINS)
    shares = bins[bins > 0] / weights.sum()
    return abs(math.fsum(-p * math.log(p) for p in shares.tolist())) / math.log(_BINS)


def _rounded(value: float) -> float:
    """Keep 12 significant digits, so that another libm's last bit changes nothing."""
    return float(f"{value:.{_DIGITS - 1}e}")
