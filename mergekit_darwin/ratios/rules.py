"""From scores to ratios and routes: pure rules, no tensors, no files.

A ratio is the Mother's share: 0 is the Father, 1 the Mother.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.kernel.profile import Profile
from mergekit_darwin.models.names import Component, Site, block_of, site_of
from mergekit_darwin.ratios.genome import Genome, block_gene
from mergekit_darwin.scan.report import ModelReport, Report

Mri = Literal["published", "relative", "attribution"]
Route = Literal["father", "mother", "blend"]

STATIC_SHARE = 0.4  # Source: Darwin V6
PROBE_SHARE = 0.6  # Source: Darwin V6
TRANSPLANT_LOW = 0.15  # Source: Darwin V6
TRANSPLANT_HIGH = 0.85  # Source: Darwin V6
SPREAD_WARNING = 0.01  # below it the scan hardly tells the parents apart; our choice


@dataclass(frozen=True)
class Scores:
    """What is known of one tensor in both parents, and the mri_ratio it gives.

    static_* is the static score; probe_* the weighted sum of probe distances of the
    tensor's layer, None outside probed layers; mri_ratio in [0, 1].
    """

    static_father: float | None
    static_mother: float | None
    probe_father: float | None
    probe_mother: float | None
    mri_ratio: float


@dataclass(frozen=True)
class Routing:
    """Where blends end: below low the Father's tensor, above high the Mother's."""

    low: float = TRANSPLANT_LOW
    high: float = TRANSPLANT_HIGH

    def route(self, ratio: float) -> Route:
        """Return the route of a final ratio. Source: Darwin V6."""
        if ratio < self.low:
            return "father"
        return "mother" if ratio > self.high else "blend"


@dataclass(frozen=True)
class Prescription:
    """One row of the ratio table: the parts of a tensor's ratio, and its route."""

    name: str
    stack: str | None
    layer: int | None
    block: int | None
    component: str
    static_father: float | None
    static_mother: float | None
    probe_father: float | None
    probe_mother: float | None
    mri_ratio: float | None
    genome_ratio: float | None
    ratio: float
    route: Route


def share(father: float, mother: float) -> float:
    """Return mother / (father + mother), 0.5 where both are 0. Source: Darwin V6."""
    total = father + mother
    return mother / total if total > 0.0 else 0.5


def combined(static: float, probe: float | None) -> float:
    """Return 0.4 static + 0.6 probe, or static alone without one. Source: Darwin V6."""
    return static if probe is None else STATIC_SHARE * static + PROBE_SHARE * probe


def published_scores(
    father: Profile,
    mother: Profile,
    probe_father: float | None = None,
    probe_mother: float | None = None,
) -> Scores:
    """Return the scores of one tensor by the published rule."""
    left = combined(father.static, probe_father)
    right = combined(mother.static, probe_mother)
    return Scores(
        father.static, mother.static, probe_father, probe_mother, share(left, right)
    )


def probe_scores(model: ModelReport, weights: Mapping[str, float]) -> list[float]:
    """Return the probe score of every layer, [L]: sum over probes of distance * weight.

    Source: Darwin V6; weights are 0.2 each for the five standard probes (our choice).
    """
    return [
        math.fsum(weights[name] * model.probes[name][layer] for name in model.probes)
        for layer in range(model.layers if model.probes else 0)
    ]


def report_scores(report: Report, mri: Mri) -> dict[str, Scores]:
    """Return the scores of every tensor both parents have, by one reading of a report.

    Raises DarwinError if the reading needs what the report does not hold.
    """
    published = _published(report)
    if mri == "published":
        return published
    if mri == "relative":
        return _with_ratios(published, _relative(published))
    return _with_ratios(published, _attribution(report, published))


def _published(report: Report) -> dict[str, Scores]:
    weights = {name: probe.weight for name, probe in report.settings.probes.items()}
    left = probe_scores(report.father, weights)
    right = probe_scores(report.mother, weights)
    scores = {}
    for name, profile in report.father.tensors.items():
        if name not in report.mother.tensors:
            continue
        site = site_of(name)
        inside = site.layer is not None and site.stack == report.father.stack
        layer = site.layer if inside else None
        known = layer is not None and layer < min(len(left), len(right))
        scores[name] = published_scores(
            profile.profile(),
            report.mother.tensors[name].profile(),
            left[layer] if known and layer is not None else None,
            right[layer] if known and layer is not None else None,
        )
    return scores


def _with_ratios(
    scores: Mapping[str, Scores], ratios: Mapping[str, float]
) -> dict[str, Scores]:
    return {
        name: Scores(
            row.static_father,
            row.static_mother,
            row.probe_father,
            row.probe_mother,
            ratios[name],
        )
        for name, row in scores.items()
    }


@dataclass(frozen=True)
class Scales:
    """The rms of the parents' differences: static by component, probes over layers."""

    static: Mapping[Component, float]
    probe: float


def relative_scales(scores: Mapping[str, Scores]) -> Scales:
    """Return what `mri: relative` sets the differences of these scores against."""
    groups: dict[Component, list[float]] = defaultdict(list)
    for name, row in scores.items():
        groups[site_of(name).component].append(_static_difference(row))
    layers = {
        site_of(name).layer: _probe_difference(row)
        for name, row in scores.items()
        if row.probe_father is not None
    }
    static = {component: _rms(values) for component, values in groups.items()}
    return Scales(static, _rms(layers.values()))


def _relative(scores: Mapping[str, Scores]) -> dict[str, float]:
    """Return Phi(0.4 z_static + 0.6 z_probe), each z a difference over its rms.

    z_static is the difference of the static scores over the rms of that difference
    among the tensors of the same component; z_probe that of the probe scores over
    its rms among the layers. Source: our choice.
    """
    scales = relative_scales(scores)
    ratios = {}
    for name, row in scores.items():
        scale = scales.static[site_of(name).component]
        score = over(_static_difference(row), scale)
        if row.probe_father is not None:
            probe = over(_probe_difference(row), scales.probe)
            score = STATIC_SHARE * score + PROBE_SHARE * probe
        ratios[name] = 0.5 * math.erfc(-score / math.sqrt(2.0))
    return ratios


def _static_difference(row: Scores) -> float:
    return (row.static_mother or 0.0) - (row.static_father or 0.0)


def _probe_difference(row: Scores) -> float:
    return (row.probe_mother or 0.0) - (row.probe_father or 0.0)


def _rms(values: Iterable[float]) -> float:
    squares = [value * value for value in values]
    return math.sqrt(math.fsum(squares) / len(squares)) if squares else 0.0


def over(value: float, scale: float) -> float:
    """Return value / scale, 0 where the scale is 0."""
    return value / scale if scale > 0.0 else 0.0


def _attribution(report: Report, scores: Mapping[str, Scores]) -> dict[str, float]:
    """Return Mother's share of the positive first-order gains, weighted over probes.

    Source: our choice (DESIGN: attribution); 0.5 where neither parent gains.
    """
    if not report.father.gain or not report.mother.gain:
        raise DarwinError(
            "mri: attribution needs a report with gains; this one has none."
            " Run mergekit-darwin-scan with --base, or choose mri: published."
        )
    return {
        name: share(_gain(report, "father", name), _gain(report, "mother", name))
        for name in scores
    }


def _gain(report: Report, role: Literal["father", "mother"], name: str) -> float:
    """Return the weighted sum over probes of a tensor's positive gains."""
    model = report.father if role == "father" else report.mother
    return math.fsum(
        report.settings.probes[probe].weight * max(gains.get(name, 0.0), 0.0)
        for probe, gains in sorted(model.gain.items())
    )


def genome_ratio(site: Site, genome: Genome, depth: int | None) -> float:
    """Return the mean of the genes that name a tensor, in [0, 1].

    These are its component's gene and, inside a layer, its block's. depth is the
    number of layers of its stack. Source: our choice.
    """
    component = genome[f"{site.component}_ratio"]
    if site.layer is None:
        return component
    if depth is None:
        raise DarwinError(
            f"The block of {site.name!r} needs the number of layers of its stack."
            " Outside a mergekit run give the parameter layers, or an MDS report."
        )
    block = genome[block_gene(block_of(site.layer, depth, genome.blocks))]
    return 0.5 * (component + block)


def prescribe(
    site: Site,
    genome: Genome,
    *,
    depth: int | None,
    scores: Scores | None,
    explicit: float | None = None,
    routing: Routing = Routing(),
) -> Prescription:
    """Return the ratio and route of one tensor, with all its parts.

    final = mri_trust * mri_ratio + (1 - mri_trust) * genome_ratio (Darwin V6);
    an explicit ratio replaces it. depth is the number of layers of the tensor's
    stack, None outside any. scores may be None only with an explicit ratio or a trust
    of 0.
    """
    inside = site.layer is not None and depth is not None
    block = block_of(site.layer, depth, genome.blocks) if inside else None  # type: ignore[arg-type]
    genes = genome_ratio(site, genome, depth)
    trust = genome["mri_trust"]
    if explicit is not None:
        final = explicit
    elif scores is not None:
        final = trust * scores.mri_ratio + (1.0 - trust) * genes
    elif trust == 0.0:
        final = genes
    else:
        raise ValueError(f"{site.name}: neither scores nor an explicit ratio")
    return Prescription(
        name=site.name,
        stack=site.stack,
        layer=site.layer,
        block=block,
        component=site.component,
        static_father=scores.static_father if scores else None,
        static_mother=scores.static_mother if scores else None,
        probe_father=scores.probe_father if scores else None,
        probe_mother=scores.probe_mother if scores else None,
        mri_ratio=scores.mri_ratio if scores else None,
        genome_ratio=genes,
        ratio=final,
        route=routing.route(final),
    )
