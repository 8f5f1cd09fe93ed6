"""Means over items, and what sets two of them apart on the same items."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Mean:
    """A mean over items and its standard error."""

    mean: float
    stderr: float


@dataclass(frozen=True)
class Difference:
    """left minus right on the same items, in the metric's better direction.

    better and worse count the items on which they differ; p is two-sided: the exact
    McNemar test where every score is 0 or 1, else None.
    """

    left: str
    right: str
    difference: float
    stderr: float
    better: int
    worse: int
    p: float | None


def mean_of(values: Sequence[float]) -> Mean:
    """Return a mean and its standard error (n - 1; 0 for one value)."""
    count = len(values)
    mean = math.fsum(values) / count
    if count < 2:
        return Mean(mean, 0.0)
    spread = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    return Mean(mean, math.sqrt(spread / count))


def difference(
    left: str,
    right: str,
    values: Mapping[str, Sequence[float]],
    signs: Sequence[float],
) -> Difference:
    """Return the paired difference of two columns over the same items.

    Its error is that of a mean of differences (Miller, arXiv 2411.00640).
    """
    rows = zip(values[left], values[right], signs, strict=True)
    apart = [sign * (a - b) for a, b, sign in rows]
    better = sum(value > 0 for value in apart)
    worse = sum(value < 0 for value in apart)
    binary = {0.0, 1.0}.issuperset([*values[left], *values[right]])
    found = mean_of(apart)
    p = mcnemar(better, worse) if binary else None
    return Difference(left, right, found.mean, found.stderr, better, worse, p)


def mcnemar(better: int, worse: int) -> float:
    """Return the exact two-sided p of this split of items that differ, if fair."""
    count, least = better + worse, min(better, worse)
    tail = sum(math.comb(count, k) for k in range(least + 1))
    return min(1.0, 2 * tail / 2**count)
