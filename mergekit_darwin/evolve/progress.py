"""What a run says while it goes: a bar, log.txt, and wandb where it is wanted."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.evolve.context import Run
from mergekit_darwin.evolve.log import Evaluation

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


class Progress:
    """A bar over the real evaluations, best score and time to go; wandb beside it."""

    def __init__(self, run: Run, options: Any):
        from tqdm import tqdm

        self._best: float | None = None
        self._bar = tqdm(
            total=run.config.search.max_evaluations,
            desc="evaluations",
            disable=options.quiet,
            dynamic_ncols=True,
        )
        real = [line for line in run.log.lines.values() if line.phase == "real"]
        self._bar.update(len(real))
        self._bar.initial = len(real)  # the time to go counts only what is measured now
        for line in real:
            self._note(line)
        self._wandb = _start_wandb(run, options.wandb)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        if self._wandb is not None:
            self._wandb.finish()

    def tell(self, line: Evaluation) -> None:
        """Show one finished evaluation."""
        LOG.debug("%s", line.model_dump_json())
        score = "failed" if line.score is None else f"{line.score:.4f}"
        LOG.info("%s %s: %s", line.phase, line.name, score)
        if line.phase == "real":
            self._note(line)
            self._bar.update(1)
        if self._wandb is not None:
            shown = {"score": line.score, "best_score": self._best, "proxy": line.proxy}
            shown |= {f"genome/{k}": v for k, v in (line.genome or {}).items()}
            self._wandb.log({"phase": line.phase, **shown}, step=line.index)

    def _note(self, line: Evaluation) -> None:
        if line.score is not None and (self._best is None or line.score > self._best):
            self._best = line.score
            self._bar.set_postfix(best=f"{line.score:.4f}")


def _start_wandb(run: Run, project: str | None) -> Any:
    if project is None:
        return None
    try:
        import wandb
    except ImportError:
        raise DarwinError(
            "--wandb needs wandb: pip install 'mergekit-darwin[wandb]'."
        ) from None
    return wandb.init(project=project, config=run.config.model_dump(mode="json"))
