"""The search itself: what to measure next, and what to learn from the answers.

Whoever drives it measures what it asks for. Everything is a pure function of the seed
and of the scores it was told, so a replay of the same scores asks for the same
candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.stats import spearmanr

from mergekit_darwin.search.cma import SearchSettings, make_cma, maximise
from mergekit_darwin.search.space import Array, Predictor, Space

Driver = Generator["Ask", Sequence[float | None], "Memory"]

_HOPE = 1.5  # deviations above the mean of an optimist; our choice
_WORST = -1e9  # a failed candidate's score, as CMA-ES is told


@dataclass(frozen=True)
class Ask:
    """Candidates to measure: points [k, n], what the surrogate expects of each [k]."""

    generation: int
    points: Array
    expected: Array


@dataclass
class Memory:
    """What was measured so far: points, scores (None where it failed)."""

    points: list[Array] = field(default_factory=list)
    scores: list[float | None] = field(default_factory=list)

    def valid(self) -> tuple[Array, Array]:
        """Return points [n, d] and scores [n] of the evaluations that worked."""
        pairs = [
            (point, score)
            for point, score in zip(self.points, self.scores, strict=True)
            if score is not None
        ]
        points = np.array([point for point, _ in pairs])
        return points, np.array([score for _, score in pairs])

    def best(self) -> float:
        """Return the best score so far, minus infinity if none worked."""
        return max((s for s in self.scores if s is not None), default=-np.inf)

    def knows(self, point: Array) -> bool:
        """Return whether this point was measured before."""
        return any(np.allclose(point, other, atol=1e-6) for other in self.points)


def breed(
    space: Space, surrogate: Surrogate, first: Sequence[Array], settings: SearchSettings
) -> Driver:
    """Yield what to measure and take the scores (None: failed); return the memory.

    surrogate(points, scores) returns a belief fitted to what is known; first are
    points to measure before anything else, the proxy's optimum among them. Of each
    generation the top k are measured: the optima of the surrogate's mean and of its
    hope, then CMA-ES' candidates in the order of the mean. CMA-ES is told scores, or
    the mean where none was measured.
    """
    memory = Memory()
    belief = _refit(surrogate, memory, len(space.genes))
    points = _unknown(memory, [_round(space, p) for p in first])
    points = points[: settings.max_evaluations]
    yield from _measure(memory, 0, np.array(points), belief)
    start = _best_point(memory, np.array(points))
    strategy = make_cma(start, settings.sigma0, settings, 1)
    generation, stale = 0, 0
    while not _done(memory, stale, settings):
        generation += 1
        belief = _refit(surrogate, memory, len(space.genes))
        best = _best_point(memory, start[None])
        peaks = _peaks(space, belief, best, settings, 100 + 2 * generation)
        proposed = np.array([_round(space, p) for p in strategy.ask()])
        order = np.argsort(-belief.mean(proposed), kind="stable")
        room = settings.max_evaluations - len(memory.points)
        asked = _unknown(memory, [*peaks, *proposed[order]])
        asked = asked[: min(settings.top_k, room)]
        if not asked:
            break
        before = memory.best()
        yield from _measure(memory, generation, np.array(asked), belief)
        stale = 0 if memory.best() > before else stale + 1
        learnt = _refit(surrogate, memory, len(space.genes))
        told = np.vstack([proposed, *(p[None] for p in peaks)])
        strategy.tell(list(told), [-_known(memory, p, learnt) for p in told])
    return memory


def _peaks(
    space: Space, belief: Belief, best: Array, settings: SearchSettings, salt: int
) -> list[Array]:
    """Return the optima of a belief's mean and of its hope."""
    return [
        _round(space, maximise(value, best, settings, salt + i)[0])
        for i, value in enumerate((belief.mean, belief.hopeful))
    ]


def _refit(surrogate: Surrogate, memory: Memory, size: int) -> Belief:
    points, scores = memory.valid()
    return surrogate(points.reshape(len(scores), size), scores)


def _measure(memory: Memory, generation: int, points: Array, belief: Belief) -> Driver:
    expected = belief.mean(points)
    scores = yield Ask(generation, points, expected)
    memory.points.extend(points)
    memory.scores.extend(scores)
    return memory


def _done(memory: Memory, stale: int, settings: SearchSettings) -> bool:
    spent = len(memory.points) >= settings.max_evaluations
    return spent or bool(settings.patience and stale >= settings.patience)


def _round(space: Space, point: Array) -> Array:
    return space.encode(space.decode(point))


def _unknown(memory: Memory, points: Sequence[Array]) -> list[Array]:
    fresh = Memory()
    for point in points:
        if not memory.knows(point) and not fresh.knows(point):
            fresh.points.append(point)
    return fresh.points


def _best_point(memory: Memory, otherwise: Array) -> Array:
    points, scores = memory.valid()
    best = points[int(np.argmax(scores))] if len(scores) else otherwise[0]
    return np.asarray(best)


def _known(memory: Memory, point: Array, belief: Belief) -> float:
    for other, score in zip(memory.points, memory.scores, strict=True):
        if np.array_equal(point, other):
            return score if score is not None else _WORST
    return float(belief.mean(point[None])[0])


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
