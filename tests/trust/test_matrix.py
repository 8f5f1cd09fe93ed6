"""No bad input ends in a traceback, in silence, or takes something with it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tests.trust import stage
from tests.trust.matrix import Row, rows
from tests.trust.places import place_rows
from tests.trust.play import play
from tests.trust.tasks import item_rows, task_rows

ROWS = [*rows(), *task_rows(), *item_rows(), *place_rows()]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = stage.build(tmp_path_factory.mktemp("stage") / "family")
    stage.scanned(built)
    return built


def parameter(row: Row) -> object:
    marks = [pytest.mark.xfail(reason=row.todo, strict=True)] if row.todo else []
    if row.full:
        marks.append(pytest.mark.full)
    return pytest.param(row, id=str(row), marks=marks)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("row", [parameter(row) for row in ROWS])
def test_a_bad_input_is_refused_in_one_line(
    row: Row, template: Path, tmp_path: Path
) -> None:
    logging.disable(logging.NOTSET)
    wrong = play(row, stage.fresh(template, tmp_path / row.place))
    assert not wrong, "\n".join(wrong)


def test_the_matrix_is_as_large_as_it_should_be() -> None:
    assert len(ROWS) >= 120
    assert {row.command.split()[0] for row in ROWS} >= {
        "mergekit-darwin-scan",
        "mergekit-darwin-ratios",
        "mergekit-darwin-health",
        "mergekit-darwin-evolve",
        "mergekit-yaml",
    }
