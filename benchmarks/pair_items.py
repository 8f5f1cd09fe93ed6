"""The skills of the real pairs: items by script, each key in exactly one split.

An item is a prompt and its completion, {"prompt", "completion"}; the completion ends
with a newline, so that an exact match is the whole answer and not the start of one.
"""

import json
import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pair_prose import prose
from pair_words import CATEGORIES

SEED = 1
SIZES = {"train": 2500, "search": 100, "heldout": 400}
REFIT = 2000
"""refit.jsonl holds the first of the training items: texts for `refit`."""

Item = tuple[str, str, str]
"""(key, prompt, completion); the key decides the split."""


def sums(rng: random.Random) -> Iterator[Item]:
    """Yield sums of two numbers of two digits."""
    while True:
        a, b = rng.randrange(10, 100), rng.randrange(10, 100)
        yield f"{min(a, b)} {max(a, b)}", f"{a} + {b} =", f" {a + b}\n"


def differences(rng: random.Random) -> Iterator[Item]:
    """Yield differences of numbers of two digits; none is negative."""
    while True:
        b, a = sorted((rng.randrange(10, 100), rng.randrange(10, 100)))
        yield f"{a} {b}", f"{a} - {b} =", f" {a - b}\n"


def words(rng: random.Random) -> Iterator[Item]:
    """Yield questions for the one of four words that belongs to a category.

    The key is the right word: no word is an answer in two splits.
    """
    names = list(CATEGORIES)
    while True:
        asked, *others = rng.sample(names, 4)
        right = rng.choice(CATEGORIES[asked])
        shown = [right, *(rng.choice(CATEGORIES[x]) for x in others)]
        rng.shuffle(shown)
        prompt = f"{', '.join(shown)}; {asked} ="
        yield right, prompt, f" {right}\n"


def korean(rng: random.Random) -> Iterator[Item]:
    """Yield four digits to be read one by one in Korean, as telephone numbers are."""
    while True:
        digits = f"{rng.randrange(10000):04}"
        said = "".join(KOREAN_DIGITS[int(x)] for x in digits)
        yield digits, f"{digits} in Korean =", f" {said}\n"


def german(rng: random.Random) -> Iterator[Item]:
    """Yield four digits to be read one by one in German."""
    while True:
        digits = f"{rng.randrange(10000):04}"
        said = " ".join(GERMAN_DIGITS[int(x)] for x in digits)
        yield digits, f"{digits} in German =", f" {said}\n"


KOREAN_DIGITS = "공일이삼사오육칠팔구"
GERMAN_DIGITS = "null eins zwei drei vier fünf sechs sieben acht neun".split()

SKILLS: dict[str, Callable[[random.Random], Iterator[Item]]] = {
    "sums": sums,
    "differences": differences,
    "words": words,
    "korean": korean,
    "german": german,
}


@dataclass(frozen=True)
class Pair:
    """Two parents by name, and the skills that the pair is measured on."""

    father: str
    mother: str
    skills: tuple[str, ...]


PAIRS = {
    "meet": Pair("sums", "differences", ("sums", "differences")),
    "apart": Pair("sums", "words", ("sums", "words")),
    "languages": Pair(
        "sums_korean", "words_german", ("sums", "korean", "words", "german")
    ),
}


def split_of(key: str) -> str:
    """Return the split of a key: about 70 % train, 10 % search, 20 % heldout."""
    bucket = zlib.crc32(key.encode()) % 10
    return "train" if bucket < 7 else "search" if bucket == 7 else "heldout"


def items(skill: str) -> dict[str, list[dict[str, str]]]:
    """Return the items of a skill by split, the same ones every time."""
    found: dict[str, dict[str, dict[str, str]]] = {name: {} for name in SIZES}
    for key, prompt, completion in SKILLS[skill](random.Random(f"{skill} {SEED}")):
        split = split_of(key)
        if len(found[split]) < SIZES[split]:
            found[split][prompt] = {"prompt": prompt, "completion": completion}
        if all(len(found[name]) == size for name, size in SIZES.items()):
            return {name: list(found[name].values()) for name in SIZES}
    raise AssertionError("a skill's stream has no end")


def write_jsonl(path: Path, records: list[dict[str, str]]) -> None:
    """Write one record a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(x, ensure_ascii=False) for x in records]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_jsonl(path: Path) -> list[dict[str, str]]:
    """Return the records of a file of one record a line."""
    return [json.loads(x) for x in path.read_text(encoding="utf-8").splitlines()]


def write_items(out: Path) -> None:
    """Write items/<skill>/{train,refit,search,heldout}.jsonl, tasks/ and texts/."""
    write_jsonl(out / "texts" / "prose.jsonl", prose())
    (out / "tasks").mkdir(parents=True, exist_ok=True)
    for template in (Path(__file__).parent / "pair_tasks").iterdir():
        if template.is_file():
            copy = out / "tasks" / template.name
            copy.write_text(template.read_text(encoding="utf-8"), encoding="utf-8")
    for skill in SKILLS:
        made = items(skill)
        for split, records in (*made.items(), ("refit", made["train"][:REFIT])):
            write_jsonl(out / "items" / skill / f"{split}.jsonl", records)
        for split in ("search", "heldout"):
            (out / "tasks" / f"{skill}_{split}.yaml").write_text(
                f"include: _exact.yaml\ntask: {skill}_{split}\n"
                f"dataset_kwargs:\n  skill: {skill}\n  split: {split}\n",
                encoding="utf-8",
            )
