"""The rules of health: numbers in, findings out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.health.facts import TensorFacts
from mergekit_darwin.health.files import tokenizer_findings
from mergekit_darwin.health.function_rules import (
    answer_findings,
    fault_of,
    importance_findings,
    perplexity_findings,
    top_line,
)
from mergekit_darwin.health.report import Answer, Finding, verdict_of
from mergekit_darwin.health.stray import Stray
from mergekit_darwin.health.thresholds import RULES, Thresholds
from mergekit_darwin.health.weight_rules import weight_findings
from mergekit_darwin.kernel.profile import Profile

LINES = Thresholds()
SOUND = Profile(0.8, 0.1, 10.0, 0.5, 0, 10_000)
NEAR = Stray(0.0, 0.0, 0.1, 0.01, 0.02, True)
COARSE = replace(NEAR, distance=9.0, share=0.12, calm=1.0)
FEWER, ALIKE = ({"child": share, "father": 0.8, "mother": 0.8} for share in (0.06, 0.8))


def facts(
    name: str = "model.layers.1.mlp.up_proj.weight", **values: Any
) -> TensorFacts:
    layer = int(name.split(".")[2]) if ".layers." in name else None
    shape = values.pop("shape", (100, 100))
    plain = TensorFacts(
        name=name,
        layer=layer,
        shapes={role: shape for role in ("child", "father", "mother")},
        dtypes={},
        child=SOUND,
        father=SOUND,
        mother=replace(SOUND, std=0.12, norm=12.0),
        equal=frozenset(),
        unused_bits={"child": 0, "father": 0, "mother": 0},
        stray=NEAR,
    )
    return replace(plain, **values)


def rules(found: list[Finding]) -> set[tuple[str, str]]:
    return {(item.rule, item.severity) for item in found}


def test_a_sound_tensor_has_no_findings() -> None:
    assert weight_findings([facts()], LINES) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"child": replace(SOUND, nan=1)}, ("nan", "error")),
        ({"child": replace(SOUND, inf=2)}, ("inf", "error")),
        ({"child": Profile(0, 0, 0, 0.0, 100, 100)}, ("dead_tensor", "error")),
        ({"child": replace(SOUND, std=0.0)}, ("dead_tensor", "error")),
        ({"child": replace(SOUND, zeros=6_000)}, ("zeros", "warning")),
        ({"child": replace(SOUND, norm=24.1)}, ("norm_range", "warning")),
        ({"child": replace(SOUND, norm=4.9)}, ("norm_range", "warning")),
        ({"child": replace(SOUND, std=0.25)}, ("std_range", "warning")),
        ({"stray": replace(NEAR, turned=0.6)}, ("turned", "error")),
        ({"stray": replace(NEAR, distance=1.1, calm=0.9)}, ("stray", "error")),
        ({"stray": replace(NEAR, rows=1)}, ("lines", "warning")),
        ({"stray": replace(NEAR, columns=2)}, ("lines", "error")),
        ({"stray": COARSE, "grids": FEWER}, ("quantised", "note")),
        ({"stray": COARSE, "grids": ALIKE}, ("stray", "error")),
        (
            {"stray": replace(COARSE, share=0.4), "grids": FEWER},
            ("stray", "error"),
        ),
    ],
)
def test_each_fault_of_a_tensor_has_its_rule(
    change: dict[str, Any], expected: tuple[str, str]
) -> None:
    assert rules(weight_findings([facts(**change)], LINES)) == {expected}


@pytest.mark.parametrize(
    "change",
    [
        {"child": replace(SOUND, norm=23.9)},  # 2 x the larger parent's 12
        {"child": replace(SOUND, norm=5.1)},  # half of the smaller parent's 10
        {"stray": replace(NEAR, distance=3.0, calm=0.1)},  # a mask of few elements
        {"stray": replace(NEAR, distance=3.9, calm=1.0, based=False)},
        {"stray": replace(NEAR, turned=0.6, apart=0.2)},  # parents are far apart
        {
            "child": Profile(0, 0, 0, 0.0, 9, 9),
            "father": Profile(0, 0, 0, 0.0, 9, 9),
            "stray": None,
        },
    ],
)
def test_what_merges_do_is_no_fault(change: dict[str, Any]) -> None:
    assert weight_findings([facts(**change)], LINES) == []


@pytest.mark.parametrize(("equal", "errors"), [({"father"}, 0), (set(), 1)])
def test_position_numbers_are_no_damage_while_a_parent_has_them(
    equal: set[str], errors: int
) -> None:
    """As older BERTs store them: int64, [1, n]."""
    nothing = dict.fromkeys(("child", "father", "mother", "stray"))
    table = facts(
        "embeddings.position_ids",
        **{**nothing, "dtypes": {"child": "int64"}, "equal": frozenset(equal)},
    )
    assert len(weight_findings([facts(), table], LINES)) == errors


def test_a_vector_strays_only_if_it_is_far_as_a_share_of_its_norm() -> None:
    name = "model.layers.1.input_layernorm.weight"
    far = replace(NEAR, distance=9.0, calm=1.0, share=0.2)
    assert weight_findings([facts(name, shape=(64,), stray=far)], LINES) == []
    farther = replace(far, share=0.3)
    found = weight_findings([facts(name, shape=(64,), stray=farther)], LINES)
    assert rules(found) == {("stray", "error")}


def test_a_tensor_far_from_its_kind_strays_where_its_kind_does_not() -> None:
    def row(layer: int, distance: float) -> TensorFacts:
        name = f"model.layers.{layer}.mlp.up_proj.weight"
        profile = replace(SOUND, norm=10.0 + layer / 100)
        stray = replace(NEAR, distance=distance, calm=1.0)
        return facts(name, child=profile, stray=stray)

    quiet = [row(layer, 0.05) for layer in range(5)]
    (found,) = weight_findings([*quiet, row(5, 0.3)], LINES)
    assert (found.rule, found.layer) == ("stray", 5)
    all_alike = [row(layer, 0.3) for layer in range(6)]
    assert weight_findings(all_alike, LINES) == []


def test_a_layer_with_the_bytes_of_another_is_a_duplicate() -> None:
    fathers = [replace(SOUND, norm=10.0 + layer) for layer in (1, 2)]
    rows = [
        facts(
            f"model.layers.{layer}.mlp.up_proj.weight",
            father=own,
            mother=replace(own, std=0.11),
        )
        for layer, own in zip((1, 2), fathers, strict=True)
    ]
    (found,) = weight_findings(rows, LINES)
    assert (found.rule, found.layer, found.found) == (
        "duplicate",
        2,
        "the same as layer 1",
    )


def test_a_child_equal_to_one_parent_everywhere_is_no_merge() -> None:
    names = [f"model.layers.{layer}.mlp.up_proj.weight" for layer in range(3)]
    rows = [
        facts(name, equal=frozenset({"father"}), child=replace(SOUND, norm=10 + i / 9))
        for i, name in enumerate(names)
    ]
    assert rules(weight_findings(rows, LINES)) == {("nothing_changed", "error")}
    rows[1] = replace(rows[1], equal=frozenset({"mother"}))
    assert weight_findings(rows, LINES) == []


def test_interference_is_measured_against_the_larger_parent() -> None:
    father, mother = {"P": [0.1, 0.2, 0.01, 0.1]}, {"P": [0.2, 0.1, 0.01, 0.2]}
    # 1.55 x, 2.55 x, below the floor, and 1.4 x the larger (2.8 x the smaller)
    child = {"P": [0.31, 0.51, 0.04, 0.28]}
    found = importance_findings(child, father, mother, LINES)
    assert [(item.rule, item.severity, item.layer) for item in found] == [
        ("interference", "note", 0),
        ("interference", "warning", 1),
    ]
    assert found[0].found == pytest.approx(1.55)


def test_function_loss_counts_only_in_a_parents_top_quarter() -> None:
    father, mother = {"P": [0.9, 0.3, 0.2, 0.2]}, {"P": [0.8, 0.3, 0.2, 0.2]}
    child = {"P": [0.3, 0.01, 0.2, 0.2]}
    (found,) = importance_findings(child, father, mother, LINES)
    assert (found.rule, found.severity, found.layer) == ("function_loss", "warning", 0)
    assert found.found == pytest.approx(0.3 / 0.9)


@pytest.mark.parametrize(
    ("value", "severity"), [(0.2, "note"), (0.09, "warning"), (0.01, "error")]
)
def test_function_loss_is_a_note_while_the_child_follows_the_other_parent(
    value: float, severity: str
) -> None:
    father, mother = {"P": [0.9, 0.3, 0.2, 0.2]}, {"P": [0.2, 0.3, 0.2, 0.2]}
    found = importance_findings({"P": [value, 0.3, 0.2, 0.2]}, father, mother, LINES)
    assert [item.severity for item in found] == [severity]


def test_the_top_line_holds_at_least_one_layer() -> None:
    assert top_line([0.3, 0.1, 0.2], 0.25) == 0.3
    assert top_line([float(i) for i in range(8)], 0.25) == 6.0


def test_perplexity_is_compared_with_the_worse_parent() -> None:
    father, mother = {"A": 1.0, "B": 2.0}, {"A": 2.0, "B": 1.0}
    fine = perplexity_findings({"A": 3.0, "B": 3.0}, father, mother, LINES)
    assert fine == []  # e^1 = 2.7
    child = {"A": 2.0 + 1.2, "B": 2.0 + 2.4}  # e^1.2 = 3.3, e^2.4 = 11
    found = perplexity_findings(child, father, mother, LINES)
    assert [item.severity for item in found] == ["warning", "error"]


@pytest.mark.parametrize(
    ("tokens", "text", "fault"),
    [
        ([5, 6, 7, 8], "a word", ""),
        ([], "", "empty"),
        ([9, 9, 9], " \n ", "empty"),
        ([4] * 20, "aaaaaaaaaaaaaaaaaaaa", "repeating"),
        ([1, 2] * 10, "ab" * 10, "repeating"),
        ([1, 2, 3] * 7, "abc" * 7, ""),
        ([7, 7, 7], "ooo", ""),  # too short to call it a loop
        ([1, 2, 3], "\x00\x01\ufffd", "unprintable"),
        ([1, 2, 3], "서울이다", ""),
    ],
)
def test_collapsed_answers_are_told_from_sound_ones(
    tokens: list[int], text: str, fault: str
) -> None:
    assert fault_of(tokens, text) == fault


def test_collapse_alarms_only_where_the_parents_do_better() -> None:
    def rows(model: str, faults: int) -> list[Answer]:
        return [
            Answer(
                model=model, probe="P", prompt="", text="", fault="empty" * (i < faults)
            )
            for i in range(4)
        ]

    parents = [*rows("father", 0), *rows("mother", 2)]
    assert answer_findings([*parents, *rows("child", 3)], LINES) == []
    (found,) = answer_findings([*parents, *rows("child", 4)], LINES)
    assert (found.rule, found.severity) == ("collapse", "error")


class Words:
    """A tokenizer of whole words."""

    def __init__(self, *words: str) -> None:
        self.ids = {word: i for i, word in enumerate(words)}

    def get_vocab(self) -> dict[str, int]:
        return self.ids

    def encode(self, text: str) -> list[int]:
        return [self.ids[word] for word in text.split() if word in self.ids]


def test_a_tokenizer_must_number_tokens_as_a_parent_does() -> None:
    own, other = Words("a", "b", "c"), Words("b", "a", "c")
    assert tokenizer_findings(own, own, own, ["a b"]) == []
    assert tokenizer_findings(own, own, other, ["a b"]) == []
    (found,) = tokenizer_findings(other, own, own, ["a b"])
    assert (found.severity, found.found) == (
        "error",
        "2 tokens not numbered as Father's",
    )
    (missing,) = tokenizer_findings(None, own, own, [])
    assert missing.severity == "warning"


def test_a_union_of_two_vocabularies_is_only_noted() -> None:
    father, mother = Words("a", "b"), Words("b", "c")
    (found,) = tokenizer_findings(Words("c", "a", "b"), father, mother, [])
    assert found.severity == "note"


def test_the_worst_finding_gives_the_verdict() -> None:
    def of(severity: Any) -> Finding:
        return Finding(rule="nan", severity=severity)

    assert verdict_of([]) == "healthy"
    assert verdict_of([of("note")]) == "healthy"
    assert verdict_of([of("note"), of("warning")]) == "warning"
    assert verdict_of([of("error"), of("warning")]) == "unhealthy"


def test_every_rule_says_what_it_measures_and_what_to_try() -> None:
    assert all(rule.meaning and rule.advice for rule in RULES.values())


def test_a_threshold_below_zero_is_refused() -> None:
    with pytest.raises(DarwinError, match="norm_high"):
        Thresholds(norm_high=-1.0)
