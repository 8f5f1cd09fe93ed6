"""--init: a config that reads back, tasks that load, nothing overwritten."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("lm_eval")

from click.testing import CliRunner

from mergekit_darwin.cli.evolve import main
from mergekit_darwin.errors import DarwinError
from mergekit_darwin.evolve.init import write_config
from mergekit_darwin.evolve.reading import read_config
from mergekit_darwin.evolve.tasks import load_task_sets, probe_items


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


CHOICES = [
    {"question": f"{i}?", "choices": ["a", "b"], "answer": i % 2} for i in range(4)
]
NAMED = [{**row, "answer": row["choices"][row["answer"]]} for row in CHOICES]
TEXTS = [{"prompt": f"{i} + 1 = ", "completion": str(i + 1)} for i in range(4)]


def test_a_written_config_has_tasks_with_the_items_of_the_jsonl(tmp_path):
    items = [
        lines(tmp_path / "By index.jsonl", CHOICES),
        lines(tmp_path / "named.jsonl", NAMED),
        lines(tmp_path / "texts.jsonl", TEXTS),
    ]
    out = tmp_path / "new" / "EVOLVE.yml"
    done = CliRunner().invoke(
        main,
        ["--init", "org/f", "org/m", "--base", "org/b", "--out", str(out)]
        + [word for file in items for word in ("--items", file)],
    )
    assert done.exit_code == 0, done.output
    names = ["by_index", "named", "texts"]
    config = read_config(out)
    assert (config.father, config.mother, config.base_model) == (
        "org/f",
        "org/m",
        "org/b",
    )
    assert [task.name for task in config.tasks] == names
    assert config.tasks[2].metric == "exact_match"
    search = load_task_sets(config)["search"]
    probes = probe_items(search, None, 4)
    assert [p.completion for p in probes["by_index"]] == [" a", " a"]
    assert probes["named"] == probes["by_index"]
    assert probes["texts"][0].prompt + probes["texts"][0].completion == "0 + 1 = 1"


def test_without_a_base_or_items_the_config_says_what_to_do(tmp_path):
    write_config(tmp_path / "E.yml", "org/f", "org/m", None, [])
    text = (tmp_path / "E.yml").read_text()
    assert "# base_model" in text and "my_task" in text


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "E.yml").write_text("mine")
    with pytest.raises(DarwinError, match="overwrites nothing"):
        write_config(tmp_path / "E.yml", "a", "b", None, [])
    assert (tmp_path / "E.yml").read_text() == "mine"


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([*CHOICES, {"prompt": "a", "completion": "b"}], "line 5"),
        ([{"question": "a", "choices": ["b"], "answer": 0}], "at least two"),
        ([{"question": "a", "choices": ["b", "c"], "answer": 2}], "line 1: answer"),
        ([{"prompt": "a"}], "line 1"),
        ([], "must hold items"),
    ],
)
def test_an_item_that_is_neither_is_named_by_its_line(tmp_path, rows, said):
    file = lines(tmp_path / "items.jsonl", rows)
    with pytest.raises(DarwinError, match=said):
        write_config(tmp_path / "E.yml", "a", "b", None, [file])
    assert not (tmp_path / "E.yml").exists()


def test_a_call_without_what_it_needs_is_a_usage_error():
    for words in ([], ["--init", "a"], ["a.yml"]):
        assert CliRunner().invoke(main, words).exit_code == 2
