"""The real pairs' items: strictly apart by split, right answers, texts to keep out."""

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
SKILLS = ("sums", "differences", "words", "korean", "german")


@pytest.fixture(scope="module")
def pair_items():
    """The module pair_items, found as the script finds it: beside itself."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import pair_items
    finally:
        sys.path.remove(str(BENCHMARKS))
    return pair_items


@pytest.mark.parametrize("skill", SKILLS)
def test_no_prompt_of_a_skill_stands_in_two_splits(pair_items, skill):
    made = pair_items.items(skill)
    prompts = {name: {x["prompt"] for x in made[name]} for name in made}
    assert {name: len(found) for name, found in prompts.items()} == pair_items.SIZES
    assert len(set.union(*prompts.values())) == sum(pair_items.SIZES.values())


def test_no_word_is_an_answer_in_two_splits(pair_items):
    made = pair_items.items("words")
    answers = [{x["completion"] for x in made[name]} for name in made]
    assert sum(map(len, answers)) == len(set.union(*answers))


def test_a_sum_and_its_turned_sum_stand_in_one_split(pair_items):
    made = pair_items.items("sums")
    terms = [
        {frozenset(x["prompt"].removesuffix(" =").split(" + ")) for x in made[name]}
        for name in made
    ]
    assert sum(map(len, terms)) == len(set.union(*terms))


@pytest.mark.parametrize(
    ("skill", "between", "words"),
    [
        ("korean", "", "공 일 이 삼 사 오 육 칠 팔 구"),
        ("german", " ", "null eins zwei drei vier fünf sechs sieben acht neun"),
    ],
)
def test_digits_are_read_one_by_one(pair_items, skill, between, words):
    names = dict(zip("0123456789", words.split(), strict=True))
    made = pair_items.items(skill)
    for item in (*made["train"], *made["heldout"]):
        digits = item["prompt"].split()[0]
        assert len(digits) == 4
        said = between.join(names[digit] for digit in digits)
        assert item["completion"] == f" {said}\n"


def test_the_general_texts_are_at_least_fifty_in_four_languages(pair_items):
    texts = pair_items.prose()
    counts = [
        sum(x["language"] == name for x in texts)
        for name in ("english", "code", "german", "korean")
    ]
    assert sum(counts) == len(texts) == len({x["text"] for x in texts}) >= 50
    assert min(counts) >= 15
