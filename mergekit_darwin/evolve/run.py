"""One command, start to end: scan, proxy, real merges, the child, the honest page."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mergekit_darwin.errors import about
from mergekit_darwin.evolve.breed import breed_children, choose, random_search
from mergekit_darwin.evolve.card import write_card
from mergekit_darwin.evolve.check import check_all, check_machine, plan, try_items
from mergekit_darwin.evolve.config import EvolveConfig
from mergekit_darwin.evolve.diagnose import diagnose
from mergekit_darwin.evolve.finish import (
    Finished,
    check_health,
    compare,
    make_final_model,
    refit_merges,
    write_best,
)
from mergekit_darwin.evolve.folder import claim, freeze, is_begun, scratch_of
from mergekit_darwin.evolve.html import write_html
from mergekit_darwin.evolve.log import Evaluation
from mergekit_darwin.evolve.options import RunOptions
from mergekit_darwin.evolve.pages import findings, heldout_table, write_report
from mergekit_darwin.evolve.pools import RayPool, SerialPool
from mergekit_darwin.evolve.reading import check_benchmarks, with_overrides
from mergekit_darwin.evolve.record import Record
from mergekit_darwin.evolve.tasks import TaskSet, shared_samples
from mergekit_darwin.evolve.workers import Worker
from mergekit_darwin.locks import locked, regular

LOG = logging.getLogger("mergekit_darwin")


def evolve(
    config: EvolveConfig, folder: Path, options: RunOptions | None = None
) -> Finished:
    """Run a breeding run in a folder, or go on with the one that is there.

    Raises DarwinError for what the user can repair, Interrupted after Ctrl-C.
    """
    options = _with_threads(options or RunOptions())
    config = with_overrides(config, options)
    benchmarks = check_benchmarks(config, options.allow_benchmark_tasks)
    check_machine(config, options)
    folder = folder.resolve()
    claim(folder)
    with locked(folder, "--storage-path"), _logging_to(folder / "log.txt"):
        begun = is_begun(folder)
        if begun:
            freeze(folder, config)
        worker = Worker(config, options, scratch_of(folder, options.scratch))
        check_all(worker, folder)
        if not begun:
            try_items(worker)
            freeze(folder, config)
        notes = _notes(worker, benchmarks)
        pool = RayPool(worker) if options.strategy == "ray" else SerialPool(worker)
        try:
            digests = {part: tasks.digest for part, tasks in worker.tasks.items()}
            record = Record(folder, pool, digests)
            with record.graceful(), _telling(record, config, options):
                return _go(folder, record, worker, notes)
        finally:
            pool.close()


def check(config: EvolveConfig, options: RunOptions) -> Iterator[str]:
    """Yield what is known of a run before it begins, everything checked.

    The Father is scored on ten items of every task. Raises DarwinError for whatever
    would stop the run.
    """
    options = _with_threads(options)
    config = with_overrides(config, options)
    check_benchmarks(config, options.allow_benchmark_tasks)
    check_machine(config, options)
    with tempfile.TemporaryDirectory() as scratch:
        yield from plan(Worker(config, options, options.scratch or scratch))


def _with_threads(options: RunOptions) -> RunOptions:
    import torch

    return replace(options, num_threads=options.num_threads or torch.get_num_threads())


def _notes(worker: Worker, benchmarks: Sequence[str]) -> tuple[str, ...]:
    """Return what a reader of the results must know first."""
    notes = []
    if benchmarks:
        notes.append(
            "The search was run on items of public benchmarks by name"
            f" ({', '.join(benchmarks)}), as --allow-benchmark-tasks permits: scores on"
            " them say nothing about the child."
        )
    search, heldout = worker.tasks["search"], worker.tasks["heldout"]
    for name, tasks in (("search", search), ("held-out", heldout)):
        LOG.info("%s: %d items of %d tasks", name, tasks.count, len(tasks.tasks))
    both = shared_samples(search, heldout)
    if both:
        notes.append(
            f"{both} held-out items are among the searched ones: the comparison is"
            " flattered by them. Hold out other items."
        )
        LOG.warning(notes[-1])
    return tuple(notes)


def _go(
    folder: Path, record: Record, worker: Worker, notes: tuple[str, ...]
) -> Finished:
    config, options = worker.config, worker.options
    began, earlier = time.monotonic(), record.seconds
    if record.log.lines:
        LOG.info("Going on after %d logged lines", len(record.log.lines))
    diagnosis = diagnose(config, folder, record, worker)
    lines = breed_children(
        record, diagnosis, config.search, lambda: earlier + time.monotonic() - began
    )
    best = choose(diagnosis, lines)
    tasks: TaskSet = worker.tasks["search"]
    run = Finished(folder, config, tasks, diagnosis, tuple(lines), best, notes)
    write_best(run)
    write_report(run)
    rival = None
    if options.random_search:
        rival = random_search(record, diagnosis, len(lines), config.search.seed)
    if config.refits:
        run = refit_merges(run, record, worker)
    make_final_model(run, options.trust_remote_code)
    run = compare(check_health(run, worker), record, worker.tasks["heldout"], rival)
    write_report(run)
    write_html(run)
    write_card(run)
    record.say_unused()
    _say_end(run)
    return run


def _say_end(run: Finished) -> None:
    if run.table is not None:
        LOG.info("Held-out scores\n%s", heldout_table(run.table))
        for line in findings(run.table):
            LOG.info(line)


@contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    """Write everything that is said into a file as well."""
    handler = logging.FileHandler(regular(path), encoding="utf-8")
    form = "%(asctime)s %(levelname)s %(message)s"
    handler.setFormatter(logging.Formatter(form))
    before = LOG.level
    if LOG.getEffectiveLevel() > logging.INFO:
        LOG.setLevel(logging.INFO)
    LOG.addHandler(handler)
    try:
        yield
    finally:
        LOG.removeHandler(handler)
        LOG.setLevel(before)
        handler.close()


@contextmanager
def _telling(
    record: Record, config: EvolveConfig, options: RunOptions
) -> Iterator[None]:
    """Tell of each new line: a bar over the real evaluations, and wandb beside it."""
    project = _start_wandb(config, options.wandb_project) if options.wandb else None
    real = [line for line in record.log.lines.values() if line.phase == "real"]
    bar = tqdm(
        total=config.search.max_evaluations,
        initial=len(real),  # the time to go counts only what is measured now
        desc="evaluations",
        disable=options.quiet,
        dynamic_ncols=True,
    )
    best = max((line.score for line in real if line.score is not None), default=None)

    def tell(line: Evaluation) -> None:
        nonlocal best
        LOG.debug("%s", line.model_dump_json())
        score = "failed" if line.score is None else f"{line.score:.4f}"
        LOG.info("%s %s: %s", line.phase, line.name, score)
        if line.phase == "real":
            known = [value for value in (best, line.score) if value is not None]
            best = max(known, default=None)
            bar.update(1)
            bar.set_postfix(best=best)
        if project is not None:
            shown = {"score": line.score, "best_score": best, "proxy": line.proxy}
            shown |= {f"genome/{k}": v for k, v in (line.genome or {}).items()}
            project.log({"phase": line.phase, **shown}, step=line.index)

    record.told = tell
    try:
        yield
    finally:
        bar.close()
        if project is not None:
            project.finish()


def _start_wandb(config: EvolveConfig, project: str) -> Any:
    with about("--wandb needs wandb", "pip install 'mergekit-darwin[wandb]'"):
        import wandb
    return wandb.init(project=project, config=config.model_dump(mode="json"))
