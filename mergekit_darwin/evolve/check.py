"""What a config can get wrong, found before anything slow begins."""

from __future__ import annotations

import math
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from mergekit.common import dtype_from_name

from mergekit_darwin.errors import DarwinError, about, reason
from mergekit_darwin.evolve.config import EvolveConfig
from mergekit_darwin.evolve.options import RunOptions
from mergekit_darwin.evolve.refits import given_texts
from mergekit_darwin.evolve.tasks import TaskSet
from mergekit_darwin.evolve.workers import Worker
from mergekit_darwin.merge.checks import check_keys
from mergekit_darwin.merge.headers import fit_of
from mergekit_darwin.merge.roles import Roles
from mergekit_darwin.merge.settings import MergeSettings
from mergekit_darwin.merge.yaml import Common, genome_yaml, parse
from mergekit_darwin.models.checkpoint import Checkpoint, open_checkpoint
from mergekit_darwin.models.checks import check_dtypes
from mergekit_darwin.models.harness import check_kind
from mergekit_darwin.models.opened import check_device
from mergekit_darwin.models.opened import read_config as model_config
from mergekit_darwin.ratios.genome import make_genome
from mergekit_darwin.scan.report import check_identity, read_report

_ROOM = 1.1  # of what tensors alone take: config, tokenizer, logs


@dataclass(frozen=True)
class Trial:
    """The Father's score on a few items; seconds that a load and an item take."""

    score: float
    items: int
    load_s: float
    item_s: float


def check_machine(config: EvolveConfig, options: RunOptions) -> None:
    """Refuse a device, a batch size, a type or a kind of model that is not there.

    Raises DarwinError.
    """
    check_device(options.device)
    if not re.fullmatch(r"[1-9]\d*|auto(:\d+)?", options.batch_size):
        raise DarwinError(
            "--batch-size must be a whole number from 1 on, or auto; got"
            f" {options.batch_size!r}."
        )
    check_dtypes(config)
    check_kind(config.model_type)


def check_models(config: EvolveConfig, worker: Worker) -> dict[str, Checkpoint]:
    """Refuse models that cannot be merged, and a report or tokenizer not of theirs.

    From configs and headers alone. Returns Father, Mother and base by role. Raises
    DarwinError.
    """
    names = {"father": config.father, "mother": config.mother}
    if config.third_base:
        names["base"] = config.third_base
    models = {
        role: open_checkpoint(name, worker.merging) for role, name in names.items()
    }
    check_keys({"tokenizer": config.tokenizer})
    roles = Roles(config.base_model or config.father, config.father, config.mother)
    settings = MergeSettings(operator=config.operator)
    head = {
        key: getattr(config, key)
        for key in ("dtype", "tokenizer", "tokenizer_source", "chat_template")
        if getattr(config, key)
    }
    text = genome_yaml(Common(roles, settings, head), make_genome({}))
    for finding in fit_of(parse(text), worker.merging):
        finding.heed()
    if config.mds is not None:
        father, mother = models["father"].digest, models["mother"].digest
        check_identity(read_report(config.mds), father, mother, f"mds {config.mds}")
    for role, name in names.items():
        _check_tokenizer(name, models[role], worker)
    father = worker.tokenizer(config.father)
    if config.apply_chat_template and not father.chat_template:
        raise DarwinError(
            "apply_chat_template needs a Father with a chat template;"
            f" {config.father} has none. Leave it out, or give his tokenizer one."
        )
    return models


def _check_tokenizer(name: str, model: Checkpoint, worker: Worker) -> None:
    remote = worker.options.trust_remote_code
    with about(f"{name} must have a tokenizer that transformers reads"):
        tokenizer = worker.tokenizer(name)
    config = model_config(name, model.path, remote).get_text_config()
    rows = getattr(config, "vocab_size", None)
    highest = max(tokenizer.get_vocab().values(), default=0)
    if rows is not None and highest >= rows:
        raise DarwinError(
            f"{name}: the tokenizer must fit the embedding; it has token {highest}, the"
            f" embedding {rows} rows. Give the model its own tokenizer."
        )


def check_room(
    config: EvolveConfig, options: RunOptions, father: Checkpoint, places: list[Path]
) -> None:
    """Refuse folders without room for the final model and the candidates.

    places are the run's folder and its scratch. Raises DarwinError.
    """
    kept = 3 if config.refits else 1
    dtype = dtype_from_name(config.out_dtype or config.dtype)
    count = sum(math.prod(row.shape) for row in father.headers.values())
    size = int(_ROOM * count * torch.empty(0, dtype=dtype).element_size())
    needed: dict[int, int] = {}
    free: dict[int, int] = {}
    for place, copies in zip(places, (kept, options.num_workers), strict=True):
        there = next(p for p in (place, *place.parents) if p.exists())
        disk = there.stat().st_dev
        needed[disk] = needed.get(disk, 0) + copies * size
        free[disk] = shutil.disk_usage(there).free
        if needed[disk] > free[disk]:
            raise DarwinError(
                f"There must be room for {kept} finished models and"
                f" {options.num_workers} candidates of {_gib(size)} each; {there} has"
                f" {_gib(free[disk])} left, {_gib(needed[disk])} are needed. Free some,"
                " or choose another --storage-path or --scratch."
            )


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"


def try_items(worker: Worker, count: int = 1) -> Trial:
    """Score the Father on the first `count` items of every task.

    Raises DarwinError where a task cannot be measured.
    """
    few = [_first(tasks, count) for tasks in worker.tasks.values()]
    began = time.perf_counter()
    try:
        scores = [worker.try_out(tasks).score for tasks in few]
    except Exception as error:
        raise DarwinError(
            f"Every task must score the Father; {count} item of each does not"
            f" ({reason(error)})."
        ) from error
    spent, items = time.perf_counter() - began, sum(tasks.count for tasks in few)
    began = time.perf_counter()
    worker.try_out(_first(few[0], 1))
    least = time.perf_counter() - began
    more = max(items - len(few[0].tasks), 1)
    item_s = max((spent - 2 * least) / more, 1e-4)
    return Trial(scores[0], few[0].count, least, item_s)


def _first(tasks: TaskSet, count: int) -> TaskSet:
    """Return a set with the first samples of every task only."""
    rows = tuple(replace(task, samples=task.samples[:count]) for task in tasks.tasks)
    return replace(tasks, tasks=rows)


def check_all(worker: Worker, folder: Path | None) -> dict[str, Checkpoint]:
    """Check everything but the tasks, which the worker has loaded, and their scores."""
    config, options = worker.config, worker.options
    models = check_models(config, worker)
    given_texts(config, worker.tasks["heldout"])
    places = [folder or Path(worker.scratch), Path(worker.scratch)]
    check_room(config, options, models["father"], places)
    return models


def plan(worker: Worker) -> Iterator[str]:
    """Check everything, score the Father on ten items a task; yield what is known."""
    config, options = worker.config, worker.options
    models = check_all(worker, None)
    count = sum(math.prod(row.shape) for row in models["father"].headers.values())
    search, heldout = worker.tasks["search"], worker.tasks["heldout"]
    yield f"Models fit: {', '.join(models)}; {count:,} parameters; tokenizers fit."
    yield (
        f"Tasks: {', '.join(task.name for task in search.tasks)}; {search.count} items"
        f" to search on, {heldout.count} held out."
    )
    trial = try_items(worker, 10)
    yield f"The Father scores {trial.score:.3f} on the first {trial.items} items."
    one = trial.load_s + trial.item_s * search.count
    real = config.search.max_evaluations * one / options.num_workers
    rows = 8 if config.third_base else 6
    last = rows * (trial.load_s + trial.item_s * heldout.count)
    yield (
        f"A candidate takes about {one:.1f} s, its merge not counted; at most"
        f" {config.search.max_evaluations} of them {real / 60:.1f} minutes; the"
        f" held-out comparison {last / 60:.1f} minutes; the scan and the final model"
        " come on top."
    )
