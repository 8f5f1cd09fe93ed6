"""What the check of models knows of them, its findings, and those about their names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, field
from typing import Any, Literal

from mergekit_darwin.errors import DarwinError, some
from mergekit_darwin.models.checkpoint import TensorHeader
from mergekit_darwin.models.names import common_tail, site_of, tails

Severity = Literal["ok", "note", "stops"]


@dataclass(frozen=True)
class Model:
    """One model by what its config and headers say; role as in a sentence."""

    role: str
    headers: Mapping[str, TensorHeader]
    config: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"the {self.role}"


@dataclass(frozen=True)
class Layout:
    """What mergekit will write: names, which of them must be there, who lacks which.

    lacks maps a role to the names it has under no name that mergekit accepts; read
    maps a role to the names in its file that are used.
    """

    names: tuple[str, ...]
    required: frozenset[str]
    lacks: Mapping[str, frozenset[str]]
    read: Mapping[str, frozenset[str]]

    def lacked_by(self, models: Iterable[Model]) -> frozenset[str]:
        """Return the names that at least one of the models lacks."""
        return frozenset().union(*(self.lacks[model.role] for model in models))


@dataclass(frozen=True)
class Setup:
    """What the configuration says beside the models.

    dtype is what all are read as; resizes whether vocabularies are aligned; config_of
    whose config the child gets, None where mergekit takes any model's; father_is_base
    whether there is one task vector only. lost names the child's tensors that the
    Father's files hold and mergekit's plan leaves out, which may_lose allows. counters
    says of every integer that is no matrix whether the models agree on it.
    """

    dtype: str | None = None
    resizes: bool = False
    config_of: str | None = "Father"
    father_is_base: bool = False
    lost: tuple[str, ...] = ()
    may_lose: bool = False
    counters: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class Finding:
    """One line of the check: ok, a note, or what stops the merge."""

    severity: Severity
    rule: str
    found: str
    effect: str = ""

    def line(self) -> str:
        """Return the finding as one line of text."""
        end = f" -> {self.effect}" if self.effect else ""
        return f"{self.severity:5} {self.rule}: {self.found}{end}"

    def heed(self) -> None:
        """Raise DarwinError if this stops the merge."""
        if self.severity == "stops":
            end = f"; {self.effect}" if self.effect else ""
            raise DarwinError(f"The models must fit; {self.rule}: {self.found}{end}.")


def even(names: Iterable[str], uneven: set[str]) -> list[str]:
    """Return the names outside the stacks of uneven depth, sorted."""
    return sorted(name for name in names if site_of(name).stack not in uneven)


def tensors(names: Sized) -> str:
    """Return "1 tensor", "2 tensors"."""
    return f"{len(names)} tensor{'' if len(names) == 1 else 's'}"


def places(names: list[str]) -> str:
    """Return " (vision_tower 27, embed_vision 1)" where names have common owners."""
    parts = [name.split(".") for name in names]
    owners = Counter(".".join(p[:2]) if len(p) > 3 else p[0] for p in parts)
    if len(names) < 3 or len(owners) > 4:
        return ""
    return f" ({', '.join(f'{owner} {count}' for owner, count in owners.items())})"


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
        if _named_otherwise(unheard, father, layout):
            effect = (
                "the files have them under older or shorter names, which mergekit does"
                " not know: load each model with transformers and save it again"
            )
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


def _named_otherwise(wanted: list[str], model: Model, layout: Layout) -> bool:
    """Return whether a model has names as transformers renames them on loading.

    Without the first parts, or with `gamma` and `beta` of a norm.
    """
    spare = {
        name.replace(".gamma", ".weight").replace(".beta", ".bias")
        for name in model.headers.keys() - layout.read[model.role]
    }
    return all(spare & set(tails(name)) for name in wanted)


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
