"""What comes from a parent's card, a task's or a run's name obeys nothing on a page."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mergekit_darwin import page
from mergekit_darwin.errors import DarwinError, printable, quoted
from mergekit_darwin.evolve.pages import heldout_table
from mergekit_darwin.merge.run import MergeRun
from mergekit_darwin.plots import figure, plain, save

EVIL = "a|b<script>alert(1)</script>[x](http://e)`$\\frac"


def test_a_table_of_scores_keeps_its_columns_whatever_names_say() -> None:
    failed = SimpleNamespace(name=EVIL, score=None, error=f"{EVIL}\n| x |")
    table: Any = SimpleNamespace(
        tasks=SimpleNamespace(tasks=[SimpleNamespace(name=EVIL)]), rows=[failed]
    )
    lines = heldout_table(table).splitlines()
    assert len(lines) == 3
    assert {line.count("|") for line in lines} == {4}
    assert "<script>" not in "".join(lines) and "](" not in "".join(lines)


def test_a_picture_shows_odd_names_as_they_are(tmp_path: Path) -> None:
    made = figure(2, 2)
    made.suptitle(plain(EVIL + os.fsdecode(b"\xff") + "$"))
    made.subplots().set_xticks([0, 1], ["$\\frac$", "\U0001f600"])
    save(made, tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 0


def test_cards_and_reports_of_others_words_are_plain_text() -> None:
    said = quoted(f"{EVIL}\x1b[2J*bold*\n# head", 500)
    assert not set("`<>[]|*$\n\x1b") & set(said)
    assert "://" not in said


def test_a_page_shows_tags_in_names_and_obeys_none() -> None:
    figure = {"data": [{"y": [EVIL], "hovertemplate": "%{y}<extra></extra>"}]}
    shown = json.loads(page._json(figure))["data"][0]
    assert "<" not in shown["y"][0] and "&lt;script&gt;" in shown["y"][0]
    assert shown["hovertemplate"] == "%{y}<extra></extra>"


def test_a_terminal_is_told_nothing_to_do() -> None:
    assert printable("a\x1b[2J\nb\u202e") == "a?[2J\nb?"


def test_an_error_with_odd_bytes_can_be_printed() -> None:
    name = os.fsdecode(b"f\xffther")
    error = DarwinError(f"{name} is not there.\x1b[2J")
    assert error.message.encode().decode() == "f?ther is not there.?[2J"


def test_a_tensor_that_the_report_does_not_know_is_named_once(caplog: Any) -> None:
    run = MergeRun()
    for _ in range(2):
        run.say_static("lm_head.weight", "attribution")
        run.say_static("", None)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert "does not know lm_head.weight" in said[0] and "attribution" in said[0]
    assert said[1].startswith("No MDS report")
