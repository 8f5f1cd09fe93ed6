"""Every architecture through the whole chain, at toy size."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.matrix import models
from tests.matrix.chain import run_chain
from tests.matrix.page import PAGE, read_outcomes, render

QUICK = {"qwen3_moe", "gemma4_e2b", "t5", "qwen2_5_vl", "gpt_neox"}
ROWS = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.full)
    for name in models.ROWS
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ROWS)
def test_a_family_comes_as_far_as_is_said(tmp_path: Path, name: str) -> None:
    expected = read_outcomes()["rows"][name]
    found = run_chain(name, tmp_path)
    assert found.problems == ()
    assert found.stopped == expected["stopped"], found.reason
    assert found.passes == expected["passes"]
    assert found.reason is None or "\n" not in found.reason


def test_the_matrix_has_many_rows_and_most_of_them_work() -> None:
    rows = read_outcomes()["rows"]
    assert set(rows) == set(models.ROWS)
    assert sum(row["stopped"] is None for row in rows.values()) >= 80


def test_the_page_is_that_of_the_outcomes() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(read_outcomes())
