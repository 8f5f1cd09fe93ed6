"""The run folder's state: evaluations.jsonl."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, FiniteFloat, ValidationError

from mergekit_darwin.errors import DarwinError

Phase = Literal["parent", "proxy", "real", "baseline", "final", "stop"]
LOG_NAME = "evaluations.jsonl"


class Evaluation(BaseModel):
    """One line of the log.

    name says what was measured ("father", "linear 0.5", "child"; a genome's hash in
    the search; the reason on a stop line); items is a digest of the items it was
    measured on; tasks holds {task: {metric: value, "stderr": .., "n": ..}}; score is
    None where error says why. Times in seconds are the only part that may differ
    between two runs.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    index: int
    phase: Phase
    generation: int
    name: str
    genome: dict[str, FiniteFloat] | None = None
    genome_hash: str | None = None
    proxy: FiniteFloat | None = None
    score: FiniteFloat | None = None
    tasks: dict[str, dict[str, float | int | None]] = {}
    items: str | None = None
    merge_s: float | None = None
    eval_s: float | None = None
    error: str | None = None

    def timeless(self) -> dict[str, Any]:
        """Return this line without its times: what a replay must meet again."""
        return self.model_dump(exclude={"merge_s", "eval_s"})


class EvaluationLog:
    """The lines known so far by index, and the open file that further ones go to."""

    def __init__(self, path: Path):
        self.path = path
        self.lines = read_log(path)
        _cut_torn_line(path)

    def append(self, line: Evaluation) -> None:
        """Add a line and return once it is on the disk."""
        text = line.model_dump_json() + "\n"
        with self.path.open("ab") as stream:
            stream.write(text.encode())
            stream.flush()
            os.fsync(stream.fileno())
        self.lines[line.index] = line

    def by_hash(self, digest: str, items: str) -> Evaluation | None:
        """Return an earlier successful measurement of a merge on the same items."""
        for line in self.lines.values():
            same = line.genome_hash == digest and line.items == items
            if same and line.score is not None and line.phase != "proxy":
                return line
        return None


def read_log(path: Path) -> dict[int, Evaluation]:
    """Return the lines of a log by index; a torn last line is left out.

    Raises DarwinError for any other line that is not an evaluation.
    """
    if not path.exists():
        return {}
    lines: dict[int, Evaluation] = {}
    rows = path.read_bytes().split(b"\n")
    for number, row in enumerate(rows[:-1], start=1):
        try:
            line = Evaluation.model_validate_json(row)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"]) or "the line"
            raise DarwinError(
                f"{path}, line {number}, is no evaluation ({place}: {first['msg']})."
                " Restore the file, or start with another --storage-path."
            ) from None
        if line.index in lines:
            raise DarwinError(f"{path} has two lines of index {line.index}.")
        lines[line.index] = line
    return lines


def _cut_torn_line(path: Path) -> None:
    """Drop what a killed process left behind the last newline."""
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with path.open("r+b") as stream:
            stream.truncate(whole)
            os.fsync(stream.fileno())


def check_fits(found: Evaluation, expected: Evaluation) -> None:
    """Refuse a logged line that is not what this run would have measured.

    Compares index, phase, generation, name and genome. Raises DarwinError.
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


def finite(value: float | None) -> float | None:
    """Return the value, or None where JSON has no number for it."""
    return value if value is not None and math.isfinite(value) else None
