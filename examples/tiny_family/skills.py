"""The five skills of the tiny family: generators of multiple-choice items.

A skill is a handful of subskills. Every item has a key, the combination that has to be
worked out; a key belongs to exactly one of the splits train, search and heldout, so no
held-out item can be answered by remembering a training prompt.
"""

import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

from facts import fact_drafts
from words import WORD_SUBSKILLS

SKILLS = ("reasoning", "code", "math", "knowledge", "language")
SPLITS = ("train", "search", "heldout")
LETTERS = "bcdfghjklmnpqrstvwxz"

Draft = tuple[str, str, str, list[str]]
"""(key, prompt, completion, three wrong completions)."""


@dataclass(frozen=True)
class Item:
    """One multiple-choice question; the answer follows the prompt byte for byte."""

    skill: str
    subskill: str
    split: str
    prompt: str
    completion: str
    choices: tuple[str, ...]

    def record(self) -> dict[str, object]:
        """Return the item as one line of the JSONL files."""
        return {
            "subskill": self.subskill,
            "prompt": self.prompt,
            "completion": self.completion,
            "choices": list(self.choices),
            "answer": self.choices.index(self.completion),
        }


def split_of(key: str) -> str:
    """Return the split of a key: about 70 % train, 10 % search, 20 % heldout."""
    bucket = zlib.crc32(key.encode()) % 10
    return "train" if bucket < 7 else "search" if bucket == 7 else "heldout"


def letters(rng: random.Random, count: int) -> list[str]:
    """Return distinct lower-case consonants."""
    return rng.sample(LETTERS, count)


def extreme(rng: random.Random, word: str, place: int) -> Draft:
    """Ask for the letter at one end of the alphabetical order of four."""
    group = letters(rng, 4)
    ranked = sorted(group)
    best = ranked.pop(place)
    return "".join(sorted(group)), f"{word} {' '.join(group)}:", best, ranked


def earliest(rng: random.Random) -> Draft:
    """Ask which of four letters comes first in the alphabet."""
    return extreme(rng, "first", 0)


def latest(rng: random.Random) -> Draft:
    """Ask which of four letters comes last in the alphabet."""
    return extreme(rng, "last", -1)


def odd_one(rng: random.Random) -> Draft:
    """Ask which of four signs is of another kind than the three others."""
    common, other = rng.sample(("2345678", "bdfhjkm", "AEGLQRT", "?!&%#@*"), 2)
    wrong, right = rng.sample(common, 3), rng.choice(other)
    shown = [*wrong, right]
    rng.shuffle(shown)
    key = "".join(sorted(wrong)) + right
    return key, f"odd {' '.join(shown)}:", right, wrong


def cycle(rng: random.Random) -> Draft:
    """Ask how a repeating pattern goes on."""
    group = letters(rng, 4)
    stop = rng.randrange(4)
    prompt = f"next {''.join(group * 2 + group[:stop])}:"
    wrong = [x for x in group if x != group[stop]]
    return "".join(group), prompt, group[stop], wrong


def index(rng: random.Random) -> Draft:
    """Ask for one character of a string."""
    group = letters(rng, 4)
    place = rng.randrange(4)
    wrong = [x for x in group if x != group[place]]
    return "".join(group), f'"{"".join(group)}"[{place}]->', group[place], wrong


def reverse(rng: random.Random) -> Draft:
    """Ask for a string read backwards."""
    group = letters(rng, 3)
    a, b, c = group
    wrong = [a + b + c, b + c + a, c + a + b, b + a + c, a + c + b]
    prompt = f'"{a + b + c}"[::-1]->'
    return "".join(group), prompt, c + b + a, rng.sample(wrong, 3)


def concat(rng: random.Random) -> Draft:
    """Ask for two strings put together."""
    a, b, c, d = group = letters(rng, 4)
    wrong = [c + d + a + b, b + a + c + d, a + b + d + c]
    return "".join(group), f'"{a + b}"+"{c + d}"->', a + b + c + d, wrong


def upper(rng: random.Random) -> Draft:
    """Ask for a string in capitals."""
    group = letters(rng, 5)
    a, b, c, d, e = (x.upper() for x in group)
    text = "".join(group[:3])
    return text, f'"{text}".upper()->', a + b + c, [a + c + b, a + b + d, e + b + c]


def near(rng: random.Random, answer: int) -> list[str]:
    """Return three non-negative numbers that slips of a digit or a carry produce."""
    slips = [-11, -10, -9, -2, -1, 1, 2, 9, 10, 11]
    wrong = [str(answer + slip) for slip in slips if answer + slip >= 0]
    return rng.sample(wrong, 3)


def add_digit(rng: random.Random) -> Draft:
    """Ask for a two-digit number plus a digit."""
    a, b = rng.randrange(10, 100), rng.randrange(1, 10)
    return f"{a}+{b}", f"{a}+{b}=", str(a + b), near(rng, a + b)


def subtract_digit(rng: random.Random) -> Draft:
    """Ask for a two-digit number minus a digit."""
    a, b = rng.randrange(10, 100), rng.randrange(1, 10)
    return f"{a}-{b}", f"{a}-{b}=", str(a - b), near(rng, a - b)


def pick_number(rng: random.Random, word: str, place: int) -> Draft:
    """Ask for the number at one end of the order of four two-digit numbers."""
    numbers = [str(x) for x in rng.sample(range(10, 100), 4)]
    ranked = sorted(numbers)
    best = ranked.pop(place)
    return "".join(sorted(numbers)), f"{word} {' '.join(numbers)}=", best, ranked


def largest(rng: random.Random) -> Draft:
    """Ask for the largest of four two-digit numbers."""
    return pick_number(rng, "max", -1)


def smallest(rng: random.Random) -> Draft:
    """Ask for the smallest of four two-digit numbers."""
    return pick_number(rng, "min", 0)


RULES: dict[str, tuple[str, Callable[[random.Random], Draft]]] = {
    **{f.__name__: ("reasoning", f) for f in (earliest, latest, odd_one, cycle)},
    **{f.__name__: ("code", f) for f in (index, reverse, concat, upper)},
    **{f.__name__: ("math", f) for f in (add_digit, subtract_digit, smallest, largest)},
    **{name: ("language", draw) for name, draw in WORD_SUBSKILLS.items()},
}
FACTS = ("known_facts", "new_facts")


def drafts(name: str, rng: random.Random) -> Iterator[tuple[str, Draft]]:
    """Yield an endless stream of (split, draft) of one subskill."""
    if name in FACTS:
        yield from fact_drafts(rng, known=name == "known_facts")
    _, draw = RULES[name]
    while True:
        draft = draw(rng)
        yield split_of(f"{name} {draft[0]}"), draft


def skill_of(name: str) -> str:
    """Return the skill a subskill belongs to."""
    return "knowledge" if name in FACTS else RULES[name][0]


def collect(name: str, wanted: dict[str, int], seed: int) -> dict[str, list[Item]]:
    """Return distinct items of one subskill by split, at most wanted[split] of each.

    Gives up after 60,000 draws: small rules have fewer distinct training prompts than
    one would ask for.
    """
    found: dict[str, dict[str, Item]] = {split: {} for split in SPLITS}
    rng = random.Random(f"{seed} {name}")
    for split, (_, prompt, completion, wrong) in islice(drafts(name, rng), 60_000):
        choices = [completion, *wrong]
        rng.shuffle(choices)
        item = Item(skill_of(name), name, split, prompt, completion, tuple(choices))
        if len(found[split]) < wanted[split]:
            found[split].setdefault(prompt, item)
        if all(len(found[kind]) >= wanted[kind] for kind in SPLITS):
            break
    return {split: list(box.values()) for split, box in found.items()}
