"""The knowledge skill: invented places, four properties, eight phrasings.

Facts have to be learnt by heart, so all of them are trained; what is held out is the
phrasing: two of the eight are never seen in training.
"""

import random
from collections.abc import Iterator

RELATIONS = {
    "color": "red blue green gold pink gray black white".split(),
    "metal": "iron zinc lead tin silver copper nickel cobalt".split(),
    "animal": "wolf bear deer hawk crab seal toad swan".split(),
    "food": "rice bread corn fish soup bean milk plum".split(),
}
TRAINED = (
    "{r} of {e}:",
    "{e} has {r}:",
    "{e}'s {r}:",
    "in {e} the {r} is:",
    "{r} in {e}:",
    "{e}, {r}:",
)
UNSEEN = ("{e} {r}:", "the {r} of {e} is:")
PLACES = 96
KNOWN = 16
"""The first places are common knowledge: the base model is trained on them."""


def places() -> list[str]:
    """Return the invented names, the same ones every time."""
    rng = random.Random("places")
    names: dict[str, None] = {}
    while len(names) < PLACES:
        parts = [rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(2)]
        names["".join(parts).capitalize() + rng.choice("nrslk")] = None
    return list(names)


def fact_drafts(
    rng: random.Random, known: bool
) -> Iterator[tuple[str, tuple[str, str, str, list[str]]]]:
    """Yield an endless stream of (split, (fact, prompt, value, wrong values)).

    known asks for the facts of the first KNOWN places; otherwise for all others.
    """
    world = random.Random("world")
    table = [(e, r, world.choice(RELATIONS[r])) for e in places() for r in RELATIONS]
    cut = KNOWN * len(RELATIONS)
    table = table[:cut] if known else table[cut:]
    while True:
        place, relation, value = rng.choice(table)
        phrase = rng.choice(TRAINED + UNSEEN)
        wrong = rng.sample([x for x in RELATIONS[relation] if x != value], 3)
        split = "train" if phrase in TRAINED else unseen_split(place, relation)
        prompt = phrase.format(e=place, r=relation)
        yield split, (f"{place} {relation}", prompt, value, wrong)


def unseen_split(place: str, relation: str) -> str:
    """Return the split that asks for this fact: a third search, the rest heldout."""
    third = random.Random(f"{place} {relation}").randrange(3)
    return "search" if third == 0 else "heldout"
