"""Names that one model has and another has not: renamed, missing, extra."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mergekit_darwin.errors import some
from mergekit_darwin.merge.findings import (
    Finding,
    Layout,
    Model,
    Severity,
    even,
    places,
    tensors,
)
from mergekit_darwin.models.checkpoint import TensorHeader
from mergekit_darwin.models.names import common_tail, site_of


def find_renamed(father: Model, other: Model, layout: Layout) -> Iterator[Finding]:
    """Find one prefix of names that stands for another in the other model."""
    change = renamed_prefix(father.headers, other.headers)
    if change is None:
        return
    left, right, count = change
    found = (
        f"{tensors(range(count))} named {left}* in {father} and {right}* in {other},"
        " otherwise alike"
    )
    if layout.lacked_by([father, other]) & (
        father.headers.keys() ^ other.headers.keys()
    ):
        effect = f"they would not be merged; save {other} again with {father}'s names"
        yield Finding("stops", "renamed prefix", found, effect)
    else:
        yield Finding("note", "renamed prefix", found, "mergekit reads both layouts")


def renamed_prefix(
    left: Mapping[str, TensorHeader], right: Mapping[str, TensorHeader]
) -> tuple[str, str, int] | None:
    """Return (prefix in left, prefix in right, tensors) if one stands for the other.

    That is so where at least half of the names that one side has alone turn, with the
    prefix exchanged, into names of equal shape that the other has alone.
    """
    only_left, only_right = left.keys() - right.keys(), right.keys() - left.keys()
    if not only_left or not only_right:
        return None
    # A few names of layers show every prefix there is, and always the same ones.
    sample = sorted(only_left, key=lambda name: (site_of(name).layer is None, name))[:8]
    pairs = {
        (a[: -len(tail)], b[: -len(tail)])
        for a in sample
        for b in only_right
        if (parts := common_tail(a, b)) >= 2
        and (tail := ".".join(a.split(".")[-parts:]))
    }
    best = (0, "", "")
    for old, new in pairs:
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


def find_missing(
    models: list[Model], layout: Layout, uneven: set[str]
) -> Iterator[Finding]:
    """Find the tensors that one model lacks, and what becomes of them."""
    father, mother = models[:2]
    both = layout.lacks["Father"] | layout.lacks["Mother"]
    nobody = frozenset.intersection(*(layout.lacks[model.role] for model in models))
    if unheard := even(nobody & layout.required, uneven):
        kind = (father.config.get("architectures") or ["this architecture"])[0]
        found = f"{tensors(unheard)} in none of the models: {some(unheard, 2)}"
        effect = f"mergekit's definition of {kind} asks for what no such model has"
        yield Finding("stops", "missing", found, effect)
    for model in models:
        if model.role == "base":
            lost, effect = layout.lacks["base"] - both, "the Father is their base"
            bases = (
                layout.lacks["Father"] & layout.lacks["Mother"] - layout.lacks["base"]
            )
            if alone := even(bases - layout.required, uneven):
                found = f"{tensors(alone)} only in the base: {some(alone, 2)}"
                yield Finding("note", "missing", found, "the child gets the base's")
        else:
            other = mother if model is father else father
            lost = layout.lacks[model.role]
            effect = f"the child gets the {other.role}'s, bit for bit"
        needed = even(lost & layout.required - nobody, uneven)
        if needed:
            words = "mergekit requires them for this architecture"
            yield _lack("stops", needed, model, words)
        spare = lost - layout.required
        if model.role != "base":
            spare -= layout.lacks[other.role]
        if lone := even(spare, uneven):
            yield _lack("note", lone, model, effect)


def _lack(severity: Severity, names: list[str], model: Model, effect: str) -> Finding:
    found = f"{tensors(names)} not in {model}{places(names)}: {some(names, 2)}"
    return Finding(severity, "missing", found, effect)


def find_unused(
    models: list[Model], layout: Layout, uneven: set[str]
) -> Iterator[Finding]:
    """Yield what the models' files hold beyond what mergekit writes; uneven are known.

    Each is a note: the merge leaves such tensors out.
    """
    for model in models:
        names = even(model.headers.keys() - layout.read[model.role], uneven)
        if names:
            found = (
                f"{tensors(names)} of {model}{places(names)} beyond what mergekit"
                f" writes: {some(names, 2)}"
            )
            yield Finding("note", "extra", found, "left out")
