"""One tensor's ratio as a page of text: every formula with its numbers filled in."""

from __future__ import annotations

from collections.abc import Iterator

from mergekit_darwin.errors import DarwinError, nearest
from mergekit_darwin.kernel.masks import STEPS, threshold
from mergekit_darwin.merge.explain_scores import (
    heading,
    mri_lines,
    number,
    probe_lines,
    statistics_lines,
)
from mergekit_darwin.merge.method import depth_of
from mergekit_darwin.merge.preview import Planned, prescribe_run, shape_of
from mergekit_darwin.ratios.genome import block_gene
from mergekit_darwin.ratios.rules import Prescription


def explain(planned: list[Planned], name: str) -> str:
    """Return the whole chain from one tensor's statistics to its route, as text.

    Reads that tensor's weights where the ratio rests on them. Raises DarwinError if
    the run writes no tensor of this name.
    """
    tensor = find(planned, name)
    (row,) = prescribe_run([tensor])
    lines = [
        *_place(tensor, row),
        *statistics_lines(tensor, row),
        *probe_lines(tensor, row),
        *mri_lines(tensor, row),
        *_genes(tensor, row),
        *_final(tensor, row),
        *_route(tensor, row),
    ]
    return "\n".join(lines) + "\n"


def find(planned: list[Planned], name: str) -> Planned:
    """Return the planned tensor of this name, or of this unique part of a name."""
    names = {tensor.name: tensor for tensor in planned}
    if name in names:
        return names[name]
    parts = [full for full in names if name in full]
    if len(parts) == 1:
        return names[parts[0]]
    hint = nearest(name, names)
    if parts:
        hint = f" {len(parts)} names contain it, the first {parts[0]!r}."
    raise DarwinError(f"This merge writes no tensor {name!r}.{hint}")


def _place(tensor: Planned, row: Prescription) -> Iterator[str]:
    base, father, mother = tensor.roles
    yield row.name
    where = f"component {row.component}"
    if row.layer is not None:
        depth = depth_of(row.name, tensor.settings, tensor.plan)
        where += f", layer {row.layer} of 0-{(depth or 1) - 1} in {row.stack}"
        if row.block is not None:
            blocks = min(depth or 1, tensor.settings.genome.blocks)
            where += f", block {row.block} of 0-{blocks - 1}"
    yield f"  {where}"
    shape = shape_of(tensor)
    if shape is not None:
        yield f"  shape {list(shape)}"
    yield f"  Father (ratio 0)  {father}"
    yield f"  Mother (ratio 1)  {mother}"
    if base is not None and base != father:
        yield f"  base              {base}"


def _genes(tensor: Planned, row: Prescription) -> Iterator[str]:
    if row.genome_ratio is None:
        return
    genome = tensor.settings.genome
    names = [f"{row.component}_ratio"]
    if row.block is not None:
        names.append(block_gene(row.block))
    terms = " + ".join(f"{name} {number(genome[name])}" for name in names)
    mean = f"({terms}) / 2" if len(names) == 2 else terms
    yield from heading("genome_ratio", "mean of the genes that name the tensor")
    yield f"  {mean} = {number(row.genome_ratio)}"


def _final(tensor: Planned, row: Prescription) -> Iterator[str]:
    settings = tensor.settings
    trust = settings.genome["mri_trust"]
    if row.genome_ratio is None:
        yield from heading("ratio", "only one model has this tensor")
        yield f"  {number(row.ratio)}"
    elif settings.ratio is not None:
        yield from heading("ratio", "explicit (parameter ratio), replaces the rest")
        yield f"  {number(row.ratio)}"
    elif settings.table is not None and row.name in settings.table.ratios:
        yield from heading("ratio", f"explicit (ratios: {settings.table.path})")
        yield f"  {number(row.ratio)}"
    else:
        yield from heading(
            "ratio", "mri_trust * mri_ratio + (1 - mri_trust) * genome_ratio"
        )
        mri = "-" if row.mri_ratio is None else number(row.mri_ratio)
        yield (
            f"  {number(trust)} * {mri} + {number(1.0 - trust)} *"
            f" {number(row.genome_ratio)} = {number(row.ratio)}"
        )


def _route(tensor: Planned, row: Prescription) -> Iterator[str]:
    settings = tensor.settings
    low, high = settings.routing.low, settings.routing.high
    yield from heading("route", f"Father's below {low:g}, Mother's above {high:g}")
    if row.route != "blend" or row.genome_ratio is None:
        yield f"  {row.route}: the {row.route.capitalize()}'s tensor, bit for bit"
        return
    genome = settings.genome
    yield (
        f"  blend: Father {number(1.0 - row.ratio)} + Mother {number(row.ratio)},"
        f" lambda {genome['lambda']:g}"
    )
    weight = genome["merge_method_weight"]
    yield (
        f"  {number(weight)} of it DARE-TIES, {number(1.0 - weight)} the plain"
        " weighted sum"
    )
    yield from _mask(tensor)


def _mask(tensor: Planned) -> Iterator[str]:
    settings = tensor.settings
    shape = shape_of(tensor)
    if shape is not None and len(shape) < 2:
        yield "  no masks: of vectors and scalars every entry is kept"
        return
    yield "  masks:"
    base, father, _ = tensor.roles
    alone = base is None or base == father
    for whose, gene, half in (
        ("Father", "density_a", "upper"),
        ("Mother", "density_b", "lower"),
    ):
        if whose == "Father" and alone:
            yield "    Father: is the base, has no task vector to mask"
            continue
        density = settings.genome[gene]
        steps = threshold(density)
        grown = f", kept entries x {STEPS / steps:.6f}" if settings.rescale else ""
        yield (
            f"    {whose}: {gene} {number(density)}, kept where the {half} 16 bits of"
            f" the hash are below {steps} of {STEPS}{grown}"
        )
    yield f"    seed {settings.seed}, genome_hash {settings.genome_hash}"
