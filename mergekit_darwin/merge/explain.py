"""One tensor's ratio as a page of text: the rules' own terms, with their numbers."""

from __future__ import annotations

from collections.abc import Iterator

from mergekit_darwin.errors import DarwinError, nearest
from mergekit_darwin.kernel.masks import STEPS, threshold
from mergekit_darwin.merge.preview import Planned, Profiles, measured, row_of
from mergekit_darwin.merge.provider import depth_of, explicit_ratio, needs_weights
from mergekit_darwin.ratios.rules import Prescription, final_terms, gene_terms
from mergekit_darwin.ratios.scores import (
    Pair,
    Scores,
    Terms,
    combined_terms,
    exact_total,
    gain_terms,
    probe_terms,
    relative_scales,
    relative_terms,
    total,
)

Lines = Iterator[str]
_PARENTS = ("Father", "Mother")


def explain(planned: list[Planned], name: str) -> str:
    """Return the whole chain from one tensor's statistics to its route, as text.

    Reads that tensor's weights where the ratio rests on them. Raises DarwinError if
    the run writes no tensor of this name.
    """
    tensor = find(planned, name)
    profiles = _profiles(tensor)
    row = row_of(tensor, profiles)
    lines = [*_place(tensor, row)]
    if row.scores is not None:
        lines += _static(profiles)
        lines += _scores(tensor, row, row.scores)
    if row.genome_ratio is not None:
        lines += _genes(tensor, row)
    lines += [*_final(tensor, row), *_route(tensor, row)]
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


def _profiles(tensor: Planned) -> Profiles | None:
    """Return both profiles: from the report, or measured where there is none."""
    if needs_weights(tensor.name, tensor.settings):
        return dict(measured([tensor])).get(tensor.name)
    if tensor.settings.mds is None:
        return None
    report = tensor.settings.mds.report
    left = report.father.tensors.get(tensor.name)
    right = report.mother.tensors.get(tensor.name)
    return (left, right) if left and right else None


def _place(tensor: Planned, row: Prescription) -> Lines:
    site = row.site
    yield row.name
    where = f"component {site.component}"
    if site.layer is not None:
        depth = depth_of(row.name, tensor.settings, tensor.run.depths) or 1
        where += f", layer {site.layer} of 0-{depth - 1} in {site.stack}"
        if row.block is not None:
            blocks = min(depth, tensor.settings.genome.blocks)
            where += f", block {row.block} of 0-{blocks - 1}"
    yield f"  {where}"
    if tensor.shape is not None:
        yield f"  shape {list(tensor.shape)}"
    yield f"  Father (ratio 0)  {tensor.roles.father}"
    yield f"  Mother (ratio 1)  {tensor.roles.mother}"
    if tensor.roles.third is not None:
        yield f"  base              {tensor.roles.third}"


def _static(profiles: Profiles | None) -> Lines:
    if profiles is None:
        return
    terms = [profile.static_terms for profile in profiles]
    yield from _heading("static score", _formula(terms[0]))
    yield f"  {'':10}{'Father':>18}{'Mother':>18}"
    for label in ("entropy", "std", "norm", "max_abs", "zeros", "numel"):
        left, right = (getattr(profile, label) for profile in profiles)
        yield f"  {label:10}{left:>18.9g}{right:>18.9g}"
    yield from _sums(terms, [profile.static for profile in profiles])


def _scores(tensor: Planned, row: Prescription, scores: Scores) -> Lines:
    """Yield how probe distances and static scores become mri_ratio."""
    report = tensor.settings.mds.report if tensor.settings.mds else None
    reading = tensor.settings.mri
    models = (report.father, report.mother) if report else ()
    if report and scores.probe is not None and row.site.layer is not None:
        yield from _heading("probe score", "sum over probes of weight * distance")
        layer = row.site.layer
        yield from _table([probe_terms(report, model, layer) for model in models])
    if reading == "published":
        both = [
            combined_terms(static, probe)
            for static, probe in zip(
                scores.static, scores.probe or (None, None), strict=True
            )
        ]
        yield from _heading("combined", _formula(both[0]))
        yield from _sums(both, [total(terms) for terms in both])
        yield from _share(reading, (total(both[0]), total(both[1])), row)
    elif report and tensor.settings.mds and reading == "relative":
        scales = relative_scales(tensor.settings.mds.scores("published"))
        terms = relative_terms(row.site.component, scores, scales)
        what = "differences over their rms: z_static a component's, z_probe the layers'"
        yield from _heading("z", f"{_formula(terms)} ({what})")
        yield f"  {_numbers(terms)} = {total(terms):.6f}"
        yield from _heading("mri_ratio (relative)", "Phi(z)")
        yield f"  Phi({total(terms):.6f}) = {_number(row.mri_ratio)}"
    elif report:
        gains = [gain_terms(report, model, row.name) for model in models]
        yield from _heading("gain", "sum over probes of weight * positive gain")
        yield from _table(gains)
        yield from _share(reading, (exact_total(gains[0]), exact_total(gains[1])), row)


def _share(reading: str, pair: Pair, row: Prescription) -> Lines:
    left, right = (f"{value:.8g}" for value in pair)
    yield from _heading(f"mri_ratio ({reading})", "Mother / (Father + Mother)")
    yield f"  {right} / ({left} + {right}) = {_number(row.mri_ratio)}"


def _genes(tensor: Planned, row: Prescription) -> Lines:
    terms = gene_terms(row.site, tensor.settings.genome, row.block)
    yield from _heading("genome_ratio", f"mean of the genes: {_formula(terms)}")
    yield f"  {_numbers(terms)} = {_number(row.genome_ratio)}"


def _final(tensor: Planned, row: Prescription) -> Lines:
    settings = tensor.settings
    if row.genome_ratio is None:
        yield from _heading("ratio", "only one model has this tensor")
        yield f"  {_number(row.ratio)}"
    elif explicit_ratio(row.name, settings) is not None:
        place = "parameter ratio"
        if settings.ratio is None and settings.ratios is not None:
            place = f"ratios: {settings.ratios.path}"
        yield from _heading("ratio", f"explicit ({place}), replaces the rest")
        yield f"  {_number(row.ratio)}"
    else:
        trust, mri = settings.genome["mri_trust"], row.mri_ratio
        terms = final_terms(0.0 if mri is None else mri, row.genome_ratio, trust)
        words = "mri_trust * mri_ratio + (1 - mri_trust) * genome_ratio"
        yield from _heading("ratio", words)
        yield f"  {_numbers(terms)} = {_number(row.ratio)}"


def _route(tensor: Planned, row: Prescription) -> Lines:
    settings = tensor.settings
    low, high = settings.routing.low, settings.routing.high
    yield from _heading("route", f"Father's below {low:g}, Mother's above {high:g}")
    if row.route != "blend" or row.genome_ratio is None:
        yield f"  {row.route}: the {row.route.capitalize()}'s tensor, bit for bit"
        return
    acting = settings.acting
    yield f"  blend: Father {_number(1.0 - row.ratio)} + Mother {_number(row.ratio)}"
    for name, value in acting.items():
        yield f"  {name} {value:g}" if isinstance(value, float) else f"  {name} {value}"
    if "density_a" in acting:
        yield from _masks(tensor)


def _masks(tensor: Planned) -> Lines:
    settings = tensor.settings
    if tensor.shape is not None and len(tensor.shape) < 2:
        yield "  no masks: of vectors and scalars every entry is kept"
        return
    yield "  masks:"
    for whose, gene, half in (
        ("Father", "density_a", "upper"),
        ("Mother", "density_b", "lower"),
    ):
        if whose == "Father" and tensor.roles.third is None:
            yield "    Father: is the base, has no task vector to mask"
            continue
        density = settings.genome[gene]
        steps = threshold(density)
        grown = f", kept entries x {STEPS / steps:.6f}" if settings.rescale else ""
        yield (
            f"    {whose}: {gene} {_number(density)}, kept where the {half} 16 bits of"
            f" the hash are below {steps} of {STEPS}{grown}"
        )
    yield f"    seed {settings.seed}, genome_hash {settings.hash}"


def _heading(title: str, formula: str) -> Lines:
    yield ""
    yield f"{title} = {formula}"


def _formula(terms: Terms) -> str:
    return " + ".join(f"{weight:.6g} {name}" for name, weight, _ in terms)


def _numbers(terms: Terms) -> str:
    return " + ".join(f"{weight:.9g} * {value:.8g}" for _, weight, value in terms)


def _sums(both: list[Terms], totals: list[float]) -> Lines:
    for whose, terms, found in zip(_PARENTS, both, totals, strict=True):
        yield f"  {whose}: {_numbers(terms)} = {found:.8f}"


def _table(both: list[Terms]) -> Lines:
    """Yield one line a probe, and the sums."""
    yield f"  {'':12}{'weight':>8}{'Father':>16}{'Mother':>16}"
    for (name, weight, left), (_, _, right) in zip(*both, strict=True):
        yield f"  {name:12}{weight:>8.4g}{left:>16.8g}{right:>16.8g}"
    left, right = map(exact_total, both)
    yield f"  {'sum':12}{'':8}{left:>16.8g}{right:>16.8g}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.6f}"
