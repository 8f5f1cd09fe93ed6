"""What is measured, its line in evaluations.jsonl, and the log that a run replays."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, FiniteFloat

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.files import Frozen, append, cut_torn_line, read_lines
from mergekit_darwin.ratios.genome import Genome, extended_genes, make_genome

Phase = Literal["parent", "proxy", "real", "refit", "baseline", "final", "stop"]
Part = Literal["search", "heldout"]
LOG_NAME = "evaluations.jsonl"


class Evaluation(Frozen):
    """One line of the log.

    name says what was measured ("father", "linear 0.5", "child"; a genome's hash in
    the search; the reason on a stop line); items is a digest of the items it was
    measured on; tasks holds {task: {metric: value, "stderr": .., "n": ..}}; score is
    None where error says why. Times in seconds are the only part that may differ
    between two runs. samples, one value an item (higher is better) of each task whose
    metric is a mean of such, is not part of the line.
    """

    index: Annotated[int, Field(ge=0)]
    phase: Phase
    generation: int
    name: str
    genome: dict[str, FiniteFloat] | None = None
    genome_hash: str | None = None
    proxy: FiniteFloat | None = None
    score: FiniteFloat | None = None
    tasks: dict[str, dict[str, FiniteFloat | int | None]] = Field(default_factory=dict)
    items: str | None = None
    merge_s: float | None = None
    eval_s: float | None = None
    error: str | None = None
    samples: dict[str, list[float]] = Field(default={}, exclude=True, repr=False)

    def timeless(self) -> dict[str, Any]:
        """Return this line without its times: what a replay must meet again."""
        return self.model_dump(exclude={"merge_s", "eval_s"})

    def fault(self, asked: set[str]) -> str | None:
        """Return what no line of a measurement of these tasks would say, if it does."""
        if self.phase in ("proxy", "stop"):
            return None
        if (self.score is None) == (self.error is None):
            return "must have either a score or an error"
        keys = [{"stderr", "n"} < set(row) for row in self.tasks.values()]
        if self.score is not None and not (keys and all(keys)):
            return "must have a metric, its stderr and n of every task"
        if self.score is not None and set(self.tasks) != asked:
            return "must be of the same tasks as those of the same items before"
        return None

    def value(self, task: str) -> float:
        """Return a task's metric."""
        found = self.tasks[task]
        return next(float(v or 0) for k, v in found.items() if k not in ("stderr", "n"))

    @property
    def seconds(self) -> float:
        """The time that merging and measuring took."""
        return (self.merge_s or 0.0) + (self.eval_s or 0.0)

    @property
    def made_of(self) -> Genome:
        """The genome of a child's line."""
        values = self.genome or {}
        return make_genome(values, len(values) - len(extended_genes(1)) + 1)


@dataclass(frozen=True)
class Candidate:
    """What to measure: a model as it is, or the merge of a YAML.

    genome, digest (its genome_hash) and proxy (its expected score) where it has them.
    twin names the parent that the merge would be, bit for bit; model is then his.
    """

    name: str
    model: str | None = None
    yaml: str | None = None
    genome: Genome | None = None
    digest: str | None = None
    proxy: float | None = None
    twin: Literal["father", "mother"] | None = None

    def line(
        self, index: int, phase: Phase, generation: int, items: str | None = None
    ) -> Evaluation:
        """Return the line of the log that waits for this candidate's score."""
        known = self.proxy is not None and math.isfinite(self.proxy)
        return Evaluation(
            index=index,
            phase=phase,
            generation=generation,
            name=self.name,
            genome=dict(self.genome.values) if self.genome is not None else None,
            genome_hash=self.digest,
            proxy=self.proxy if known else None,
            items=items,
        )


class EvaluationLog:
    """The lines known so far by index, and the open file that further ones go to."""

    def __init__(self, path: Path):
        self.path = path
        self.lines = read_log(path)
        cut_torn_line(path)

    def append(self, line: Evaluation) -> None:
        """Add a line and return once it is on the disk."""
        append(self.path, line.model_dump_json() + "\n")
        self.lines[line.index] = line.model_copy(update={"samples": {}})

    def earlier(self, line: Evaluation, twin: str | None) -> Evaluation | None:
        """Return an earlier measurement of the same merge on the same items.

        Of its twin, where the merge would be a parent.
        """
        for found in self.lines.values():
            known = found.score is not None and found.index < line.index
            same = found.genome_hash == line.genome_hash is not None
            parent = found.phase == "parent" and found.name == twin
            if known and found.items == line.items and (same or parent):
                return found
        return None


def read_log(path: Path) -> dict[int, Evaluation]:
    """Return the lines of a log by index; a torn last line is left out.

    Raises DarwinError for any other line that is not an evaluation.
    """
    lines: dict[int, Evaluation] = {}
    advice = "Restore the file, or start with another --storage-path."
    asked: dict[str | None, set[str]] = {}
    for line in read_lines(path, Evaluation, "evaluation", advice):
        if line.index in lines:
            raise DarwinError(
                f"{path} must have one line of each index; it has two of index"
                f" {line.index}. {advice}"
            )
        known = set(line.tasks)
        wrong = line.fault(asked.setdefault(line.items, known) if known else known)
        if wrong is not None:
            raise DarwinError(f"{path}: evaluation {line.index} {wrong}. {advice}")
        lines[line.index] = line
    return lines


def check_fits(found: Evaluation, expected: Evaluation) -> None:
    """Refuse a logged line that is not what this run would have measured.

    Compares phase, generation, name, genome and items. Raises DarwinError.
    """
    for key in ("phase", "generation", "name", "genome_hash", "genome", "items"):
        left, right = getattr(found, key), getattr(expected, key)
        if left != right:
            raise DarwinError(
                f"The log must replay: evaluation {found.index} has {key}"
                f" {_short(left)}, this run would now measure {_short(right)}. It was"
                " written with another config, version or machine; use those, or choose"
                " another --storage-path."
            )


def _short(value: object) -> str:
    text = json.dumps(value) if not isinstance(value, str) else repr(value)
    return text if len(text) < 120 else text[:117] + "..."
