"""Every reader gives a value or one line, whatever the file holds (hypothesis)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.evolve.family import read_member
from mergekit_darwin.evolve.log import read_log
from mergekit_darwin.evolve.reading import read_config as read_evolve
from mergekit_darwin.ratios.genome import read_genome
from mergekit_darwin.ratios.table import read_ratios
from mergekit_darwin.scan.probes import read_probes
from mergekit_darwin.scan.report import read_report

_TENSOR = {
    "entropy": 0.5,
    "std": 0.1,
    "norm": 3.0,
    "max_abs": 0.4,
    "zeros": 0,
    "numel": 64,
}
_MODEL = {
    "model": "father",
    "digest": "0" * 16,
    "layers": 1,
    "stack": "model.layers",
    "tensors": {"model.layers.0.mlp.up_proj.weight": _TENSOR},
    "probes": {"MATH": [0.25]},
}
_REPORT = {
    "format": "mergekit-darwin/mds",
    "version": 1,
    "settings": {"probes": {"MATH": {"digest": "1", "items": 2, "weight": 1.0}}},
    "father": _MODEL,
    "mother": {**_MODEL, "model": "mother"},
}
_GENOME = {
    "format": "mergekit-darwin/genome",
    "version": 1,
    "genes": {"attn_ratio": 0.25, "block_1_ratio": 1.0},
}
_LINE = {
    **{"index": 0, "phase": "parent", "generation": 0, "name": "father"},
    **{"score": 0.5, "tasks": {"sums": {"acc": 0.5, "stderr": 0.1, "n": 4}}},
}
_EVOLVE = "father: a\nmother: b\ntasks: [x, {name: y, weight: 2}]\nsearch: {seed: 3}\n"
_CARD = "---\nmergekit_darwin:\n  generation: 1\n  father: {model: a}\n---\n# child\n"

# A reader, its file's name, and a sound content.
READERS: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "report": (read_report, "mds.json", json.dumps(_REPORT)),
    "genome": (read_genome, "genome.json", json.dumps(_GENOME)),
    "table": (read_ratios, "t.csv", "name,layer,ratio\na.weight,1,0.5\nb,,1\n"),
    "JSON table": (read_ratios, "t.json", '[{"name": "a", "ratio": 0.5}]'),
    "log": (read_log, "evaluations.jsonl", json.dumps(_LINE) + "\n"),
    "config": (read_evolve, "evolve.yml", _EVOLVE),
    "card": (lambda path: read_member(str(path.parent)), "README.md", _CARD),
    "probes": (
        lambda path: read_probes(path.parent),
        "a.jsonl",
        '{"prompt": "1+1=", "completion": "2"}\n',
    ),
}
NASTY = [
    *("NaN", "1e999", "-1", "true", "null", '""', "[]", "{}", "[[[[", "\x00", "\ufeff"),
    *("'", '"', ",", ":", "\n", "\\ud800", "&a [*a]", "!!python/none", "9" * 400, "{{"),
]
_EXAMPLES = settings(
    max_examples=60,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@st.composite
def spoiled(draw: st.DrawFn, text: str) -> bytes:
    """Return a text with up to three pieces of it replaced by nasty ones."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(len(text), start + 12)))
        piece = draw(st.one_of(st.sampled_from(NASTY), st.text(max_size=6)))
        text = text[:start] + piece + text[end:]
    data = text.encode("utf-8", "surrogatepass")
    cut = draw(st.integers(0, len(data)))
    return data[:cut] if draw(st.booleans()) else data


@pytest.mark.parametrize("kind", READERS)
def test_a_sound_file_is_read(kind: str, tmp_path: Path) -> None:
    read, name, text = READERS[kind]
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read(tmp_path / name)


@pytest.mark.parametrize("kind", READERS)
def test_a_spoiled_file_is_read_or_refused_in_one_line(
    kind: str, tmp_path: Path
) -> None:
    read, name, text = READERS[kind]
    refused = 0

    @_EXAMPLES
    @given(spoiled(text))
    def attempt(content: bytes) -> None:
        nonlocal refused
        (tmp_path / name).write_bytes(content)
        try:
            read(tmp_path / name)
        except DarwinError as error:
            refused += 1
            assert error.message and "\n" not in error.message
            assert len(error.message) < 2000

    attempt()
    assert refused > 10 or kind == "card"  # a card is read with distrust, not refused
