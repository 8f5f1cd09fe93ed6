"""Probes: short texts, each a prompt with its completion, sorted by what they ask for.

A probe is the same for every tokenizer and no chat template is applied to it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

from mergekit_darwin.errors import DarwinError, about, refuse_unknown
from mergekit_darwin.files import read_text

STANDARD = ("REASONING", "CODE", "MATH", "KNOWLEDGE", "LANGUAGE")  # Darwin V6
_SUFFIXES = (".jsonl", ".txt")


@dataclass(frozen=True)
class ProbeItem:
    """One text: what is given, and the completion whose loss is measured."""

    prompt: str
    completion: str


@dataclass(frozen=True)
class Probe:
    """A named set of items; weight is its share in a layer's probe score."""

    name: str
    items: tuple[ProbeItem, ...]
    weight: float

    @cached_property
    def digest(self) -> str:
        """16 hex digits over the items in their order."""
        rows = [[item.prompt, item.completion] for item in self.items]
        text = json.dumps(rows, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Encoded:
    """One item as tokens: ids [T]; the first `special` are the tokenizer's own (BOS).

    The completion is ids[start:], 1 <= start < T, so that its every token has one
    before it to be predicted from.
    """

    ids: tuple[int, ...]
    special: int
    start: int


def standard_probes() -> list[Probe]:
    """Return the five probes that come with the package, 0.2 of weight each.

    Names: Darwin V6; items and equal weights: our choice.
    """
    folder = resources.files("mergekit_darwin") / "data" / "probes"
    probes = []
    for name in STANDARD:
        file = folder / f"{name.lower()}.jsonl"
        items = _jsonl_items(file.read_text(encoding="utf-8"), str(file))
        probes.append(Probe(name, items, 1.0 / len(STANDARD)))
    return probes


def read_probes(
    folder: str | Path, weights: Mapping[str, float] | None = None
) -> list[Probe]:
    """Return the probes in a folder, sorted by name: one .jsonl or .txt file each.

    A .jsonl line is an object with `prompt` and `completion` (other keys are
    ignored); a .txt line is a completion without prompt. The file's stem in capitals
    is the probe's name. weights, by name, are scaled to sum to 1; by default all are
    equal. Raises DarwinError for what cannot be read, with file and line.
    """
    folder = Path(folder)
    files = sorted(
        file
        for file in (folder.iterdir() if folder.is_dir() else ())
        if file.suffix in _SUFFIXES
    )
    if not files:
        raise DarwinError(
            f"Probes must be a folder with .jsonl or .txt files, one a probe; {folder}"
            " has none."
        )
    items: dict[str, tuple[ProbeItem, ...]] = {}
    for file in files:
        if not file.is_file():
            raise DarwinError(f"A probe must be a regular file; {file} is none.")
        name = file.stem.upper()
        if not name.isprintable():
            raise DarwinError(
                f"A probe's name must be text that can be shown; rename {file}."
            )
        if name in items:
            raise DarwinError(
                f"Probe {name} must come from one file; {folder} has it twice."
            )
        items[name] = _read_items(file)
    shares = _shares(sorted(items), weights, folder)
    return [Probe(name, items[name], shares[name]) for name in sorted(items)]


def _shares(
    names: Sequence[str], weights: Mapping[str, float] | None, folder: Path
) -> dict[str, float]:
    if weights is None:
        return {name: 1.0 / len(names) for name in names}
    given = {name.upper(): float(weight) for name, weight in weights.items()}
    refuse_unknown(given, names, f"A weight must name a probe; {folder} has no probe")
    full = {name: given.get(name, 0.0) for name in names}
    total = math.fsum(full.values())
    if min(full.values()) < 0.0 or not 0.0 < total < math.inf:
        raise DarwinError(
            f"Weights of probes must be 0 or more and not all 0; got {given}."
        )
    return {name: weight / total for name, weight in full.items()}


def _read_items(file: Path) -> tuple[ProbeItem, ...]:
    text = read_text(file, f"A probe file must be UTF-8 text; {file} cannot be read")
    if file.suffix == ".txt":
        lines = (line.strip() for line in text.splitlines())
        items = tuple(ProbeItem("", line) for line in lines if line)
    else:
        items = _jsonl_items(text, str(file))
    if not items:
        raise DarwinError(f"A probe needs at least one item; {file} is empty.")
    return items


def _jsonl_items(text: str, place: str) -> tuple[ProbeItem, ...]:
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            rows.append(_item(line, f"{place}, line {number}"))
    return tuple(rows)


def _item(line: str, place: str) -> ProbeItem:
    with about(f"{place} must be a JSON object"):
        row = json.loads(line)
    values = (
        [row.get(key) for key in ("prompt", "completion")] if _is(row, dict) else []
    )
    if not values or not all(_is(value, str) for value in values) or not values[1]:
        raise DarwinError(
            f"{place} must have the texts 'prompt' and 'completion', the latter not"
            f" empty; got {line.strip()[:80]!r}."
        )
    with about(f"{place} must be text"):
        "".join(values).encode()
    return ProbeItem(*values)


def _is(value: object, kind: type) -> bool:
    return isinstance(value, kind)


def encode(
    tokenizer: Any, items: Iterable[ProbeItem], max_tokens: int
) -> list[Encoded]:
    """Return the items as tokens, each at most max_tokens long.

    Prompt and completion are tokenized as one text, as they would be read; the
    completion begins where the tokens first differ from those of the prompt alone (a
    space at the prompt's end belongs to the completion). What is too long loses the
    start of its prompt first, special tokens in front kept, then the end of its
    completion. Raises DarwinError for an item without any token to predict.
    """
    if max_tokens < 2:
        raise DarwinError(f"An item needs at least 2 tokens; got {max_tokens} at most.")
    with about("A tokenizer must take every item of the probes"):
        return [_encode(tokenizer, item, max_tokens) for item in items]


def check_tokens(items: Iterable[Encoded], name: str, model: Any) -> None:
    """Refuse tokens that a model's embedding has no row for.

    Raises DarwinError: its tokenizer is of another model, or the embedding was cut.
    """
    embedding = model.get_input_embeddings()
    rows = getattr(getattr(embedding, "weight", None), "shape", (None,))[0]
    highest = max((max(item.ids) for item in items), default=0)
    if rows is not None and highest >= rows:
        raise DarwinError(
            f"The tokenizer of {name} must fit its embedding; a probe has the token"
            f" {highest}, the embedding {rows} rows. Give it its own tokenizer."
        )


def _encode(tokenizer: Any, item: ProbeItem, max_tokens: int) -> Encoded:
    prompt = item.prompt.rstrip(" ")
    whole = _tokens(tokenizer, item.prompt + item.completion)
    given = _tokens(tokenizer, prompt)
    special = _leading_special(tokenizer, whole)
    start = _common_prefix(whole, given)
    start = max(start, special, 1)
    if start >= len(whole):
        raise DarwinError(
            "Every item needs a completion of at least one token after its first;"
            f" {item.prompt + item.completion!r} has {len(whole)} tokens in all."
        )
    surplus = len(whole) - max_tokens
    cut = max(0, min(surplus, start - max(special, 1)))
    kept = whole[:special] + whole[special + cut :]
    return Encoded(tuple(kept[:max_tokens]), special, start - cut)


def _tokens(tokenizer: Any, text: str) -> list[int]:
    """Return the tokens of a text, without an end-of-text mark the tokenizer adds."""
    ids = list(tokenizer(text)["input_ids"])
    if ids and ids[-1] == getattr(tokenizer, "eos_token_id", None):
        return ids[:-1]
    return ids


def _leading_special(tokenizer: Any, ids: Sequence[int]) -> int:
    special = set(tokenizer.all_special_ids)
    count = 0
    while count < len(ids) and ids[count] in special:
        count += 1
    return count


def _common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))
