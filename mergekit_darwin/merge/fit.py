"""Whether parents fit, from configs and headers alone: no files, no tensors.

Each finding is one line: what was found, and what will happen to it in the merge.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, Literal

from mergekit_darwin.errors import some
from mergekit_darwin.models.checkpoint import TensorHeader, integers
from mergekit_darwin.models.names import site_of, stack_depths

Severity = Literal["ok", "note", "stops"]
_BOTH = ("Father", "Mother")
_ORDER = ("stops", "note", "ok")
_HEADS = ("lm_head", "embed_out", "output")
_FLOATS = ("float16", "bfloat16", "float32", "float64")


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


def check_fit(
    models: list[Model], layout: Layout | None = None, setup: Setup = Setup()
) -> list[Finding]:
    """Return what fits and what does not, the worst first.

    models are the Father, the Mother and where there is one a third model as base.
    layout is None where mergekit cannot tell what it would write; names are then
    compared as they stand.
    """
    father, *others = models
    uneven = {stack for other in others for stack in _uneven(father, other)}
    layout = layout or _plain_layout(models)
    found = [
        row
        for other in others
        for row in (
            *_depths(father, other),
            *_shapes(father, other, uneven, setup),
            *_renamed(father, other, layout),
        )
    ]
    renamed = any(row.rule == "renamed prefix" for row in found)
    if set(layout.names) - layout.lacked_by(models) and not renamed:
        found += [*_missing(models, layout, uneven), *_unused(models, layout, uneven)]
    elif not renamed:
        heads = "; ".join(f"{some(m.headers, 2)} in {m}" for m in models)
        effect = "bring them to one layout first"
        found.append(Finding("stops", "names", f"no name in common: {heads}", effect))
    found += [*_lost(setup), *_dtypes(models, setup), *_counters(setup)]
    found += [*_heads(models, setup), *_configs(models, setup)]
    if not any(row.severity == "stops" for row in found):
        found.append(_summary(models, layout))
    return sorted(found, key=lambda row: _ORDER.index(row.severity))


def _plain_layout(models: list[Model]) -> Layout:
    """Return the layout in which every name of either parent is written."""
    names = tuple(sorted({name for model in models[:2] for name in model.headers}))
    lacks = {m.role: frozenset(names) - frozenset(m.headers) for m in models}
    read = {m.role: frozenset(m.headers) for m in models}
    return Layout(names, frozenset(), lacks, read)


def _uneven(father: Model, other: Model) -> dict[str, tuple[int, int]]:
    """Return both depths of every stack that is not equally deep in both."""
    left, right = stack_depths(father.headers), stack_depths(other.headers)
    return {
        stack: (left[stack], right[stack])
        for stack in sorted(left.keys() & right.keys())
        if left[stack] != right[stack]
    }


def _depths(father: Model, other: Model) -> Iterator[Finding]:
    for stack, (left, right) in _uneven(father, other).items():
        found = f"{stack} has {left} layers in {father}, {right} in {other}"
        effect = "cut the deeper one with slices in a merge before"
        yield Finding("stops", "depth", found, effect)


def _shapes(
    father: Model, other: Model, uneven: set[str], setup: Setup
) -> Iterator[Finding]:
    differ = [
        name
        for name, header in father.headers.items()
        if name in other.headers
        and header.shape != other.headers[name].shape
        and site_of(name).stack not in uneven
    ]

    def is_vocabulary(name: str) -> bool:
        left, right = father.headers[name].shape, other.headers[name].shape
        return left[1:] == right[1:] and site_of(name).component == "embed"

    vocabulary = [name for name in differ if is_vocabulary(name)]
    odd = [name for name in differ if not is_vocabulary(name)]
    if vocabulary:
        rows = [m.headers[vocabulary[0]].shape[0] for m in (father, other)]
        yield Finding(
            "note" if setup.resizes else "stops",
            "vocabulary",
            f"{rows[0]} tokens in {father}, {rows[1]} in {other}"
            f" ({some(vocabulary, 2)})",
            "the tokenizer setting aligns the rows"
            if setup.resizes
            else "add  tokenizer: {source: base}  to align the rows",
        )
    if odd:
        left, right = (list(m.headers[odd[0]].shape) for m in (father, other))
        yield Finding(
            "stops",
            "shape",
            f"{_tensors(odd)} of other shape in {other}: {odd[0]!r} is {left} in"
            f" {father}, {right} in {other}",
            "these models cannot be merged tensor by tensor",
        )


def _renamed(father: Model, other: Model, layout: Layout) -> Iterator[Finding]:
    """Find one prefix of names that stands for another in the other model."""
    change = renamed_prefix(father.headers, other.headers)
    if change is None:
        return
    left, right, count = change
    found = (
        f"{_tensors(range(count))} named {left}* in {father} and {right}* in {other},"
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
        if (tail := _common_tail(a, b))
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


def _common_tail(left: str, right: str) -> str:
    """Return the longest common end that starts at a dot, or "" below two parts."""
    a, b = left.split("."), right.split(".")
    pairs = zip(reversed(a), reversed(b), strict=False)
    count = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    return ".".join(a[len(a) - count :]) if count >= 2 else ""


def _missing(
    models: list[Model], layout: Layout, uneven: set[str]
) -> Iterator[Finding]:
    """Find the tensors that one model lacks, and what becomes of them."""
    father, mother = models[:2]
    both = layout.lacks["Father"] | layout.lacks["Mother"]
    nobody = frozenset.intersection(*(layout.lacks[model.role] for model in models))
    if unheard := _even(nobody & layout.required, uneven):
        kind = (father.config.get("architectures") or ["this architecture"])[0]
        found = f"{_tensors(unheard)} in none of the models: {some(unheard, 2)}"
        effect = f"mergekit's definition of {kind} asks for what no such model has"
        yield Finding("stops", "missing", found, effect)
    for model in models:
        if model.role == "base":
            lost, effect = layout.lacks["base"] - both, "the Father is their base"
            alone = _even(both - layout.lacks["base"] - layout.required, uneven)
            if alone := [n for n in alone if all(n in layout.lacks[r] for r in _BOTH)]:
                found = f"{_tensors(alone)} only in the base: {some(alone, 2)}"
                yield Finding("note", "missing", found, "the child gets the base's")
        else:
            other = mother if model is father else father
            lost = layout.lacks[model.role]
            effect = f"the child gets the {other.role}'s, bit for bit"
        needed = _even(lost & layout.required - nobody, uneven)
        if needed:
            words = "mergekit requires them for this architecture"
            yield _lack("stops", needed, model, words)
        spare = lost - layout.required
        if model.role != "base":
            spare -= layout.lacks[other.role]
        if lone := _even(spare, uneven):
            yield _lack("note", lone, model, effect)


def _lack(severity: Severity, names: list[str], model: Model, effect: str) -> Finding:
    found = f"{_tensors(names)} not in {model}{_places(names)}: {some(names, 2)}"
    return Finding(severity, "missing", found, effect)


def _unused(models: list[Model], layout: Layout, uneven: set[str]) -> Iterator[Finding]:
    for model in models:
        names = _even(model.headers.keys() - layout.read[model.role], uneven)
        if names:
            found = (
                f"{_tensors(names)} of {model}{_places(names)} beyond what mergekit"
                f" writes: {some(names, 2)}"
            )
            yield Finding("note", "extra", found, "left out")


def _lost(setup: Setup) -> Iterator[Finding]:
    names = sorted(setup.lost)
    if names:
        found = (
            f"{_tensors(names)} of the model that the merge would not write"
            f"{_places(names)}: {some(names, 4)}"
        )
        effect = "mergekit's plan leaves them out; allow_missing: true goes on"
        if setup.may_lose:
            effect = "the child is without them (allow_missing)"
        yield Finding("note" if setup.may_lose else "stops", "lost", found, effect)


def _counters(setup: Setup) -> Iterator[Finding]:
    same = [name for name, agree in setup.counters.items() if agree]
    differ = [name for name, agree in setup.counters.items() if not agree]
    if same:
        found = f"{_tensors(same)} of integers: {some(same, 4)}"
        yield Finding("note", "counters", found, "copied from the Father")
    if differ:
        found = f"{_tensors(differ)} of integers differ: {some(differ, 4)}"
        effect = "mergekit copies only what agrees; make them the Father's first"
        yield Finding("stops", "counters", found, effect)


def _dtypes(models: list[Model], setup: Setup) -> Iterator[Finding]:
    kinds = {m.role: Counter(h.dtype for h in m.headers.values()) for m in models}
    for model in models:
        odd = [name for name, h in model.headers.items() if "float8" in h.dtype]
        if odd:
            found = f"{_tensors(odd)} of {model} in float8: {some(odd, 2)}"
            effect = "its scales lie apart; dequantise it to bfloat16 first"
            yield Finding("stops", "dtype", found, effect)
        packed = integers(model.headers.values())
        if packed:
            kind = model.headers[packed[0]].dtype
            found = f"{_tensors(packed)} of {model} in {kind}: {some(packed, 2)}"
            effect = "quantised or packed; dequantise it to bfloat16 first"
            yield Finding("stops", "dtype", found, effect)
    if len({frozenset(kind) & {*_FLOATS} for kind in kinds.values()}) > 1:
        found = ", ".join(
            f"the {role} {' and '.join(sorted(kind))}" for role, kind in kinds.items()
        )
        effect = (
            f"all are read as {setup.dtype} (dtype)"
            if setup.dtype
            else "tensors that differ are promoted to the wider type"
        )
        yield Finding("note", "dtype", found, effect)


def _heads(models: list[Model], setup: Setup) -> Iterator[Finding]:
    father, mother = models[:2]
    if is_tied(father) == is_tied(mother):
        return
    tied, free = (father, mother) if is_tied(father) else (mother, father)
    found = f"{tied} ties its LM head to the embeddings, {free} has a head of its own"
    if setup.config_of == tied.role:
        effect = (
            f"the child's config is {tied}'s (tied): a merged head is written, but"
            " models load the embeddings in its place"
        )
    elif setup.config_of == free.role:
        effect = f"{tied}'s embeddings stand in for its head"
    else:
        effect = "whether the child is tied follows the config mergekit copies"
    yield Finding("note", "head", found, effect)


def is_tied(model: Model) -> bool:
    """Return whether the head is the embeddings, by the config, else by the names."""
    for config in (model.config, model.config.get("text_config") or {}):
        if isinstance(config.get("tie_word_embeddings"), bool):
            return bool(config["tie_word_embeddings"])
    outside = (name for name in model.headers if site_of(name).layer is None)
    return not any(
        part in _HEADS for name in outside for part in name.split(".")[-2:-1]
    )


def _configs(models: list[Model], setup: Setup) -> Iterator[Finding]:
    father, mother = models[:2]
    left, right = (m.config.get("architectures") for m in (father, mother))
    if left and right and left != right:
        found = f"{left[0]} is {father}, {right[0]} {mother}"
        effect = f"the child becomes what the {setup.config_of or 'one or other'} is"
        yield Finding("note", "architecture", found, effect)
    if setup.config_of is None:
        effect = (
            "mergekit copies config and tokenizer from either parent; write "
            " base_model:  with the Father to fix which"
        )
        yield Finding("note", "config", "there is no base_model", effect)
    if setup.father_is_base:
        effect = "there is one task vector, and density_a has nothing to act on"
        yield Finding("note", "base", "the Father is the base", effect)


def _summary(models: list[Model], layout: Layout) -> Finding:
    depths = stack_depths(layout.names)
    stacks = ", ".join(f"{stack} x {depth}" for stack, depth in sorted(depths.items()))
    whole = len(layout.names) - len(layout.lacked_by(models))
    found = (
        f"{len(layout.names)} in the child, {whole} of them in all {len(models)} models"
    )
    return Finding("ok", "tensors", f"{found}; layers: {stacks or 'none'}")


def _even(names: Iterable[str], uneven: set[str]) -> list[str]:
    """Return the names outside the stacks of uneven depth, sorted."""
    return sorted(name for name in names if site_of(name).stack not in uneven)


def _tensors(names: Sized) -> str:
    return f"{len(names)} tensor{'' if len(names) == 1 else 's'}"


def _places(names: list[str]) -> str:
    """Return " (vision_tower 27, embed_vision 1)" where names have common owners."""
    parts = [name.split(".") for name in names]
    owners = Counter(".".join(p[:2]) if len(p) > 3 else p[0] for p in parts)
    if len(names) < 3 or len(owners) > 4:
        return ""
    return f" ({', '.join(f'{owner} {count}' for owner, count in owners.items())})"
