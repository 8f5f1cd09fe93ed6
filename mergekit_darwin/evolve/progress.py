"""What a run says while it goes: a bar, log.txt, and wandb where it is wanted."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.evolve.config import EvolveConfig, RunOptions
from mergekit_darwin.evolve.log import Evaluation
from mergekit_darwin.evolve.record import Record

LOG = logging.getLogger("mergekit_darwin")


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Write everything that is said into a file as well."""
    handler = logging.FileHandler(path, encoding="utf-8")
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
def telling(
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
    try:
        import wandb
    except ImportError:
        raise DarwinError(
            "--wandb needs wandb: pip install 'mergekit-darwin[wandb]'."
        ) from None
    return wandb.init(project=project, config=config.model_dump(mode="json"))
