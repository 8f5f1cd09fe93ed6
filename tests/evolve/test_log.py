"""The log: only a torn line is lost, and only its own run goes on with it."""

from __future__ import annotations

import pytest

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.evolve.log import (
    Evaluation,
    EvaluationLog,
    check_fits,
    read_log,
)


def line(index: int, **changes) -> Evaluation:
    """Return a line of the log."""
    content = {"phase": "real", "generation": 1, "name": "x", "score": 0.5}
    content["tasks"] = {"sums": {"acc": 0.5, "stderr": 0.1, "n": 4}}
    return Evaluation(index=index, **{**content, **changes})


def test_log_forgets_a_torn_line_and_nothing_else(tmp_path):
    path = tmp_path / "evaluations.jsonl"
    log = EvaluationLog(path)
    for index in range(3):
        log.append(line(index))
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    again = EvaluationLog(path)
    assert sorted(again.lines) == [0, 1]
    again.append(line(2))
    assert path.read_bytes() == whole
    assert read_log(path) == log.lines


def test_log_refuses_a_damaged_line(tmp_path):
    path = tmp_path / "evaluations.jsonl"
    path.write_text('{"index": 0, "phase": "odd"}\n')
    with pytest.raises(DarwinError, match="line 1"):
        read_log(path)


def test_a_line_of_another_run_does_not_fit():
    found = line(4, genome={"lambda": 1.0}, genome_hash="a" * 16)
    check_fits(found, line(4, genome={"lambda": 1.0}, genome_hash="a" * 16))
    with pytest.raises(DarwinError, match="evaluation 4 has genome_hash"):
        check_fits(found, line(4, genome={"lambda": 1.5}, genome_hash="b" * 16))
