"""Phases 1 and 2: the proxy's optimum, then real merges until nothing is gained."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

import numpy as np

from mergekit_darwin.evolve.diagnose import Diagnosis
from mergekit_darwin.evolve.log import Evaluation
from mergekit_darwin.evolve.record import Record
from mergekit_darwin.ratios.genome import Genome, make_genome
from mergekit_darwin.search.breed import (
    Ask,
    Belief,
    Surrogate,
    breed,
    krige,
    rank_correlation,
)
from mergekit_darwin.search.cma import SearchSettings, maximise
from mergekit_darwin.search.proxy import (
    anchor_coordinates,
    anchor_features,
    coordinates,
    features,
    fit,
    prior_weights,
)
from mergekit_darwin.search.space import Array, Space

LOG = logging.getLogger("mergekit_darwin")
_LENGTH = 0.7  # of the kriging kernel, in coefficients; chosen in benchmarks/evolve.md


def make_surrogate(diagnosis: Diagnosis) -> Surrogate:
    """Return the proxy as the search takes it: refitted to whatever was measured.

    A ridge regression on the proxy's features, then kriging of what it misses in the
    coordinates of what a genome applies; base and parents are measured points too.
    """
    anchors, land, space = diagnosis.anchors, diagnosis.land, diagnosis.space
    prior, weights, noise = prior_weights(anchors), anchors.weights, diagnosis.noise
    family, places = anchor_features(land, anchors), anchor_coordinates(land)
    known = np.array([anchors.base, anchors.father, anchors.mother]) @ weights

    def embed(points: Array) -> Array:
        return coordinates(land, space.rows(points))

    def surrogate(points: Array, scores: Array) -> Belief:
        rows = np.vstack([family, features(land, anchors, space.rows(points))])
        measured = np.concatenate([known, scores])
        fitted = fit(rows, measured, prior, noise)
        return krige(
            lambda asked: features(land, anchors, space.rows(asked)) @ fitted,
            embed,
            np.vstack([places, embed(points)]),
            measured - rows @ fitted,
            noise=noise,
            length=_LENGTH,
        )

    return surrogate


def sensible(space: Space) -> dict[str, Genome]:
    """Return genomes worth a look before any search.

    Neutral; both task vectors whole (task arithmetic, or with the published genes the
    plain mean); TIES of both at 0.7; and the scan's own ratios at that scale.
    """
    plain = {"density_a": 1.0, "density_b": 1.0, "mri_trust": 0.0}
    whole, scanned = {**plain, "merge_method_weight": 0.0}, {**plain, "mri_trust": 1.0}
    if any(gene.name == "lambda" for gene in space.genes):
        whole["lambda"], plain["lambda"], scanned["lambda"] = 2.0, 1.4, 1.4
    return {
        "neutral": make_genome({}, space.blocks),
        "whole": make_genome(whole, space.blocks),
        "elected": make_genome(plain, space.blocks),
        "scanned": make_genome(scanned, space.blocks),
    }


def phase_one(record: Record, diagnosis: Diagnosis, settings: SearchSettings) -> Array:
    """Return the proxy's optimum, found without a merge, and log it."""
    space = diagnosis.space
    empty = np.empty((0, len(space.genes)))
    predict = make_surrogate(diagnosis)(empty, np.empty(0)).mean
    start = space.encode(make_genome({}, space.blocks))
    began = time.perf_counter()
    best, value, steps = maximise(predict, start, settings, 0)
    spent = time.perf_counter() - began
    LOG.info("Proxy: %d steps in %.1f s, best %.3f", steps, spent, value)
    name = f"optimum of {steps} steps"
    candidate = diagnosis.candidate(space.decode(best), name, value)
    record.note(candidate.line(record.next_index, "proxy", 0))
    return best


def breed_children(
    record: Record,
    diagnosis: Diagnosis,
    settings: SearchSettings,
    elapsed: Callable[[], float],
) -> list[Evaluation]:
    """Return the lines of all real evaluations; elapsed is the run's age in seconds."""
    peak = phase_one(record, diagnosis, settings)
    space = diagnosis.space
    first = [space.encode(genome) for genome in sensible(space).values()]
    search = breed(space, make_surrogate(diagnosis), [*first, peak], settings)
    lines: list[Evaluation] = []
    try:
        ask = next(search)
        while True:
            now = _generation(record, diagnosis, ask)
            lines += now
            over = settings.max_time is not None and elapsed() > settings.max_time
            if _stops(record, ask.generation, over):
                break
            ask = search.send([line.score for line in now])
    except StopIteration:
        pass
    LOG.info("Search ended after %d evaluations", len(lines))
    return lines


def _generation(record: Record, diagnosis: Diagnosis, ask: Ask) -> list[Evaluation]:
    candidates = [
        diagnosis.candidate(diagnosis.space.decode(point), proxy=float(value))
        for point, value in zip(ask.points, ask.expected, strict=True)
    ]
    lines = record.measure("real", candidates, ask.generation)
    best = max((line.score for line in lines if line.score is not None), default=None)
    LOG.info(
        "Generation %d: %d measured, best of it %s", ask.generation, len(lines), best
    )
    return lines


def _stops(record: Record, generation: int, over: bool) -> bool:
    """Return whether max_time is over; the decision is logged, a replay repeats it."""
    logged = record.log.lines.get(record.next_index)
    if not (over if logged is None else logged.phase == "stop"):
        return False
    record.note(
        Evaluation(
            index=record.next_index,
            phase="stop",
            generation=generation,
            name="max_time",
        )
    )
    LOG.info("max_time is over: the search ends here")
    return True


def best_of(lines: Sequence[Evaluation]) -> Evaluation:
    """Return the line with the highest score, the earliest among equals."""
    known = [line for line in lines if line.score is not None]
    return max(known, key=lambda line: (line.score or 0.0, -line.index))


def choose(diagnosis: Diagnosis, lines: Sequence[Evaluation]) -> Evaluation:
    """Return the measured child of which most is expected, all measurements considered.

    The highest score is mostly the luckiest; what the surrogate, fitted to all of them,
    expects of each measured genome has that luck smoothed out of it. One that would be
    a parent, bit for bit, is no child.
    """
    known = [line for line in lines if line.score is not None]
    known = [line for line in known if diagnosis.twin(line.made_of) is None] or known
    points = np.array([diagnosis.space.encode(line.made_of) for line in known])
    scores = np.array([line.score for line in known])
    smoothed = make_surrogate(diagnosis)(points, scores).mean(points)
    return known[int(np.argmax(smoothed))]


def random_search(
    record: Record, diagnosis: Diagnosis, count: int, seed: int
) -> Evaluation:
    """Return the best of `count` uniform random genomes, measured on search items."""
    space = diagnosis.space
    points = np.random.RandomState([seed, 99]).rand(count, len(space.genes))
    candidates = [
        diagnosis.candidate(space.decode(point), name=f"random {i}")
        for i, point in enumerate(points)
    ]
    return best_of(record.measure("baseline", candidates))


def proxy_quality(lines: Sequence[Evaluation]) -> float | None:
    """Return the rank correlation of what was expected and what was measured."""
    pairs = [
        (line.proxy, line.score)
        for line in lines
        if line.score is not None and line.proxy is not None
    ]
    return rank_correlation([p for p, _ in pairs], [s for _, s in pairs])
