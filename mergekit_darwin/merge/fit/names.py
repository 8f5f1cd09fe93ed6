"""Names that one model has and another has not: renamed, missing, extra."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import takewhile

from mergekit_darwin.errors import some
from mergekit_darwin.merge.fit.facts import (
    Finding,
    Header,
    Layout,
    Model,
    Severity,
    even,
    places,
    tensors,
)
from mergekit_darwin.models.names import site_of


def find_renamed(father: Model, other: Model, layout: Layout) -> list[Finding]:
    """Find one prefix of names that stands for another in the other model."""
    change = renamed_prefix(father.headers, other.headers)
    if change is None:
        return []
    left, right, count = change
    lost = layout.lacks[father.role] | layout.lacks[other.role]
    converted = not lost & {
        *(name for name in father.headers if name not in other.headers),
        *(name for name in other.headers if name not in father.headers),
    }
    found = (
        f"{tensors(count)} named {left}* in {father} and {right}* in {other},"
        " otherwise alike"
    )
    if converted:
        effect = "mergekit reads both layouts"
        return [Finding("note", "renamed prefix", found, effect)]
    effect = f"they would not be merged; save {other} again with {father}'s names"
    return [Finding("stops", "renamed prefix", found, effect)]


def renamed_prefix(
    left: Mapping[str, Header], right: Mapping[str, Header]
) -> tuple[str, str, int] | None:
    """Return (prefix in left, prefix in right, tensors) if one stands for the other.

    That is so where at least half of the names that one side has alone turn, with the
    prefix exchanged, into names of equal shape that the other has alone.
    """
    only_left = {name for name in left if name not in right}
    only_right = {name for name in right if name not in left}
    if not only_left or not only_right:
        return None
    votes = Counter(
        (a[: -len(tail)], b[: -len(tail)])
        for a in _sample(only_left)
        for b in only_right
        if (tail := _common_tail(a, b))
    )
    best = (0, "", "")
    for old, new in votes:
        count = sum(
            name.startswith(old)
            and (twin := new + name[len(old) :]) in only_right
            and left[name].shape == right[twin].shape
            for name in only_left
        )
        best = max(best, (count, old, new))
    if 2 * best[0] < min(len(only_left), len(only_right)):
        return None
    return best[1], best[2], best[0]


def _sample(names: set[str], most: int = 8) -> list[str]:
    """Return a few names, those within layers first, always the same ones."""
    return sorted(names, key=lambda name: (site_of(name).layer is None, name))[:most]


def _common_tail(left: str, right: str) -> str:
    """Return the longest common end that starts at a dot, or "" below two parts."""
    a, b = left.split("."), right.split(".")
    pairs = zip(reversed(a), reversed(b), strict=False)
    count = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    return ".".join(a[len(a) - count :]) if count >= 2 else ""


def find_missing(
    father: Model,
    mother: Model,
    base: Model | None,
    layout: Layout,
    uneven: set[str],
) -> list[Finding]:
    """Return findings for the tensors that one model lacks and what becomes of them."""
    rows = []
    for model, other in ((father, mother), (mother, father)):
        names = even(layout.lacks[model.role], uneven)
        needed = [name for name in names if name in layout.required]
        if needed:
            effect = "mergekit requires them for this architecture"
            rows.append(_lack("stops", needed, model, effect))
        lone = [
            name
            for name in names
            if name not in layout.required and name not in layout.lacks[other.role]
        ]
        if lone:
            effect = f"the child gets the {other.role}'s, bit for bit"
            rows.append(_lack("note", lone, model, effect))
    if base is not None:
        both = layout.lacks[father.role] | layout.lacks[mother.role]
        names = even(layout.lacks[base.role] - both, uneven)
        needed = [name for name in names if name in layout.required]
        if needed:
            effect = "mergekit requires them for this architecture"
            rows.append(_lack("stops", needed, base, effect))
        spare = [name for name in names if name not in layout.required]
        if spare:
            effect = "the Father is their base"
            rows.append(_lack("note", spare, base, effect))
    return rows


def _lack(severity: Severity, names: list[str], model: Model, effect: str) -> Finding:
    found = f"{tensors(len(names))} not in {model}{places(names)}: {some(names, 2)}"
    return Finding(severity, "missing", found, effect)


def find_unused(models: list[Model], layout: Layout, uneven: set[str]) -> list[Finding]:
    """Return a finding for each model with tensors that the merge does not read."""
    rows = []
    for model in models:
        names = even(set(model.headers) - layout.read[model.role], uneven)
        if names:
            rows.append(
                Finding(
                    "note",
                    "extra",
                    f"{tensors(len(names))} of {model}{places(names)} beyond what"
                    f" mergekit writes: {some(names, 2)}",
                    "left out",
                )
            )
    return rows
