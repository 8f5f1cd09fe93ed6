"""Probe items: what ships, what is read, what becomes tokens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.scan.probes import (
    STANDARD,
    Probe,
    ProbeItem,
    encode,
    read_probes,
    standard_probes,
)
from tests.tiny import BOS, byte_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> object:
    return AutoTokenizer.from_pretrained(
        byte_tokenizer(tmp_path_factory.mktemp("plain"))
    )


@pytest.fixture(scope="module")
def tokenizer_with_bos(tmp_path_factory: pytest.TempPathFactory) -> object:
    folder = byte_tokenizer(tmp_path_factory.mktemp("bos"), bos=True)
    return AutoTokenizer.from_pretrained(folder)


def test_standard_probes_are_five_of_at_least_eight_items_and_equal_weight() -> None:
    probes = standard_probes()
    assert tuple(probe.name for probe in probes) == STANDARD
    assert all(len(probe.items) >= 8 for probe in probes)
    assert [probe.weight for probe in probes] == [0.2] * 5
    assert all(item.prompt and item.completion for p in probes for item in p.items)


def test_a_third_of_the_language_probe_is_korean() -> None:
    items = standard_probes()[STANDARD.index("LANGUAGE")].items
    korean = [i for i in items if any("가" <= c <= "힣" for c in i.prompt)]
    assert len(korean) * 3 >= len(items)


def test_digest_follows_items_and_not_name_or_weight() -> None:
    one = Probe("A", (ProbeItem("p", "c"),), 1.0)
    assert one.digest == Probe("B", (ProbeItem("p", "c"),), 0.5).digest
    assert one.digest != Probe("A", (ProbeItem("pc", "c"),), 1.0).digest
    assert len(one.digest) == 16


def test_folder_of_jsonl_and_txt_is_read_with_equal_weights(tmp_path: Path) -> None:
    rows = [{"prompt": "1+1=", "completion": "2", "answer": 3}]
    (tmp_path / "sums.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    (tmp_path / "prose.txt").write_text("A line.\n\n또 한 줄.\n", encoding="utf-8")
    (tmp_path / "notes.md").write_text("not a probe")
    prose, sums = read_probes(tmp_path)
    assert sums == Probe("SUMS", (ProbeItem("1+1=", "2"),), 0.5)
    assert prose.items == (ProbeItem("", "A line."), ProbeItem("", "또 한 줄."))


def test_weights_are_scaled_to_one_and_unknown_names_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text("text")
    weights = {p.name: p.weight for p in read_probes(tmp_path, {"a": 3, "B": 1})}
    assert weights == {"A": 0.75, "B": 0.25}
    with pytest.raises(DarwinError, match="no probe 'C'"):
        read_probes(tmp_path, {"c": 1})
    with pytest.raises(DarwinError, match="not all 0"):
        read_probes(tmp_path, {"a": 0})


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", b"", "empty"),
        ("a.txt", b"\xff\xfe\x00", "UTF-8"),
        ("a.jsonl", b'{"prompt": "x", "completion": "y"}\nnot json\n', "line 2"),
        ("a.jsonl", b'{"prompt": "x"}\n', "line 1"),
        ("a.jsonl", b'{"prompt": "x", "completion": ""}\n', "not empty|not\\s+empty"),
        ("a.jsonl", b"[1]\n", "line 1"),
        ("a.csv", b"x", "has none"),
    ],
)
def test_bad_probe_files_are_refused_with_the_place(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DarwinError, match=said):
        read_probes(tmp_path)


def test_completion_tokens_are_those_after_the_prompts(tokenizer: object) -> None:
    (item,) = encode(tokenizer, [ProbeItem("ab", " cd")], 99)
    assert (item.start, item.special) == (2, 0)
    assert len(item.ids) == 5


def test_a_space_at_the_prompts_end_counts_to_the_completion(tokenizer: object) -> None:
    (item,) = encode(tokenizer, [ProbeItem("ab ", "cd")], 99)
    assert (item.start, len(item.ids)) == (2, 5)


def test_bos_is_kept_and_marked_special(tokenizer_with_bos: object) -> None:
    (item,) = encode(tokenizer_with_bos, [ProbeItem("", "abc")], 99)
    assert item.ids[0] == BOS
    assert (item.special, item.start) == (1, 1)


def test_without_bos_an_items_first_token_is_not_predicted(tokenizer: object) -> None:
    (item,) = encode(tokenizer, [ProbeItem("", "abc")], 99)
    assert (item.special, item.start) == (0, 1)


def test_long_items_lose_the_prompts_start_first(tokenizer_with_bos: object) -> None:
    whole = encode(tokenizer_with_bos, [ProbeItem("abcdef", "xyz")], 99)[0]
    (item,) = encode(tokenizer_with_bos, [ProbeItem("abcdef", "xyz")], 6)
    assert item.ids == (BOS, *whole.ids[-5:])
    assert item.ids[item.start :] == whole.ids[-3:]


def test_a_completion_too_long_alone_loses_its_end(tokenizer: object) -> None:
    whole = encode(tokenizer, [ProbeItem("ab", "vwxyz")], 99)[0]
    (item,) = encode(tokenizer, [ProbeItem("ab", "vwxyz")], 4)
    assert item.ids == whole.ids[1:5]
    assert item.start == 1


def test_an_item_of_one_token_is_refused(tokenizer: object) -> None:
    with pytest.raises(DarwinError, match="at least one token after"):
        encode(tokenizer, [ProbeItem("", "a")], 99)
