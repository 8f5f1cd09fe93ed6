"""Whether parents fit, from configs and headers alone: no files, no tensors.

Each finding is one line: what was found, and what will happen to it in the merge.
"""

from __future__ import annotations

from collections import Counter

from mergekit_darwin.errors import some
from mergekit_darwin.merge.fit.facts import (
    Finding,
    Layout,
    Model,
    Run,
    inside,
    tensors,
)
from mergekit_darwin.merge.fit.names import find_missing, find_renamed, find_unused
from mergekit_darwin.models.names import site_of, stack_depths

_HEADS = ("lm_head", "embed_out", "output")
_PROMOTED = ("float16", "bfloat16", "float32", "float64")
_PLAIN_RUN = Run()


def check_fit(
    father: Model,
    mother: Model,
    base: Model | None = None,
    *,
    layout: Layout | None = None,
    run: Run = _PLAIN_RUN,
) -> list[Finding]:
    """Return what fits and what does not, the worst first.

    base is a third model. layout is None where mergekit cannot tell what it would
    write; names are then compared as they stand.
    """
    others = [model for model in (mother, base) if model is not None]
    found: list[Finding] = []
    uneven: set[str] = set()
    for other in others:
        found += _depths(father, other, uneven)
        found += _shapes(father, other, uneven, run)
    layout = layout or _plain_layout(father, mother, base)
    renamed = [row for other in others for row in find_renamed(father, other, layout)]
    found += renamed
    strangers = not set(layout.names) - frozenset().union(*layout.lacks.values())
    if strangers and not renamed:
        found.append(_strangers(father, others))
    elif not renamed:
        found += find_missing(father, mother, base, layout, uneven)
        found += find_unused([father, *others], layout, uneven)
    found += _dtypes([father, *others], run)
    found += _heads(father, mother, run)
    found += _configs(father, mother, run)
    if not any(row.severity == "stops" for row in found):
        found.append(_summary(father, mother, base, layout))
    return sorted(found, key=lambda row: ("stops", "note", "ok").index(row.severity))


def _plain_layout(father: Model, mother: Model, base: Model | None) -> Layout:
    """Return the layout in which every name of either parent is written."""
    names = tuple(sorted({*father.headers, *mother.headers}))
    models = [model for model in (father, mother, base) if model is not None]
    lacks = {m.role: frozenset(names) - frozenset(m.headers) for m in models}
    read = {m.role: frozenset(m.headers) for m in models}
    return Layout(names, frozenset(), lacks, read)


def _strangers(father: Model, others: list[Model]) -> Finding:
    heads = [f"{some(model.headers, 2)} in {model}" for model in (father, *others)]
    effect = "bring them to one layout first"
    return Finding("stops", "names", f"no name in common: {'; '.join(heads)}", effect)


def _depths(father: Model, other: Model, uneven: set[str]) -> list[Finding]:
    left, right = stack_depths(father.headers), stack_depths(other.headers)
    rows = []
    for stack in sorted(set(left) & set(right)):
        if left[stack] != right[stack]:
            uneven.add(stack)
            rows.append(
                Finding(
                    "stops",
                    "depth",
                    f"{stack} has {left[stack]} layers in {father},"
                    f" {right[stack]} in {other}",
                    "cut the deeper one with slices in a merge before",
                )
            )
    return rows


def _shapes(father: Model, other: Model, uneven: set[str], run: Run) -> list[Finding]:
    vocabulary: list[str] = []
    odd: list[str] = []
    for name, left in father.headers.items():
        right = other.headers.get(name)
        if right is None or left.shape == right.shape or inside(name, uneven):
            continue
        rows_only = left.shape[1:] == right.shape[1:]
        is_vocabulary = rows_only and site_of(name).component == "embed"
        (vocabulary if is_vocabulary else odd).append(name)
    rows = []
    if vocabulary:
        left, right = father.headers[vocabulary[0]], other.headers[vocabulary[0]]
        rows.append(
            Finding(
                "note" if run.resizes else "stops",
                "vocabulary",
                f"{left.shape[0]} tokens in {father}, {right.shape[0]} in {other}"
                f" ({some(vocabulary, 2)})",
                "the tokenizer setting aligns the rows"
                if run.resizes
                else "add  tokenizer: {source: base}  to align the rows",
            )
        )
    if odd:
        first = odd[0]
        rows.append(
            Finding(
                "stops",
                "shape",
                f"{tensors(len(odd))} of other shape in {other}: {first!r} is"
                f" {list(father.headers[first].shape)} in {father},"
                f" {list(other.headers[first].shape)} in {other}",
                "these models cannot be merged tensor by tensor",
            )
        )
    return rows


def _dtypes(models: list[Model], run: Run) -> list[Finding]:
    rows = []
    kinds = {m.role: Counter(h.dtype for h in m.headers.values()) for m in models}
    for model in models:
        odd = [name for name, h in model.headers.items() if "float8" in h.dtype]
        if odd:
            found = f"{tensors(len(odd))} of {model} in float8: {some(odd, 2)}"
            effect = "its scales lie apart; dequantise it to bfloat16 first"
            rows.append(Finding("stops", "dtype", found, effect))
    if len({frozenset(kind) & {*_PROMOTED} for kind in kinds.values()}) > 1:
        found = ", ".join(
            f"the {role} {' and '.join(sorted(kind))}" for role, kind in kinds.items()
        )
        effect = (
            f"all are read as {run.dtype} (dtype)"
            if run.dtype
            else "tensors that differ are promoted to the wider type"
        )
        rows.append(Finding("note", "dtype", found, effect))
    return rows


def _heads(father: Model, mother: Model, run: Run) -> list[Finding]:
    tied = {model.role: is_tied(model) for model in (father, mother)}
    if tied["Father"] == tied["Mother"]:
        return []
    tied_one, free_one = (
        ("Father", "Mother") if tied["Father"] else ("Mother", "Father")
    )
    found = (
        f"the {tied_one} ties its LM head to the embeddings,"
        f" the {free_one} has a head of its own"
    )
    if run.config_of == tied_one:
        effect = (
            f"the child's config is the {tied_one}'s (tied): a merged head is written,"
            " but models load the embeddings in its place"
        )
    elif run.config_of == free_one:
        effect = f"the {tied_one}'s embeddings stand in for its head"
    else:
        effect = "whether the child is tied follows the config mergekit copies"
    return [Finding("note", "head", found, effect)]


def is_tied(model: Model) -> bool:
    """Return whether the head is the embeddings, by the config, else by the names."""
    for config in (model.config, model.config.get("text_config") or {}):
        if isinstance(config.get("tie_word_embeddings"), bool):
            return bool(config["tie_word_embeddings"])
    return not any(
        part in _HEADS
        for name in model.headers
        if site_of(name).layer is None
        for part in name.split(".")[-2:-1]
    )


def _configs(father: Model, mother: Model, run: Run) -> list[Finding]:
    rows = []
    left, right = (m.config.get("architectures") for m in (father, mother))
    if left and right and left != right:
        found = f"{left[0]} is {father}, {right[0]} {mother}"
        effect = f"the child becomes what the {run.config_of or 'one or other'} is"
        rows.append(Finding("note", "architecture", found, effect))
    if run.config_of is None:
        found = "there is no base_model"
        effect = (
            "mergekit copies config and tokenizer from either parent;"
            " write  base_model:  with the Father to fix which"
        )
        rows.append(Finding("note", "config", found, effect))
    return rows


def _summary(
    father: Model, mother: Model, base: Model | None, layout: Layout
) -> Finding:
    models = [model for model in (father, mother, base) if model is not None]
    lost = frozenset().union(*(layout.lacks[model.role] for model in models))
    depths = stack_depths(layout.names)
    stacks = ", ".join(f"{stack} x {depth}" for stack, depth in sorted(depths.items()))
    found = (
        f"{len(layout.names)} in the child,"
        f" {len(layout.names) - len(lost)} of them in all {len(models)} models"
    )
    return Finding("ok", "tensors", f"{found}; layers: {stacks or 'none'}")
