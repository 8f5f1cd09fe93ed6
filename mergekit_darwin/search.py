"""The search: CMA-ES over unit coordinates, and a surrogate that learns as it goes.

Knows no models and no files: whoever drives it measures what it asks for. Everything is
a pure function of the seed and of the scores it was told, so a replay of the same
scores asks for the same candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import cma
import numpy as np
import numpy.typing as npt

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.genome import (
    Gene,
    Genome,
    extended_genes,
    make_genome,
    published_genes,
)

Array = npt.NDArray[np.float64]
Predictor = Callable[[Array], Array]
Strategy = Literal["proxy", "lq", "plain"]

_DIGITS = 6  # decimals of a gene: what the YAML shows is what was measured
_WORST = -1e9
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


@dataclass(frozen=True)
class Space:
    """The free genes, each mapped from its search interval to [0, 1]."""

    genes: tuple[Gene, ...]
    blocks: int

    def decode(self, point: Array) -> Genome:
        """Return the genome at a point of [0, 1]^n, genes rounded to 6 decimals."""
        values = {}
        for gene, unit in zip(self.genes, point, strict=True):
            low, high = gene.search
            value = low + float(min(max(unit, 0.0), 1.0)) * (high - low)
            values[gene.name] = round(value, _DIGITS)
        return make_genome(values, self.blocks)

    def encode(self, genome: Genome) -> Array:
        """Return the point of a genome; values outside the interval meet its end."""
        units = [
            (genome[gene.name] - gene.search[0]) / (gene.search[1] - gene.search[0])
            for gene in self.genes
        ]
        return np.clip(np.array(units), 0.0, 1.0)

    def rows(self, points: Array) -> Array:
        """Return all genes of extended_genes for points [N, n], as [N, G]."""
        known = extended_genes(self.blocks)
        column = {gene.name: i for i, gene in enumerate(known)}
        rows = np.tile([gene.neutral for gene in known], (len(points), 1))
        for i, gene in enumerate(self.genes):
            low, high = gene.search
            value = low + np.clip(points[:, i], 0.0, 1.0) * (high - low)
            rows[:, column[gene.name]] = np.round(value, _DIGITS)
        return rows


def make_space(kind: Literal["published", "extended"], blocks: int) -> Space:
    """Return the space of the published genes, or of those and lambda."""
    genes = extended_genes if kind == "extended" else published_genes
    return Space(genes(blocks), blocks)


@dataclass(frozen=True)
class SearchOptions:
    """How to search: seed >= 1; sigma0 in units of the search intervals.

    popsize 0 means pycma's own; top_k of a generation are measured; patience counts
    generations without a better score (0: never stop early).
    """

    seed: int = 1
    sigma0: float = 0.2
    popsize: int = 0
    proxy_steps: int = 200
    top_k: int = 4
    patience: int = 5
    max_evaluations: int = 48
    strategy: Strategy = "proxy"
    noise: float = 0.02


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
    expected: list[float] = field(default_factory=list)

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


def make_cma(start: Array, sigma: float, options: SearchOptions, salt: int) -> Any:
    """Return a bounded pycma strategy with a random stream of its own.

    pycma's `seed` would reseed NumPy's global stream (and 0 would mean the clock), so
    the stream is handed over instead and the global one stays untouched.
    """
    if options.seed < 1:
        raise DarwinError(
            f"search.seed must be a whole number from 1 on; got {options.seed}."
            " (0 would mean the clock.)"
        )
    stream = np.random.RandomState([options.seed, salt])
    settings: dict[str, Any] = {
        "bounds": [0.0, 1.0],
        "randn": stream.randn,
        "seed": np.nan,
        "verbose": -9,
        "verb_log": 0,
        "CMA_injections_threshold_keep_len": 1,
    }
    if options.popsize:
        settings["popsize"] = options.popsize
    inside = np.clip(start, 0.01, 0.99)
    return cma.CMAEvolutionStrategy(inside, sigma, settings)


def maximise(
    value: Predictor, start: Array, options: SearchOptions, salt: int
) -> tuple[Array, float, int]:
    """Return the best point CMA-ES finds, its value, and the steps taken.

    value maps points [N, n] to [N]. A stopped run starts again elsewhere, until
    proxy_steps steps are done.
    """
    best, best_value = start, float(value(start[None])[0])
    stream = np.random.RandomState([options.seed, salt, 7])
    steps = 0
    strategy = make_cma(start, options.sigma0, options, salt)
    while steps < options.proxy_steps:
        if strategy.stop():
            salt += 1000
            strategy = make_cma(stream.rand(len(start)), 0.3, options, salt)
        points = np.array(strategy.ask())
        values = value(points)
        strategy.tell(list(points), list(-values))
        top = int(np.argmax(values))
        if values[top] > best_value:
            best, best_value = points[top], float(values[top])
        steps += 1
    return best, best_value, steps


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
    kernel is squared-exponential; its deviation is twice the residuals' (at least twice the
    noise, a score's standard error). Source: kriging; constants our choice.
    """
    deviation = max(2.0 * float(np.sqrt(np.mean(residual**2))), 2.0 * noise)

    def kernel(left: Array, right: Array) -> Array:
        square = ((left[:, None, :] - right[None, :, :]) ** 2).sum(axis=2)
        return np.asarray(deviation**2 * np.exp(-0.5 * square / length**2))

    inverse = np.linalg.inv(kernel(known, known) + noise**2 * np.eye(len(known)))
    pull = (inverse * residual).sum(axis=1)

    def mean(points: Array) -> Array:
        return trend(points) + (kernel(embed(points), known) * pull).sum(axis=1)

    def spread(points: Array) -> Array:
        near = kernel(embed(points), known)
        explained = np.einsum("ni,ij,nj->n", near, inverse, near)
        return np.sqrt(np.maximum(deviation**2 - explained, 0.0))

    return Belief(mean, spread)


Driver = Generator[Ask, Sequence[float | None], Memory]


def breed(
    space: Space, surrogate: Surrogate, first: Sequence[Array], options: SearchOptions
) -> Driver:
    """Yield what to measure and take the scores (None: failed); return the memory.

    surrogate(points, scores) returns a belief fitted to what is known; first are
    points to measure before anything else, the proxy's optimum among them.
    """
    memory = Memory()
    belief = _refit(surrogate, memory, len(space.genes))
    points = _unknown(memory, [_round(space, p) for p in first])
    points = points[: options.max_evaluations]
    yield from _measure(memory, 0, np.array(points), belief)
    start = _best_point(memory, np.array(points))
    if options.strategy == "proxy":
        yield from _ranked(space, surrogate, memory, start, options)
    else:
        yield from _evolved(space, surrogate, memory, start, options)
    return memory


def _ranked(
    space: Space,
    surrogate: Surrogate,
    memory: Memory,
    start: Array,
    options: SearchOptions,
) -> Driver:
    """Measure the top k of each generation: two optima of the surrogate, then the best.

    The optima are those of its mean and of its hope; the rest are CMA-ES' candidates in
    the order of the mean. CMA-ES is told scores, or the mean where none was measured.
    """
    strategy = make_cma(start, options.sigma0, options, 1)
    generation, stale = 0, 0
    while not _done(memory, stale, options):
        generation += 1
        belief = _refit(surrogate, memory, len(space.genes))
        best = _best_point(memory, start[None])
        salt = 100 + 2 * generation
        peaks = [
            _round(space, maximise(value, best, options, salt + i)[0])
            for i, value in enumerate((belief.mean, belief.hopeful))
        ]
        points = np.array([_round(space, p) for p in strategy.ask()])
        order = np.argsort(-belief.mean(points), kind="stable")
        asked = _unknown(memory, [*peaks, *points[order]])
        room = options.max_evaluations - len(memory.points)
        asked = asked[: min(options.top_k, room)]
        if not asked:
            break
        before = memory.best()
        yield from _measure(memory, generation, np.array(asked), belief)
        stale = 0 if memory.best() > before else stale + 1
        learnt = _refit(surrogate, memory, len(space.genes))
        told = np.vstack([points, *(p[None] for p in peaks)])
        strategy.tell(list(told), [-_known(memory, p, learnt) for p in told])
    return memory


def _evolved(
    space: Space,
    surrogate: Surrogate,
    memory: Memory,
    start: Array,
    options: SearchOptions,
) -> Driver:
    """Plain CMA-ES, or with pycma's linear-quadratic model choosing who is measured."""
    strategy = make_cma(start, options.sigma0, options, 1)
    model = _lq_model(memory) if options.strategy == "lq" else None
    generation, stale = 0, 0
    while not _done(memory, stale, options):
        generation += 1
        raw = np.array(strategy.ask())
        before = memory.best()
        belief = _refit(surrogate, memory, len(space.genes))
        room = options.max_evaluations - len(memory.points)
        count = min(options.top_k if model else len(raw), room)
        if model is not None and model.size > 1:
            raw = raw[np.argsort([model.eval(x) for x in raw], kind="stable")]
        points = np.array([_round(space, p) for p in raw])
        yield from _measure(memory, generation, points[:count], belief)
        stale = 0 if memory.best() > before else stale + 1
        if model is not None:
            _learn(model, memory, count)
        strategy.tell(list(raw), [_told(memory, p, model) for p in points])
        if model is not None and model.size > 2:
            strategy.inject([model.xopt])
    return memory


def _lq_model(memory: Memory) -> Any:
    from cma.fitness_models import LQModel

    model = LQModel()
    model.settings.max_absolute_size = 1000
    _learn(model, memory, len(memory.points))
    return model


def _learn(model: Any, memory: Memory, count: int) -> None:
    for point, score in zip(
        memory.points[-count:], memory.scores[-count:], strict=True
    ):
        model.add_data_row(point, -(score if score is not None else _WORST))
    model.sort(count)


def _told(memory: Memory, point: Array, model: Any) -> float:
    for other, score in zip(memory.points, memory.scores, strict=True):
        if np.array_equal(point, other):
            return -(score if score is not None else _WORST)
    return float(model.eval(point)) if model is not None else -_WORST


def _refit(surrogate: Surrogate, memory: Memory, size: int) -> Belief:
    points, scores = memory.valid()
    return surrogate(points.reshape(len(scores), size), scores)


def _measure(memory: Memory, generation: int, points: Array, belief: Belief) -> Driver:
    expected = belief.mean(points)
    scores = yield Ask(generation, points, expected)
    memory.points.extend(points)
    memory.scores.extend(scores)
    memory.expected.extend(float(value) for value in expected)
    return memory


def _done(memory: Memory, stale: int, options: SearchOptions) -> bool:
    spent = len(memory.points) >= options.max_evaluations
    return spent or bool(options.patience and stale >= options.patience)


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
    return points[int(np.argmax(scores))] if len(scores) else otherwise[0]


def _known(memory: Memory, point: Array, belief: Belief) -> float:
    for other, score in zip(memory.points, memory.scores, strict=True):
        if np.array_equal(point, other):
            return score if score is not None else _WORST
    return float(belief.mean(point[None])[0])


def rank_correlation(left: Sequence[float], right: Sequence[float]) -> float | None:
    """Return Spearman's rank correlation, ties by mean rank; None where undefined."""
    if len(left) < 3:
        return None
    a, b = _ranks(np.array(left)), _ranks(np.array(right))
    a, b = a - a.mean(), b - b.mean()
    length = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum() / length) if length > 0.0 else None


def _ranks(values: Array) -> Array:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2.0)[inverse]
