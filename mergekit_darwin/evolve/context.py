"""A run in progress: its folder, its log, its workers; measuring with replay."""

from __future__ import annotations

import json
import logging
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.evolve.config import EvolveConfig, config_yaml
from mergekit_darwin.evolve.fitness import Exam
from mergekit_darwin.evolve.log import (
    Evaluation,
    EvaluationLog,
    Phase,
    check_fits,
    finite,
)
from mergekit_darwin.evolve.workers import Job, Outcome, Part, Pool
from mergekit_darwin.files import write_whole
from mergekit_darwin.ratios.genome import Genome
from mergekit_darwin.talk import versions

LOG = logging.getLogger("mergekit_darwin")
PACKAGES = ("mergekit", "torch", "transformers", "lm_eval", "cma", "numpy")


class Interrupted(Exception):
    """Ctrl-C was pressed; the evaluation under way has been written down."""


@dataclass(frozen=True)
class Subject:
    """What to measure: a model as it is, or a YAML to merge first (its genome's)."""

    name: str
    model: str | None = None
    recipe: str | None = None
    genome: Genome | None = None
    digest: str | None = None
    proxy: float | None = None


@dataclass
class Run:
    """The state of a run: everything in it can be read again from its folder."""

    folder: Path
    config: EvolveConfig
    log: EvaluationLog
    pool: Pool
    exams: Mapping[Part, Exam]
    next_index: int = 0
    stopping: threading.Event = field(default_factory=threading.Event)
    told: Callable[[Evaluation], None] = lambda line: None

    def past(self, *phases: Phase) -> list[Evaluation]:
        """Return the lines of some phases up to now, by index."""
        lines = [self.log.lines[i] for i in range(self.next_index)]
        return [line for line in lines if line.phase in phases]


def made_with() -> str:
    """Return the versions that can move a result, as one phrase."""
    return ", ".join(f"{tool} {it}" for tool, it in versions(*PACKAGES).items())


def freeze(folder: Path, config: EvolveConfig) -> None:
    """Write config.yml and versions.json on the first start; compare them later.

    Raises DarwinError if the config or a version that the log depends on changed.
    """
    text = config_yaml(config)
    path, made_by = folder / "config.yml", folder / "versions.json"
    if not path.exists():
        write_whole(made_by, json.dumps(versions(*PACKAGES), indent=1) + "\n")
        write_whole(path, text)
        return
    before = yaml.safe_load(path.read_text(encoding="utf-8"))
    now = yaml.safe_load(text)
    changed = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
    if changed:
        raise DarwinError(
            f"{path} was written with another {', '.join(changed)}; a run keeps its"
            " config. Restore it, or choose another --storage-path."
        )
    found = json.loads(made_by.read_text(encoding="utf-8"))
    for name, version in versions(*PACKAGES).items():
        if found.get(name, version) != version:
            raise DarwinError(
                f"{folder} was begun with {name} {found[name]}; this is {version},"
                " which may measure differently. Install that version, or choose"
                " another --storage-path."
            )


def measure(
    run: Run, phase: Phase, generation: int, part: Part, subjects: Sequence[Subject]
) -> list[Evaluation]:
    """Return one line a subject, in order: from the log, or measured and logged now.

    Raises DarwinError if the log has something else at these indices; Interrupted,
    with all finished lines written, after Ctrl-C.
    """
    first = run.next_index
    digest = run.exams[part].digest
    wanted = [
        _expected(first + i, phase, generation, subject, digest)
        for i, subject in enumerate(subjects)
    ]
    jobs = []
    for line, subject in zip(wanted, subjects, strict=True):
        found = run.log.lines.get(line.index)
        if found is not None:
            check_fits(found, line)
        elif not _reuse(run, line, part):
            jobs.append(
                Job(line.index, subject.name, part, subject.model, subject.recipe)
            )
    if jobs:
        _measure_now(run, {line.index: line for line in wanted}, jobs, part)
    run.next_index = first + len(wanted)
    return [run.log.lines[line.index] for line in wanted]


def _expected(
    index: int, phase: Phase, generation: int, subject: Subject, digest: str
) -> Evaluation:
    genome = subject.genome
    return Evaluation(
        index=index,
        phase=phase,
        generation=generation,
        name=subject.name,
        genome=dict(genome.values) if genome is not None else None,
        genome_hash=subject.digest,
        proxy=finite(subject.proxy),
        items=digest,
    )


def _reuse(run: Run, line: Evaluation, part: Part) -> bool:
    """Log a merge that this run has measured before on the same items, unmeasured."""
    if line.genome_hash is None or part != "search":
        return False
    earlier = run.log.by_hash(line.genome_hash, str(line.items))
    if earlier is None or earlier.index > line.index:
        return False
    changes = {"score": earlier.score, "tasks": earlier.tasks}
    run.log.append(line.model_copy(update={**changes, "merge_s": 0.0, "eval_s": 0.0}))
    return True


def _measure_now(
    run: Run, wanted: Mapping[int, Evaluation], jobs: Sequence[Job], part: Part
) -> None:
    outcomes = run.pool.run(jobs)
    for outcome in outcomes:
        line = _logged(wanted[outcome.index], outcome)
        if part == "heldout" and outcome.marks is not None:
            items = json.dumps(outcome.marks.items)
            (run.folder / "heldout").mkdir(exist_ok=True)
            write_whole(run.folder / "heldout" / f"{outcome.index}.json", items)
        run.log.append(line)
        run.told(line)
        if run.stopping.is_set():
            raise Interrupted


def _logged(line: Evaluation, outcome: Outcome) -> Evaluation:
    changes: dict[str, Any] = {
        "merge_s": _rounded(outcome.merge_s),
        "eval_s": _rounded(outcome.eval_s),
        "error": outcome.error,
    }
    if outcome.marks is not None:
        changes |= {"score": outcome.marks.score, "tasks": outcome.marks.tasks}
    else:
        LOG.warning("%s failed: %s", line.name, outcome.error)
    return line.model_copy(update=changes)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def note(run: Run, line: Evaluation) -> Evaluation:
    """Log a line that nothing was measured for; a replay takes the logged one."""
    found = run.log.lines.get(line.index)
    if found is None:
        run.log.append(line)
        found = line
    run.next_index = line.index + 1
    return found


def heldout_items(run: Run, line: Evaluation) -> dict[str, list[float]]:
    """Return a held-out measurement item by item, as it was written down."""
    path = run.folder / "heldout" / f"{line.index}.json"
    return dict(json.loads(path.read_text())) if path.exists() else {}


@contextmanager
def graceful(run: Run) -> Iterator[None]:
    """Let the first Ctrl-C end after the evaluation under way; the second at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)

    def on_signal(number: int, frame: Any) -> None:
        if run.stopping.is_set():
            raise KeyboardInterrupt
        LOG.warning("Stopping after this evaluation; Ctrl-C again stops at once.")
        run.stopping.set()

    signal.signal(signal.SIGINT, on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
