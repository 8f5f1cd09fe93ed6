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
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

import numpy as np

from mergekit_darwin.evolve.breed import make_surrogate, sensible
from mergekit_darwin.evolve.config import EvolveConfig, read_config
from mergekit_darwin.evolve.diagnose import (
    Diagnosis,
    make_recipe,
    scan_parents,
    subject_of,
)
from mergekit_darwin.evolve.workers import Bench, Job, Worker
from mergekit_darwin.ratios.genome import Genome, make_genome
from mergekit_darwin.search import (
    SearchOptions,
    breed,
    make_space,
    maximise,
    rank_correlation,
)
from mergekit_darwin.search.proxy import Anchors, landscape

ROOT = Path(__file__).parent.parent


def family_scores(worker: Worker, config: EvolveConfig) -> Any:
    """Return scores a task [3, K] of base, father and mother, and half an error."""
    rows, errors = [], []
    for model in (config.base_model, config.father, config.mother):
        marks = worker.measure(Job(0, "family", "search", model=model)).marks
        if marks is None:
            raise SystemExit(f"{model} cannot be measured")
        values = [marks.tasks[paper.name] for paper in worker.exams["search"].papers]
        rows.append([float(next(iter(value.values())) or 0.0) for value in values])
        errors.append(marks.stderr or 0.02)
    return np.array(rows), 0.5 * float(np.mean(errors))


def prepare(config: EvolveConfig, worker: Worker, folder: Path) -> Diagnosis:
    """Return what the search starts from: scan, anchors, space."""
    exam = worker.exams["search"]
    report = scan_parents(config, exam, worker, folder)
    (base, father, mother), noise = family_scores(worker, config)
    weights = np.array([paper.weight for paper in exam.papers])
    return Diagnosis(
        report=report,
        mri="attribution",
        recipe=make_recipe(config, report, str(folder), "attribution"),
        space=make_space("extended", 6),
        land=landscape(report, "attribution", [p.name for p in exam.papers], 6),
        anchors=Anchors(base, father, mother, weights),
        noise=noise,
    )


def one_search(found: Diagnosis, options: SearchOptions, score: Any) -> list[float]:
    """Return the scores of one search, in order, and print its row."""
    surrogate, space = make_surrogate(found), found.space
    empty = surrogate(np.empty((0, len(space.genes))), np.empty(0))
    start = space.encode(make_genome({}))
    peak, _, _ = maximise(empty.mean, start, options, 0)
    first = [*(space.encode(g) for g in sensible(space).values()), peak]
    search = breed(space, surrogate, first, options)
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
    print(f"| {options.strategy} | {options.seed} | {cells} | {shown} |", flush=True)
    return scores


def main() -> None:
    """Run every strategy with every seed and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--evaluations", type=int, default=32)
    parser.add_argument("--items", type=int, default=80)
    parser.add_argument("--strategies", nargs="+", default=["proxy", "lq", "plain"])
    parser.add_argument("--cache", type=Path, default=Path("search_strategies.jsonl"))
    given = parser.parse_args()
    config = read_config(ROOT / "examples" / "evolve.yml")
    config = config.model_copy(update={"limit": given.items})
    known: dict[str, float] = {}
    if given.cache.exists():
        known = dict(json.loads(line) for line in given.cache.open())
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(config, folder, in_memory=True, num_threads=1, batch_size="256")
        worker = Worker(bench)
        found = prepare(config, worker, Path(folder) / "mds")

        def score(genome: Genome) -> float:
            subject = subject_of(found.recipe, genome)
            digest = str(subject.digest)
            if digest not in known:
                job = Job(0, "child", "search", recipe=subject.recipe)
                marks = worker.measure(job).marks
                known[digest] = marks.score if marks is not None else 0.0
                with given.cache.open("a") as stream:
                    stream.write(json.dumps([digest, known[digest]]) + "\n")
            return known[digest]

        print("| strategy | seed | 5 | 12 | 20 | 28 | all | rank correlation |")
        print("| --- | --- | --- | --- | --- | --- | --- | --- |")
        for seed in given.seeds:
            for strategy in given.strategies:
                options = SearchOptions(
                    seed=seed,
                    strategy=strategy,
                    max_evaluations=given.evaluations,
                    patience=0,
                    noise=found.noise,
                )
                one_search(found, options, score)


if __name__ == "__main__":
    main()
