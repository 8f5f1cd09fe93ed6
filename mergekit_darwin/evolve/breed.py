"""Phases 1 and 2: the proxy's optimum, then real merges until nothing is gained."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import numpy as np

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.evolve.context import Run, measure, note
from mergekit_darwin.evolve.diagnose import Diagnosis, subject_of
from mergekit_darwin.evolve.log import Evaluation
from mergekit_darwin.ratios.genome import Genome, extended_genes, make_genome
from mergekit_darwin.search import (
    Array,
    Ask,
    Belief,
    SearchOptions,
    Space,
    Surrogate,
    breed,
    krige,
    maximise,
    rank_correlation,
)
from mergekit_darwin.search.proxy import (
    anchor_coordinates,
    anchor_features,
    coordinates,
    features,
    fit,
    prior_weights,
)

LOG = logging.getLogger("mergekit_darwin")
_LENGTH = 0.7  # of the kriging kernel, in coefficients; chosen in benchmarks/evolve.md


def make_surrogate(found: Diagnosis) -> Surrogate:
    """Return the proxy as the search takes it: refitted to whatever was measured.

    A ridge regression on the proxy's features, then kriging of what it misses in the
    coordinates of what a genome applies; base and parents are measured points too.
    """
    anchors, land, space = found.anchors, found.land, found.space
    prior, weights = prior_weights(anchors), anchors.weights
    family, places = anchor_features(land, anchors), anchor_coordinates(land)
    known = np.array(
        [(weights * s).sum() for s in (anchors.base, anchors.father, anchors.mother)]
    )

    def embed(points: Array) -> Array:
        return coordinates(land, space.rows(points))

    def surrogate(points: Array, scores: Array) -> Belief:
        rows = np.vstack([family, features(land, anchors, space.rows(points))])
        measured = np.concatenate([known, scores])
        fitted = fit(rows, measured, prior, found.noise)

        def trend(asked: Array) -> Array:
            return _dot(features(land, anchors, space.rows(asked)), fitted)

        return krige(
            trend,
            embed,
            np.vstack([places, embed(points)]),
            measured - _dot(rows, fitted),
            noise=found.noise,
            length=_LENGTH,
        )

    return surrogate


def _dot(rows: Array, weights: Array) -> Array:
    """Return rows [N, F] times weights [F], summed in one order whatever the BLAS."""
    return np.asarray((rows * weights).sum(axis=1))


def sensible(space: Space) -> dict[str, Genome]:
    """Return genomes worth a look before any search.

    Neutral; both task vectors whole (task arithmetic, or with the published genes the
    plain mean); TIES of both at 0.7; and the scan's own ratios at that scale.
    """
    names = {gene.name for gene in space.genes}
    whole = {"density_a": 1.0, "density_b": 1.0, "mri_trust": 0.0}
    whole |= {"merge_method_weight": 0.0}
    scanned = {"density_a": 1.0, "density_b": 1.0, "mri_trust": 1.0}
    elected = {"density_a": 1.0, "density_b": 1.0, "mri_trust": 0.0}
    if "lambda" in names:
        whole["lambda"], elected["lambda"], scanned["lambda"] = 2.0, 1.4, 1.4
    return {
        "neutral": make_genome({}, space.blocks),
        "whole": make_genome(whole, space.blocks),
        "elected": make_genome(elected, space.blocks),
        "scanned": make_genome(scanned, space.blocks),
    }


def phase_one(run: Run, found: Diagnosis, options: SearchOptions) -> Array:
    """Return the proxy's optimum, found without a merge, and log it."""
    surrogate = make_surrogate(found)
    empty = np.empty((0, len(found.space.genes)))
    predict = surrogate(empty, np.empty(0)).mean
    start = found.space.encode(make_genome({}, found.space.blocks))
    began = time.perf_counter()
    best, value, steps = maximise(predict, start, options, 0)
    spent = time.perf_counter() - began
    LOG.info("Proxy: %d steps in %.1f s, best %.3f", steps, spent, value)
    genome = found.space.decode(best)
    note(
        run,
        Evaluation(
            index=run.next_index,
            phase="proxy",
            generation=0,
            name=f"optimum of {steps} steps",
            genome=dict(genome.values),
            genome_hash=subject_of(found.common, genome).digest,
            proxy=value,
        ),
    )
    return best


def breed_children(
    run: Run, found: Diagnosis, elapsed: Callable[[], float]
) -> list[Evaluation]:
    """Return the lines of all real evaluations; elapsed is the run's age in seconds.

    Raises DarwinError if nothing works, with the first reason.
    """
    options = run.config.search.options(found.noise)
    peak = phase_one(run, found, options)
    first = [found.space.encode(g) for g in sensible(found.space).values()]
    search = breed(found.space, make_surrogate(found), [*first, peak], options)
    lines: list[Evaluation] = []
    try:
        ask = next(search)
        while True:
            lines += _generation(run, found, ask)
            _check_alive(lines)
            if _out_of_time(run, ask.generation, elapsed):
                break
            ask = search.send([line.score for line in lines[-len(ask.points) :]])
    except StopIteration:
        pass
    LOG.info("Search ended after %d evaluations", len(lines))
    return lines


def _generation(run: Run, found: Diagnosis, ask: Ask) -> list[Evaluation]:
    subjects = [
        subject_of(found.common, found.space.decode(point), proxy=float(value))
        for point, value in zip(ask.points, ask.expected, strict=True)
    ]
    lines = measure(run, "real", ask.generation, "search", subjects)
    scores = [line.score for line in lines if line.score is not None]
    if scores:
        LOG.info(
            "Generation %d: %d measured, best of it %.4f",
            ask.generation,
            len(lines),
            max(scores),
        )
    return lines


def _check_alive(lines: list[Evaluation]) -> None:
    if all(line.score is None for line in lines):
        raise DarwinError(
            f"At least one child must be measurable; all {len(lines)} failed, the first"
            f" with: {lines[0].error}"
        )


def _out_of_time(run: Run, generation: int, elapsed: Callable[[], float]) -> bool:
    """Return whether max_time is over; the decision is logged, a replay repeats it."""
    limit = run.config.search.max_time
    logged = run.log.lines.get(run.next_index)
    if logged is not None:
        stop = logged.phase == "stop"
    else:
        stop = limit is not None and elapsed() > limit
    if stop:
        line = Evaluation(
            index=run.next_index, phase="stop", generation=generation, name="max_time"
        )
        note(run, line)
        LOG.info("max_time is over: the search ends here")
    return stop


def best_of(lines: list[Evaluation]) -> Evaluation:
    """Return the line with the highest score, the earliest among equals."""
    known = [line for line in lines if line.score is not None]
    return max(known, key=lambda line: (line.score or 0.0, -line.index))


def choose(found: Diagnosis, lines: list[Evaluation]) -> Evaluation:
    """Return the measured child of which most is expected, all measurements considered.

    The highest score is mostly the luckiest; what the surrogate, fitted to all of them,
    expects of each measured genome has that luck smoothed out of it.
    """
    known = [line for line in lines if line.score is not None]
    points = np.array([found.space.encode(genome_of(line)) for line in known])
    scores = np.array([line.score for line in known])
    smoothed = make_surrogate(found)(points, scores).mean(points)
    return known[int(np.argmax(smoothed))]


def genome_of(line: Evaluation) -> Genome:
    """Return the genome of a line."""
    values = line.genome or {}
    blocks = len(values) - len(extended_genes(1)) + 1
    return make_genome(values, blocks)


def proxy_quality(lines: list[Evaluation]) -> float | None:
    """Return the rank correlation of what was expected and what was measured."""
    pairs = [
        (line.proxy, line.score)
        for line in lines
        if line.score is not None and line.proxy is not None
    ]
    return rank_correlation([p for p, _ in pairs], [s for _, s in pairs])
