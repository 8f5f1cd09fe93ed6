"""Family trees: three generations, their picture, and cards that are not followed."""

from __future__ import annotations

import pytest
import yaml

import mergekit_darwin as md
from mergekit_darwin.evolve.family import (
    Score,
    as_card,
    bred,
    draw_family,
    lines,
    quoted,
)


def write_card(folder, metadata, body="# A model\n"):
    folder.mkdir(parents=True, exist_ok=True)
    text = metadata if isinstance(metadata, str) else yaml.safe_dump(metadata)
    (folder / "README.md").write_text(f"---\n{text}---\n{body}", encoding="utf-8")
    return str(folder)


def child(folder, father, mother, mark, score=None):
    made = bred(father, mother, mark * 16, score)
    return write_card(folder, {"tags": ["merge"], "mergekit_darwin": as_card(made)})


@pytest.fixture
def third(tmp_path):
    """A child of a child of a child; its Mother was never bred here."""
    first = child(tmp_path / "runs" / "first", "org/a", "org/b", "1", Score(score=0.5))
    second = child(tmp_path / "second", first, "org/c", "2")
    score = Score(score=0.61, stderr=0.02)
    return child(tmp_path / "third", second, "org/d", "3", score)


def test_a_family_of_three_generations_is_read_from_the_last_card(third):
    tree = md.family(third)
    assert [tree.generation, tree.father.generation] == [3, 2]
    assert tree.father.father.generation == 1
    assert tree.father.father.genome_hash == "1" * 16
    assert tree.father.father.heldout == Score(score=0.5)
    assert tree.heldout == Score(score=0.61, stderr=0.02)
    assert tree.father.father.father.model == "org/a"
    assert tree.father.father.father.generation == 0
    assert tree.mother.model == "org/d" and tree.mother.parents == ()
    assert tree.note is None


def test_a_family_prints_father_before_mother_with_genomes_and_scores(third):
    text = list(lines(md.family(third)))
    assert "generation 3, genome `3333333333333333`" in text[0]
    assert "held-out score 0.6100 ± 0.0200" in text[0]
    assert text[2].startswith("    - father: `runs/first`")
    assert "held-out score 0.5000" in text[2]
    assert text[-1] == "  - mother: `org/d`"
    assert len(text) == 7


def test_the_picture_of_a_family_is_the_same_bytes_every_time(third, tmp_path):
    for name in ("one.png", "two.png"):
        draw_family(md.family(third), tmp_path / name)
    one = (tmp_path / "one.png").read_bytes()
    assert one.startswith(b"\x89PNG") and one == (tmp_path / "two.png").read_bytes()


def test_a_model_without_our_card_stands_alone(tmp_path):
    assert bred("org/a", "org/b", "a" * 16).generation == 1
    plain = write_card(tmp_path / "m", {"license": "mit"})
    assert md.family(plain).generation == 0 and md.family(plain).note is None
    (tmp_path / "bare").mkdir()
    assert md.family(tmp_path / "bare").parents == ()
    with pytest.raises(md.DarwinError, match="is none"):
        md.family(tmp_path / "nowhere")


GOOD = {"generation": 1, "genome_hash": "f" * 16}
LAUGHS = "a: &a [x, x]\nb: &b [*a, *a]\nmergekit_darwin: {father: *b}\n"
HOSTILE = {
    "a word for a number": {**GOOD, "generation": "seven"},
    "a yes for a number": {**GOOD, "generation": True},
    "no hash": {**GOOD, "genome_hash": "../../../etc/passwd"},
    "generations that do not fit": {
        **GOOD,
        "father": {"model": "x", "generation": 5},
    },
    "a list for a family": ["father", "mother"],
    "a list for a parent": {**GOOD, "father": ["x"]},
    "no number": {**GOOD, "heldout": {"score": float("nan")}},
    "a book for a name": {**GOOD, "father": {"model": "x" * 1000}},
    "code": "mergekit_darwin: !!python/object/apply:os.system ['echo no']\n",
    "a billion laughs": LAUGHS,
    "a deep nest": "mergekit_darwin: " + "[" * 5000 + "]" * 5000 + "\n",
    "a mountain": "mergekit_darwin: {x: '" + "y" * 300_000 + "'}\n",
    "torn YAML": "mergekit_darwin: {generation: \n",
    "a number without end": "mergekit_darwin: {generation: " + "9" * 5000 + "}\n",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_card_that_cannot_be_trusted_is_quoted_and_not_followed(kind, tmp_path):
    content = HOSTILE[kind]
    text = content if isinstance(content, str) else {"mergekit_darwin": content}
    parent = write_card(tmp_path / "m", text)
    found = md.family(parent)
    assert found.generation == 0 and found.parents == ()
    assert found.note.startswith("its card is not followed (")
    assert len(found.note) < 200 and "\n" not in found.note
    made = bred(parent, "org/b", "a" * 16)
    assert made.generation == 1  # breeding goes on with it
    assert any("not followed" in line for line in lines(made))
    draw_family(made, tmp_path / "family.png")


def test_a_card_in_bytes_that_are_no_text_is_quoted_too(tmp_path):
    parent = write_card(tmp_path / "m", {"mergekit_darwin": GOOD})
    (tmp_path / "m" / "README.md").write_bytes(b"---\nmergekit_darwin: \xff\n---\n")
    assert md.family(parent).note.startswith("its card is not followed (")


def test_names_in_a_card_cannot_write_markup_into_ours(tmp_path):
    name = "x`](http://evil)<script>\n# Heading | $\\alpha$"
    parent = write_card(
        tmp_path / "m",
        {"mergekit_darwin": {**GOOD, "father": {"model": name}, "mother": None}},
    )
    made = bred(parent, "org/b", "a" * 16)
    text = "\n".join(lines(made))
    assert len(text.splitlines()) == 4
    assert "<" not in text and "](" not in text and "\n#" not in text
    assert quoted("a\u202eb\x00c") == "a b c"
    draw_family(made, tmp_path / "family.png")


def test_generations_beyond_the_eighth_are_left_out_of_a_card(tmp_path):
    model = "org/a"
    for i in range(10):
        model = child(tmp_path / f"g{i}", model, "org/b", "abcdef0123"[i])
    tree, depth = md.family(model), 0
    assert tree.generation == 10
    while tree.father is not None:
        tree, depth = tree.father, depth + 1
    assert depth == 8 and tree.generation == 2
