"""Samples of items as they are kept: in memory, and line by line in samples.jsonl."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import FiniteFloat

from mergekit_darwin.delphi.vote import Plan, replay
from mergekit_darwin.files import Frozen, append, cut_torn_line, read_lines

SAMPLES_NAME = "samples.jsonl"
Key = tuple[str, int]  # task and item


class Sample(Frozen):
    """One generated text of one item: a line of samples.jsonl.

    stage 0 is the greedy text, sampled stages count from 1; sample counts from 0 over
    all stages. answer is None where the text has none; correct is the task's metric,
    1 and 0 where that is right and wrong; tokens is None where they cannot be counted.
    """

    task: str
    item: int
    stage: int
    sample: int
    text: str
    answer: str | None
    correct: FiniteFloat
    tokens: int | None = None


def sampled(samples: Iterable[Sample]) -> list[Sample]:
    """Return the samples that vote, in the order in which they were drawn."""
    return sorted((s for s in samples if s.stage > 0), key=lambda s: s.sample)


def chosen(samples: Sequence[Sample], plan: Plan) -> tuple[int, Sample]:
    """Return after how many of an item's samples a plan stops, and the text it gives.

    The text is the first that has the winning answer; the first of all where none has
    an answer.
    """
    voting = sampled(samples)
    look, decision = replay([sample.answer for sample in voting], plan)
    held = (s for s in voting if s.answer == decision.winner)
    return look, next(held) if decision.winner is not None else voting[0]


class Samples:
    """Samples by item: in memory, and in a file if it is given one.

    A file that is there already is read; a line that a kill left torn is cut off.
    """

    def __init__(self, path: Path | None = None):
        self.path = path
        self.held = read_samples(path) if path is not None else {}
        if path is not None:
            cut_torn_line(path)

    def of(self, key: Key) -> Sequence[Sample]:
        """Return the samples of an item so far."""
        return self.held.get(key, ())

    def keep(self, samples: Sequence[Sample]) -> None:
        """Add samples; with a file, return once they are on the disk."""
        add(self.held, samples)
        if self.path is not None:
            lines = (sample.model_dump_json() + "\n" for sample in samples)
            append(self.path, "".join(lines))


def add(held: dict[Key, list[Sample]], samples: Iterable[Sample]) -> None:
    """File samples under their items."""
    for sample in samples:
        held.setdefault((sample.task, sample.item), []).append(sample)


def read_samples(path: Path) -> dict[Key, list[Sample]]:
    """Return the samples of a file by item; what a kill left unfinished is left out.

    Raises DarwinError for a line that is no sample.
    """
    held: dict[Key, list[Sample]] = {}
    advice = "Restore the file, or choose another --out."
    add(held, read_lines(path, Sample, "sample", advice))
    return held
