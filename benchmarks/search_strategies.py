"""Which search finds most with a fixed number of real merges: proxy, lq-CMA-ES, plain.

    python benchmarks/search_strategies.py [--seeds 1 2 3] [--evaluations 32]

On the tiny family: every evaluation is a real darwin_v6 merge, in memory, scored by
lm-evaluation-harness on the first --items of each task. All strategies begin with the
same candidates. Scores are cached in a JSONL file (--cache), so that a run can go on.
Prints a Markdown row a strategy and seed.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

import numpy as np

from mergekit_darwin.evolve.breed import make_surrogate, sensible
from mergekit_darwin.evolve.diagnose import Diagnosis, diagnose
from mergekit_darwin.evolve.options import RunOptions
from mergekit_darwin.evolve.pools import SerialPool
from mergekit_darwin.evolve.reading import read_config
from mergekit_darwin.evolve.record import Record
from mergekit_darwin.evolve.workers import Worker
from mergekit_darwin.ratios.genome import Genome, make_genome
from mergekit_darwin.search.breed import breed, rank_correlation
from mergekit_darwin.search.cma import SearchSettings, make_cma, maximise
from mergekit_darwin.search.space import Array

ROOT = Path(__file__).parent.parent


def with_proxy(found: Diagnosis, first: list[Array], settings: Any) -> Iterator[Any]:
    """What evolve does: the surrogate chooses who is measured."""
    yield from breed(found.space, make_surrogate(found), first, settings)


def without(found: Diagnosis, first: list[Array], settings: Any) -> Iterator[Any]:
    """Plain CMA-ES from the best of the first."""
    yield from _cma(found, first, settings, None)


def with_lq(found: Diagnosis, first: list[Array], settings: Any) -> Iterator[Any]:
    """CMA-ES with pycma's linear-quadratic model choosing who is measured."""
    from cma.fitness_models import LQModel

    model = LQModel()
    model.settings.max_absolute_size = 1000
    yield from _cma(found, first, settings, model)


def _cma(found: Diagnosis, first: list[Array], settings: Any, model: Any) -> Any:
    space = found.space

    def rounded(points: Any) -> Array:
        return np.array([space.encode(space.decode(point)) for point in points])

    points = rounded(first)
    scores = list((yield Points(points)))
    _learn(model, points, scores)
    strategy = make_cma(points[int(np.argmax(scores))], settings.sigma0, settings, 1)
    while len(scores) < settings.max_evaluations:
        raw = np.array(strategy.ask())
        if model is not None and model.size > 1:
            raw = raw[np.argsort([model.eval(x) for x in raw], kind="stable")]
        room = settings.max_evaluations - len(scores)
        points = rounded(raw)
        count = min(settings.top_k if model else len(raw), room)
        now = yield Points(points[:count])
        _learn(model, points[:count], now)
        scores += now
        rest = [float(model.eval(x)) if model else 1e9 for x in points[count:]]
        strategy.tell(list(raw), [*(-score for score in now), *rest])
        if model is not None and model.size > 2:
            strategy.inject([model.xopt])


def _learn(model: Any, points: Array, scores: list[float]) -> None:
    if model is not None:
        for point, score in zip(points, scores, strict=True):
            model.add_data_row(point, -score)
        model.sort(len(scores))


@dataclass(frozen=True)
class Points:
    """What a search without a surrogate asks for; it expects nothing."""

    points: Array

    @property
    def expected(self) -> Array:
        """Zeros, which correlate with nothing."""
        return np.zeros(len(self.points))


STRATEGIES = {"proxy": with_proxy, "lq": with_lq, "plain": without}


def one_search(
    found: Diagnosis, strategy: str, settings: SearchSettings, score: Any
) -> None:
    """Run one search and print its row."""
    surrogate, space = make_surrogate(found), found.space
    empty = surrogate(np.empty((0, len(space.genes))), np.empty(0))
    start = space.encode(make_genome({}))
    peak, _, _ = maximise(empty.mean, start, settings, 0)
    first = [*(space.encode(g) for g in sensible(space).values()), peak]
    search: Any = STRATEGIES[strategy](found, first, settings)
    scores: list[float] = []
    expected: list[float] = []
    ask = next(search)
    try:
        while True:
            now = [score(space.decode(point)) for point in ask.points]
            scores += now
            expected += list(ask.expected)
            ask = search.send(now)
    except StopIteration:
        pass
    best = np.maximum.accumulate(scores)
    marks = [best[min(n, len(best)) - 1] for n in (5, 12, 20, 28, len(best))]
    rho = rank_correlation(expected, scores)
    cells = " | ".join(f"{value:.4f}" for value in marks)
    shown = "-" if rho is None else f"{rho:.2f}"
    print(f"| {strategy} | {settings.seed} | {cells} | {shown} |", flush=True)


def main() -> None:
    """Run every strategy with every seed and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--evaluations", type=int, default=32)
    parser.add_argument("--items", type=int, default=80)
    parser.add_argument("--strategies", nargs="+", default=list(STRATEGIES))
    parser.add_argument("--cache", type=Path, default=Path("search_strategies.jsonl"))
    given = parser.parse_args()
    config = read_config(ROOT / "examples" / "evolve.yml")
    config = config.model_copy(update={"limit": given.items})
    known: dict[str, float] = {}
    if given.cache.exists():
        known = dict(json.loads(line) for line in given.cache.open())
    with tempfile.TemporaryDirectory() as folder:
        options = RunOptions(in_memory=True, num_threads=1, batch_size="256")
        worker = Worker(config, options, folder)
        digests = {part: tasks.digest for part, tasks in worker.tasks.items()}
        record = Record(Path(folder), SerialPool(worker), digests)
        found = diagnose(config, Path(folder), record, worker)

        def score(genome: Genome) -> float:
            child = found.candidate(genome)
            if child.name not in known:
                line = worker.measure(child, child.line(0, "real", 0), "search")
                known[child.name] = line.score or 0.0
                with given.cache.open("a") as stream:
                    stream.write(json.dumps([child.name, known[child.name]]) + "\n")
            return known[child.name]

        print("| strategy | seed | 5 | 12 | 20 | 28 | all | rank correlation |")
        print("| --- | --- | --- | --- | --- | --- | --- | --- |")
        for seed in given.seeds:
            for strategy in given.strategies:
                settings = SearchSettings(
                    seed=seed, max_evaluations=given.evaluations, patience=0
                )
                one_search(found, strategy, settings, score)


if __name__ == "__main__":
    main()
