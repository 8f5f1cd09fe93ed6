"""Measuring with replay: what the log has is taken from it, the rest is measured."""

from __future__ import annotations

import json
import logging
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import FiniteFloat, TypeAdapter

from mergekit_darwin.errors import DarwinError, about, some
from mergekit_darwin.evolve.log import (
    LOG_NAME,
    Candidate,
    Evaluation,
    EvaluationLog,
    Part,
    Phase,
    check_fits,
)
from mergekit_darwin.evolve.pools import Job, Pool
from mergekit_darwin.files import read_bytes, write_whole

LOG = logging.getLogger("mergekit_darwin")
_SAMPLES = TypeAdapter(dict[str, list[FiniteFloat]])


class Interrupted(Exception):
    """Ctrl-C was pressed; the evaluation under way has been written down."""


class Record:
    """A run's measurements in their order; all of it can be read again from its folder.

    digests are those of the items of each part; told is called with each new line.
    """

    def __init__(
        self,
        folder: Path,
        pool: Pool,
        digests: dict[Part, str],
        told: Callable[[Evaluation], None] = lambda line: None,
    ):
        self.log = EvaluationLog(folder / LOG_NAME)
        self._refuse_other_items(digests["search"])
        self.next_index = 0
        self.told = told
        self._samples = folder / "heldout"
        self._pool, self._digests = pool, digests
        self._stopping = threading.Event()
        self._asked: set[str] = set()  # tasks of which samples are kept

    def _refuse_other_items(self, digest: str) -> None:
        """Refuse a log of other items now, before a scan is made with them."""
        first = self.log.lines.get(0)
        if first is not None and first.items not in (None, digest):
            raise DarwinError(
                f"{self.log.path} must be of the items searched on; they, their metrics"
                " or weights have changed since. Restore the tasks, or choose another"
                " --storage-path."
            )

    @property
    def seconds(self) -> float:
        """The time that went into all logged lines."""
        return sum(line.seconds for line in self.log.lines.values())

    def measure(
        self,
        phase: Phase,
        candidates: Sequence[Candidate],
        generation: int = 0,
        part: Part = "search",
    ) -> list[Evaluation]:
        """Return one line a candidate, in order: from the log, or measured now.

        Lines of held-out items have their samples. Raises DarwinError if the log has
        something else at these indices, or for a failure that is not a candidate's
        own; Interrupted, with all finished lines written, after Ctrl-C.
        """
        first, jobs = self.next_index, []
        for i, candidate in enumerate(candidates):
            line = candidate.line(first + i, phase, generation, self._digests[part])
            found = self.log.lines.get(line.index)
            if found is not None:
                check_fits(found, line)
            elif part == "heldout" or not self._again(line, candidate.twin):
                jobs.append((candidate, line))
        if jobs:
            self._measure_now(jobs, part)
        self.next_index = first + len(candidates)
        lines = [self.log.lines[i] for i in range(first, self.next_index)]
        return (
            [self._with_samples(line) for line in lines] if part == "heldout" else lines
        )

    def note(self, line: Evaluation) -> Evaluation:
        """Log a line that nothing was measured for; a replay takes the logged one."""
        if line.index not in self.log.lines:
            self.log.append(line)
        self.next_index = line.index + 1
        return self.log.lines[line.index]

    def say_unused(self) -> None:
        """Log which lines of the log a finished run has not asked for."""
        unused = [index for index in self.log.lines if index >= self.next_index]
        if unused:
            LOG.warning(
                "%s has lines that are not of this run: %s",
                self.log.path,
                some(map(str, unused)),
            )

    def _again(self, line: Evaluation, twin: str | None) -> bool:
        """Log a merge that this run has measured before on the same items."""
        earlier = self.log.earlier(line, twin)
        if earlier is None:
            return False
        known = {"score": earlier.score, "tasks": earlier.tasks}
        self.log.append(
            line.model_copy(update={**known, "merge_s": 0.0, "eval_s": 0.0})
        )
        return True

    def _measure_now(self, jobs: Sequence[Job], part: Part) -> None:
        """Measure and log; failures last, when others have shown that all is well."""
        failed = []
        for line in self._pool.run(jobs, part):
            if line.error is not None:
                failed.append(line)
            else:
                self._append(line, part)
        self._refuse_if_all_fail(failed)
        for line in sorted(failed, key=lambda line: line.index):
            LOG.warning("%s failed: %s", line.name, line.error)
            self._append(line, part)

    def _append(self, line: Evaluation, part: Part) -> None:
        if part == "heldout" and line.error is None:
            write_whole(self._file(line), json.dumps(line.samples))
        self.log.append(line)
        self.told(line)
        if self._stopping.is_set():
            raise Interrupted

    def _refuse_if_all_fail(self, failed: Sequence[Evaluation]) -> None:
        merged = (row for row in self.log.lines.values() if row.phase == "real")
        if failed and all(row.score is None for row in merged):
            raise DarwinError(
                f"At least one child must be measurable; all {len(failed)} failed, the"
                f" first with: {failed[0].error}"
            )

    def _file(self, line: Evaluation) -> Path:
        return self._samples / f"{line.index}.json"

    def _with_samples(self, line: Evaluation) -> Evaluation:
        if line.error is not None:
            return line
        file, what = self._file(line), f"the samples of evaluation {line.index}"
        with about(f"{file} must be {what}", "Restore it, or begin a new run."):
            text = read_bytes(file, f"{file} cannot be read")
            samples = _SAMPLES.validate_json(text)
            for task, values in samples.items():
                if len(values) != line.tasks[task]["n"]:
                    raise ValueError(f"{task} has {len(values)} of them")
            self._asked = self._asked or set(samples)
            if set(samples) != self._asked:
                raise ValueError("they are of other tasks than those before")
        return line.model_copy(update={"samples": samples})

    @contextmanager
    def graceful(self) -> Iterator[None]:
        """End at the first Ctrl-C after the evaluation under way, at the second now."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.getsignal(signal.SIGINT)

        def on_signal(number: int, frame: Any) -> None:
            if self._stopping.is_set():
                raise KeyboardInterrupt
            LOG.warning("Stopping after this evaluation; Ctrl-C again stops at once.")
            self._stopping.set()

        signal.signal(signal.SIGINT, on_signal)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
