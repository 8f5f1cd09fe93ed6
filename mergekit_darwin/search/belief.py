"""What is expected of a point nobody measured, and how sure that is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr

from mergekit_darwin.search.space import Array

Predictor = Callable[[Array], Array]

_HOPE = 1.5  # deviations above the mean of an optimist; our choice


@dataclass(frozen=True)
class Belief:
    """What is expected of points [N, n], [N], and how sure that is (a deviation)."""

    mean: Predictor
    spread: Predictor

    def hopeful(self, points: Array) -> Array:
        """Return mean + 1.5 deviations: what a point may turn out to be."""
        return self.mean(points) + _HOPE * self.spread(points)


Surrogate = Callable[[Array, Array], Belief]


def krige(
    trend: Predictor,
    embed: Predictor,
    known: Array,
    residual: Array,
    *,
    noise: float,
    length: float,
) -> Belief:
    """Return a trend corrected by what it missed: a Gaussian process on residuals.

    embed maps points [N, n] to coordinates [N, d] in which what is near scores alike;
    known [m, d] and residual [m] are what was measured there, less the trend. The
    kernel is squared-exponential; its deviation is twice the residuals', at least twice
    the noise, a score's standard error. Source: kriging; constants our choice.
    """
    deviation = max(2.0 * float(np.sqrt(np.mean(residual**2))), 2.0 * noise)

    def kernel(left: Array, right: Array) -> Array:
        square = ((left[:, None, :] - right[None, :, :]) ** 2).sum(axis=2)
        return np.asarray(deviation**2 * np.exp(-0.5 * square / length**2))

    inverse = np.linalg.inv(kernel(known, known) + noise**2 * np.eye(len(known)))
    pull = (inverse * residual).sum(axis=1)

    def mean(points: Array) -> Array:
        drawn = (kernel(embed(points), known) * pull).sum(axis=1)
        return np.asarray(trend(points) + drawn)

    def spread(points: Array) -> Array:
        near = kernel(embed(points), known)
        explained = np.einsum("ni,ij,nj->n", near, inverse, near)
        return np.asarray(np.sqrt(np.maximum(deviation**2 - explained, 0.0)))

    return Belief(mean, spread)


def rank_correlation(left: Sequence[float], right: Sequence[float]) -> float | None:
    """Return Spearman's rank correlation, ties by mean rank; None where undefined."""
    if min(len(left), len(set(left)) + 1, len(set(right)) + 1) < 3:
        return None
    return float(spearmanr(left, right).statistic)
