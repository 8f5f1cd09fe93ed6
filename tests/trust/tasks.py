"""More rows of the matrix: YAMLs of tasks and their items, and items for --init."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from tests.trust import stage
from tests.trust.damage import make_fifo, put
from tests.trust.matrix import COMMANDS, Harm, Row

CHECK = "mergekit-darwin-evolve {S}/evolve.yml --check --quiet"
TASK = "tasks/toy_sums.yaml"
GROUP = "group: g\ntask: [%s]\n"


def keys(changes: dict[str, Any], folder: Path) -> None:
    """Change keys of a task's YAML; None drops one."""
    content = {**yaml.safe_load((folder / TASK).read_text()), **changes}
    kept = {key: value for key, value in content.items() if value is not None}
    (folder / TASK).write_text(yaml.safe_dump(kept))


def line(text: str, folder: Path) -> None:
    """Add a line to a task's YAML, and code beside it that raises and exits."""
    code = "import sys\nraises = lambda d: 1 / 0\nexits = lambda d: sys.exit(5)\n"
    put("tasks/here.py", code, folder)
    put("tasks/broken.py", "def f(:\n", folder)
    (folder / TASK).write_text(f"{(folder / TASK).read_text()}{text}\n")


def items(changes: dict[str, Any], folder: Path) -> None:
    """Give a task 24 items of other values."""
    rows = [{"prompt": f"{i}=", "choices": ["a", "b"], "answer": 0} for i in range(24)]
    text = "".join(json.dumps({**row, **changes}) + "\n" for row in rows)
    put("tasks/toy_sums.jsonl", text, folder)


def group(of: str, evolve: dict[str, Any], folder: Path) -> None:
    """Put a group of tasks beside them, and name it in evolve.yml."""
    put("tasks/g.yaml", GROUP % of, folder)
    stage.write_evolve(folder, **evolve)


def twin(folder: Path) -> None:
    """Put a second file of the same task beside the first."""
    put("tasks/other.yaml", (folder / TASK).read_text(), folder)


YAMLS: dict[str, tuple[str | bytes, str]] = {
    "no YAML": ("task: toy_sums\n  x: [", "toy_sums.yaml"),
    "tabs": ("task: toy_sums\n\tx: 1\n", "toy_sums.yaml"),
    "nested deeply": ("task: toy_sums\nx: " + "[" * 3000, "toy_sums.yaml"),
}
KEYS: dict[str, tuple[dict[str, Any], str]] = {
    "a template cut": ({"doc_to_text": "{{prompt"}, "toy_sums template"),
    "a filter unknown": ({"doc_to_text": "{{prompt|quatsch}}"}, "toy_sums quatsch"),
    "a column unknown": ({"doc_to_text": "{{nocolumn}}"}, "toy_sums nocolumn"),
    "a template that divides": ({"doc_to_text": "{{1/0}}"}, "toy_sums division"),
    "no text": ({"doc_to_text": None}, "toy_sums"),
    "no target": ({"doc_to_target": None}, "toy_sums"),
    "a target unknown": ({"doc_to_target": "nocolumn"}, "toy_sums item 0"),
    "a target beyond": ({"doc_to_target": 7}, "toy_sums"),
    "no choices": ({"doc_to_choice": []}, "toy_sums"),
    "a split unknown": ({"test_split": "quatsch"}, "toy_sums quatsch"),
    "no split": ({"test_split": None}, "toy_sums test docs"),
    "a data set on the hub": (
        {"dataset_path": "nobody/nothing", "dataset_kwargs": None},
        "toy_sums nobody/nothing",
    ),
    "a kind unknown": ({"output_type": "quatsch"}, "toy_sums quatsch"),
    "a metric unknown": ({"metric_list": [{"metric": "quatsch"}]}, "toy_sums"),
    "no metric": ({"metric_list": []}, "toy_sums acc"),
    "another metric": ({"metric_list": [{"metric": "exact_match"}]}, "exact_match"),
    "a key unknown": ({"quatsch": 1}, "toy_sums quatsch"),
}
LINES = {
    "code nowhere": ("process_docs: !function nowhere.f", "toy_sums nowhere"),
    "code without it": ("process_docs: !function here.f", "toy_sums f"),
    "code that is none": ("process_docs: !function broken.f", "toy_sums broken.py"),
    "code that raises": ("process_docs: !function here.raises", "toy_sums division"),
    "code that exits": ("process_docs: !function here.exits", "toy_sums SystemExit"),
    "a tag unknown": ("x: !quatsch f", "toy_sums.yaml quatsch"),
    "a tag of Python": (
        "x: !!python/object/apply:os.mkdir ['EXECUTED']",
        "toy_sums.yaml mkdir",
    ),
    "included in itself": ("include: toy_sums.yaml", "toy_sums.yaml cycle"),
    "nothing included": ("include: nowhere.yaml", "nowhere.yaml"),
}
ITEMS: dict[str, tuple[dict[str, Any], str]] = {
    "of no right choice": ({"answer": -1}, "toy_sums item 0 right choice"),
    "of answers beyond": ({"answer": 5}, "toy_sums"),
    "of answers in words": ({"answer": "c"}, "toy_sums item 0"),
    "of no prompts": ({"prompt": None}, "not a string"),
    "of no choices": ({"choices": []}, "toy_sums"),
}
DATA: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "toy_sums"),
    "blank": ("\n\n", "toy_sums"),
    "garbage": ("what?\n", "toy_sums JSON"),
    "cut": ('{"prompt": "1=", "choices": ["a", "b"], "answer": 0}\n{"pro', "toy_sums"),
    "in UTF-16": ("what?\n".encode("utf-16"), "toy_sums"),
    "of one item": (
        '{"prompt":"1=","choices":["a","b"],"answer":0}\n',
        "no items left",
    ),
}
CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "a task's file nowhere": ({"tasks": ["./nowhere.yaml"]}, "nowhere.yaml"),
    "tokens of nowhere": (
        {"tokenizer_source": "./nowhere"},
        "tokenizer_source nowhere",
    ),
    "tokens of no model": ({"tokenizer_source": "{S}/tasks"}, "tokenizer_source tasks"),
    "tokens of a file": ({"tokenizer_source": "{S}/table.csv"}, "table.csv"),
    "a tokenizer of nowhere": (
        {"tokenizer": {"source": "./nowhere"}},
        "tokenizer.source nowhere",
    ),
    "a token of nowhere": (
        {"tokenizer": {"source": "base", "tokens": {"x": {"source": "no/where"}}}},
        "tokenizer.tokens.x no/where",
    ),
    "a tokenizer misspelt": ({"tokenizer": {"sorce": "base"}}, "sorce source"),
    "a template unknown": ({"chat_template": "quatsch"}, "chat_template chatml"),
}
WORDS: dict[str, str] = {
    "tokenizer_source: ./nowhere": "tokenizer_source nowhere",
    "tokenizer_source: nobody/nothing": "tokenizer_source nobody/nothing",
    "tokenizer: {source: ./nowhere}": "tokenizer.source nowhere",
    "tokenizer: {sorce: base}": "sorce source",
    "chat_template: quatsch": "chat_template chatml",
}


def task_rows() -> Iterator[Row]:
    """Yield tasks that the harness cannot use, and words that no model has."""
    for what, (text, words) in YAMLS.items():
        yield _check(f"a task of {what}", partial(put, TASK, text), words)
    for what, (changes, words) in KEYS.items():
        yield _check(f"a task of {what}", partial(keys, changes), words)
    for what, (text, words) in LINES.items():
        yield _check(f"a task of {what}", partial(line, text), words)
    for what, (changes, words) in ITEMS.items():
        yield _check(f"items {what}", partial(items, changes), words)
    for what, (text, words) in DATA.items():
        yield _check(f"items {what}", partial(put, "tasks/toy_sums.jsonl", text), words)
    yield _check("a task twice", twin, "toy_sums once other.yaml")
    made = partial(make_fifo, "tasks/x.yaml")
    yield _check("a task a fifo", made, "include_path x.yaml regular")
    both = partial(group, "toy_sums", {"tasks": ["g", "toy_sums"]})
    yield _check("a task in a group too", both, "toy_sums once")
    yield _check("an empty group", partial(group, "", {"tasks": ["g"]}), "g empty")
    loop = partial(group, "g", {"tasks": ["g"]})
    yield _check("a group of itself", loop, "g recursion")
    for what, (changes, words) in CONFIGS.items():
        yield _check(what, partial(_evolve, changes), words)
    for text, words in WORDS.items():
        yield Row(text, COMMANDS["merge"], partial(_more, text), tuple(words.split()))


def _check(what: str, harm: Harm, words: str) -> Row:
    return Row(what, CHECK, harm, tuple(words.split()), full=True, seconds=120)


def _evolve(changes: dict[str, Any], folder: Path) -> None:
    text = yaml.safe_dump(changes).replace("{S}", str(folder))
    stage.write_evolve(folder, **yaml.safe_load(text))


def _more(text: str, folder: Path) -> None:
    with (folder / "darwin.yml").open("a") as stream:
        stream.write(f"{text}\n")


# --- items for --init -----------------------------------------------------------------

INIT = (
    "mergekit-darwin-evolve --init {S}/father {S}/mother --items {S}/i.jsonl"
    " --out {S}/new/E.yml --quiet"
)
_TEXT = {"prompt": "1=", "completion": "1"}
_CHOICE = {"question": "1=", "choices": ["a", "b"], "answer": 0}
_NAN = '{"prompt": NaN, "completion": "1"}\n'
BAD_ITEMS: dict[str, tuple[str | bytes | list[dict[str, Any]], str]] = {
    "empty": ("", "i.jsonl hold"),
    "blank": ("\n \n", "i.jsonl hold"),
    "no UTF-8": (b"\xff\xfe{}", "i.jsonl UTF-8"),
    "a list": ("[1, 2]\n", "line 1 object"),
    "one document": ('[\n{"prompt": "a"}\n]', "line 1"),
    "a CSV": ("prompt,completion\n", "line 1"),
    "nested deeply": ("[" * 200_000, "line 1 nested"),
    "a key twice": ('{"prompt": "a", "prompt": "b"}\n', "line 1 prompt twice"),
    "a key missing": ([{"prompt": "a"}], "line 1 completion"),
    "two kinds": ([_TEXT, _CHOICE], "line 2"),
    "a number of 5000 digits": (f'{{"prompt": {"9" * 5000}}}\n', "line 1"),
    "not a number": (_NAN, "line 1 prompt nan"),
    "half a sign": ('{"prompt": "\\ud800", "completion": "1"}\n', "line 1 prompt"),
    "no prompt": ([{**_TEXT, "prompt": None}], "line 1 prompt None"),
    "a true completion": ([{**_TEXT, "completion": True}], "completion True"),
    "completions in a list": ([{**_TEXT, "completion": ["1"]}], "completion"),
    "an empty completion": ([{**_TEXT, "completion": ""}], "completion"),
    "a completion of two lines": ([{**_TEXT, "completion": "a\nb"}], "one line"),
    "texts and numbers": ([_TEXT, {**_TEXT, "completion": 2}], "line 2 completion"),
    "one choice": ([{**_CHOICE, "choices": ["a"]}], "line 1 choices two"),
    "choices in a word": ([{**_CHOICE, "choices": "ab"}], "line 1 choices"),
    "the same choices": ([{**_CHOICE, "choices": ["a", "a"]}], "choices differ"),
    "choices of numbers": ([{**_CHOICE, "choices": [1, 2]}], "choices 1"),
    "an empty choice": ([{**_CHOICE, "choices": ["", "b"]}], "choices"),
    "an answer beyond": ([{**_CHOICE, "answer": 2}], "line 1 answer 2"),
    "an answer before": ([{**_CHOICE, "answer": -1}], "line 1 answer -1"),
    "an answer that is none": ([{**_CHOICE, "answer": "c"}], "answer c"),
    "a true answer": ([{**_CHOICE, "answer": True}], "answer True"),
    "an answer 1.0": ([{**_CHOICE, "answer": 1.0}], "answer 1.0"),
    "answers of two kinds": ([_CHOICE, {**_CHOICE, "answer": "a"}], "line 2 answer"),
}
GOOD_ITEMS: dict[str, str | bytes] = {
    "with a mark": b"\xef\xbb\xbf" + json.dumps(_TEXT).encode(),
    "with Windows' line ends": f"{json.dumps(_TEXT)}\r\n" * 3,
    "with other line ends in it": '{"prompt": "a\u2028b\x85", "completion": "1"}\n',
}
NAMES = ("123", "null", "on", "1e3", "$%&", "\U0001f600", "a'b", "{x}")


def item_rows() -> Iterator[Row]:
    """Yield items and models of which no task and no config can be made."""
    for what, (content, words) in BAD_ITEMS.items():
        text = content if isinstance(content, (str, bytes)) else _lines(content)
        harm = partial(put, "i.jsonl", text)
        yield Row(f"items {what}", INIT, harm, tuple(words.split()))
    for what, good in GOOD_ITEMS.items():
        yield Row(f"items {what}", INIT, partial(put, "i.jsonl", good), code=0)
    yield Row(
        "items a fifo", INIT, partial(make_fifo, "i.jsonl"), ("i.jsonl", "regular")
    )
    for name in NAMES:
        shown = name.replace("{", "{{").replace("}", "}}")
        line = INIT.replace("i.jsonl", f"{shown}.jsonl")
        yield Row(name, line, partial(put, f"{name}.jsonl", _lines([_TEXT])), code=0)
    for name in ("./nowhere", "/no/where", "~/no/where"):
        command = INIT.replace("{S}/father", name)
        harm = partial(put, "i.jsonl", _lines([_TEXT]))
        yield Row(f"--init {name}", command, harm, ("where",))
    for what, link in (("dangling", "nowhere"), ("there", "evolve.yml")):
        harm = partial(_linked, "new/E.yml", link)
        yield Row(f"--out {what}", INIT, harm, ("E.yml", "overwrites"))


def _lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _linked(name: str, to: str, folder: Path) -> None:
    put("i.jsonl", _lines([_TEXT]), folder)
    (folder / name).parent.mkdir()
    os.symlink(to, folder / name)
