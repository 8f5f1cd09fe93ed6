"""One command, start to end: scan, proxy, real merges, the child, the honest page."""

from __future__ import annotations

import logging
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mergekit_darwin.evolve.breed import (
    breed_children,
    choose,
    genome_of,
    proxy_quality,
)
from mergekit_darwin.evolve.card import write_card
from mergekit_darwin.evolve.config import EvolveConfig, check_benchmarks
from mergekit_darwin.evolve.context import Run, freeze, graceful
from mergekit_darwin.evolve.diagnose import Diagnosis, diagnose
from mergekit_darwin.evolve.finish import (
    Comparison,
    check_health,
    compare,
    make_final_model,
    random_search,
    write_best,
)
from mergekit_darwin.evolve.fitness import shared_items
from mergekit_darwin.evolve.log import LOG_NAME, Evaluation, EvaluationLog
from mergekit_darwin.evolve.pages import findings, heldout_table, write_report
from mergekit_darwin.evolve.progress import Progress, logging_to
from mergekit_darwin.evolve.workers import Bench, Pool, RayPool, SerialPool, Worker
from mergekit_darwin.files import locked

LOG = logging.getLogger("mergekit_darwin")


@dataclass(frozen=True)
class RunOptions:
    """What may change between two starts of one run without changing its result."""

    scratch: str | None = None
    strategy: Literal["serial", "ray"] = "serial"
    workers: int = 1
    gpus_per_worker: float = 0.0
    device: str = "cpu"
    eval_dtype: str = "auto"
    batch_size: str = "64"
    in_memory: bool = False
    trust_remote_code: bool = False
    random_search: bool = False
    allow_benchmarks: bool = False
    num_threads: int | None = None
    quiet: bool = False
    wandb: str | None = None


@dataclass(frozen=True)
class Finished:
    """What a run ended with."""

    folder: Path
    best: Evaluation
    table: Comparison
    health: Any
    rank_correlation: float | None


def evolve(
    config: EvolveConfig, folder: Path, options: RunOptions = RunOptions()
) -> Finished:
    """Run a breeding run in a folder, or go on with the one that is there.

    Raises DarwinError for what the user can repair, Interrupted after Ctrl-C.
    """
    benchmarks = check_benchmarks(config, options.allow_benchmarks)
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, "--storage-path"), logging_to(folder / "log.txt"):
        freeze(folder, config)
        bench = Bench(
            config=config,
            scratch=options.scratch or str(folder / "scratch"),
            device=options.device,
            eval_dtype=options.eval_dtype,
            batch_size=options.batch_size,
            in_memory=options.in_memory,
            trust_remote_code=options.trust_remote_code,
            progress=not options.quiet,
            num_threads=options.num_threads or _threads(),
        )
        worker = Worker(bench)
        _say_items(worker)
        pool = _pool(options, bench, worker)
        try:
            log = EvaluationLog(folder / LOG_NAME)
            run = Run(folder, config, log, pool, worker.exams)
            return _go(run, worker, options, benchmarks)
        finally:
            pool.close()


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def _pool(options: RunOptions, bench: Bench, worker: Worker) -> Pool:
    if options.strategy == "ray":
        return RayPool(bench, options.workers, options.gpus_per_worker)
    return SerialPool(worker)


def _say_items(worker: Worker) -> None:
    search, heldout = worker.exams["search"], worker.exams["heldout"]
    for name, exam in (("search", search), ("held-out", heldout)):
        count = sum(len(paper.indices) for paper in exam.papers)
        LOG.info("%s: %d items of %d tasks", name, count, len(exam.papers))
    both = shared_items(search, heldout)
    if both:
        LOG.warning(
            "%d held-out items are among the searched ones: the comparison is flattered"
            " by them. Hold out other items.",
            both,
        )


def _go(
    run: Run, worker: Worker, options: RunOptions, benchmarks: Sequence[str]
) -> Finished:
    began, earlier = time.monotonic(), _spent(run)
    if run.log.lines:
        LOG.info("Going on after %d logged lines", len(run.log.lines))
    with graceful(run), Progress(run, options) as progress:
        run.told = progress.tell
        found = diagnose(run, worker)
        lines = breed_children(run, found, lambda: earlier + time.monotonic() - began)
        best = choose(found, lines)
        genome = genome_of(best)
        write_best(run, found, genome)
        write_report(run, found, lines, genome, best, notes=_notes(run, benchmarks))
        rival = random_search(run, found, len(lines)) if options.random_search else None
        model = make_final_model(run, options.trust_remote_code)
        health = check_health(run, found, model, worker)
        table = compare(run, found, model, best, rival)
        _write_pages(run, found, lines, best, model, table, health, benchmarks)
    _say_end(table)
    quality = proxy_quality(lines)
    return Finished(run.folder, best, table, health, quality)


def _spent(run: Run) -> float:
    lines = run.log.lines.values()
    return sum((line.merge_s or 0.0) + (line.eval_s or 0.0) for line in lines)


def _notes(run: Run, benchmarks: Sequence[str]) -> list[str]:
    notes = []
    if benchmarks:
        notes.append(
            "The search was run on items of public benchmarks by name"
            f" ({', '.join(benchmarks)}), as --allow-benchmark-tasks permits: scores on"
            " them say nothing about the child."
        )
    both = shared_items(run.exams["search"], run.exams["heldout"])
    if both:
        notes.append(f"{both} held-out items are among the searched ones.")
    return notes


def _write_pages(
    run: Run,
    found: Diagnosis,
    lines: list[Evaluation],
    best: Evaluation,
    model: Path,
    table: Comparison,
    health: Any,
    benchmarks: Sequence[str],
) -> None:
    genome = genome_of(best)
    write_report(
        run,
        found,
        lines,
        genome,
        best,
        table=table,
        health=health,
        notes=_notes(run, benchmarks),
    )
    write_card(
        run,
        found,
        genome,
        best,
        model,
        table=table,
        health=health,
        benchmarks=benchmarks,
    )


def _say_end(table: Comparison) -> None:
    LOG.info("Held-out scores\n%s", heldout_table(table))
    for line in findings(table):
        LOG.info(line)


def go_on_hint(arguments: Sequence[str]) -> str:
    """Return how to continue a run that was stopped, from its command's arguments."""
    command = shlex.join(["mergekit-darwin-evolve", *arguments])
    return f"Stopped; everything measured is written down. Go on with:\n  {command}"


def with_overrides(config: EvolveConfig, **search: Any) -> EvolveConfig:
    """Return a config with some search settings replaced."""
    changes = {key: value for key, value in search.items() if value is not None}
    return config.model_copy(
        update={"search": config.search.model_copy(update=changes)}
    )
