"""Whether parents fit, from configs and headers alone: no files, no tensors.

Each finding is one line: what was found, and what will happen to it in the merge.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from mergekit_darwin.errors import some
from mergekit_darwin.merge.findings import (
    Finding,
    Layout,
    Model,
    Setup,
    find_missing,
    find_renamed,
    find_unused,
    places,
    tensors,
)
from mergekit_darwin.models.checkpoint import integers
from mergekit_darwin.models.names import site_of, stack_depths

_PLAIN = Setup()
_ORDER = ("stops", "note", "ok")
_HEADS = ("lm_head", "embed_out", "output")
_FLOATS = ("float16", "bfloat16", "float32", "float64")


def check_fit(
    models: list[Model], layout: Layout | None = None, setup: Setup = _PLAIN
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
            *find_renamed(father, other, layout),
        )
    ]
    renamed = any(row.rule == "renamed prefix" for row in found)
    if set(layout.names) - layout.lacked_by(models) and not renamed:
        found += [
            *find_missing(models, layout, uneven),
            *find_unused(models, layout, uneven),
        ]
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
            f"{tensors(odd)} of other shape in {other}: {odd[0]!r} is {left} in"
            f" {father}, {right} in {other}",
            "these models cannot be merged tensor by tensor",
        )


def _lost(setup: Setup) -> Iterator[Finding]:
    names = sorted(setup.lost)
    if names:
        found = (
            f"{tensors(names)} of the model that the merge would not write"
            f"{places(names)}: {some(names, 4)}"
        )
        effect = "mergekit's plan leaves them out; allow_missing: true goes on"
        if setup.may_lose:
            effect = "the child is without them (allow_missing)"
        yield Finding("note" if setup.may_lose else "stops", "lost", found, effect)


def _counters(setup: Setup) -> Iterator[Finding]:
    same = [name for name, agree in setup.counters.items() if agree]
    differ = [name for name, agree in setup.counters.items() if not agree]
    if same:
        found = f"{tensors(same)} of integers: {some(same, 4)}"
        yield Finding("note", "counters", found, "copied from the Father")
    if differ:
        found = f"{tensors(differ)} of integers differ: {some(differ, 4)}"
        effect = "mergekit copies only what agrees; make them the Father's first"
        yield Finding("stops", "counters", found, effect)


def _dtypes(models: list[Model], setup: Setup) -> Iterator[Finding]:
    kinds = {m.role: Counter(h.dtype for h in m.headers.values()) for m in models}
    for model in models:
        odd = [name for name, h in model.headers.items() if "float8" in h.dtype]
        if odd:
            found = f"{tensors(odd)} of {model} in float8: {some(odd, 2)}"
            effect = "its scales lie apart; dequantise it to bfloat16 first"
            yield Finding("stops", "dtype", found, effect)
        packed = integers(model.headers.values())
        if packed:
            kind = model.headers[packed[0]].dtype
            found = f"{tensors(packed)} of {model} in {kind}: {some(packed, 2)}"
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
