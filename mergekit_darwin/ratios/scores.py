"""From profiles and a report to scores and mri_ratio: pure rules, no tensors, no files.

A ratio is the Mother's share: 0 is the Father, 1 the Mother. Every rule that is a sum
returns its terms, (name, weight, value) each, so that --explain prints what counts.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.kernel.profile import Profile
from mergekit_darwin.models.names import Component, site_of
from mergekit_darwin.scan.report import ModelReport, Report

Mri = Literal["published", "relative", "attribution"]
Pair = tuple[float, float]  # the Father's, the Mother's
Terms = tuple[tuple[str, float, float], ...]  # name, weight, value

STATIC_SHARE = 0.4  # Source: Darwin V6
PROBE_SHARE = 0.6  # Source: Darwin V6


@dataclass(frozen=True)
class Scores:
    """What is known of one tensor in both parents, and the mri_ratio it gives.

    static holds the static scores; probe the weighted sums of probe distances of the
    tensor's layer, None outside probed layers; mri_ratio in [0, 1].
    """

    static: Pair
    probe: Pair | None
    mri_ratio: float


def total(terms: Terms) -> float:
    """Return the sum of weight * value, from left to right."""
    (_, weight, value), *rest = terms
    found = weight * value
    for _, weight, value in rest:
        found += weight * value
    return found


def share(father: float, mother: float) -> float:
    """Return mother / (father + mother), 0.5 where both are 0. Source: Darwin V6."""
    both = father + mother
    return mother / both if both > 0.0 else 0.5


def combined_terms(static: float, probe: float | None) -> Terms:
    """Return 0.4 static + 0.6 probe, or static alone without one. Source: Darwin V6."""
    if probe is None:
        return (("static", 1.0, static),)
    return (("static", STATIC_SHARE, static), ("probe", PROBE_SHARE, probe))


def published_scores(
    father: Profile, mother: Profile, probe: Pair | None = None
) -> Scores:
    """Return the scores of one tensor by the published rule."""
    static = (father.static, mother.static)
    left, right = probe or (None, None)
    ratio = share(
        total(combined_terms(static[0], left)), total(combined_terms(static[1], right))
    )
    return Scores(static, probe, ratio)


def probe_terms(report: Report, model: ModelReport, layer: int) -> Terms:
    """Return weight and distance of every probe at a layer; their fsum is the score.

    Source: Darwin V6; weights are 0.2 each for the five standard probes (our choice).
    """
    probes = report.settings.probes
    return tuple(
        (name, probes[name].weight, distances[layer])
        for name, distances in model.probes.items()
    )


def exact_total(terms: Terms) -> float:
    """Return the sum of weight * value, rounded once."""
    return math.fsum(weight * value for _, weight, value in terms)


def report_scores(report: Report, mri: Mri) -> dict[str, Scores]:
    """Return the scores of every tensor both parents have, by one reading of a report.

    Raises DarwinError if the reading needs what the report does not hold.
    """
    published = _published(report)
    if mri == "published":
        return published
    read = _relative if mri == "relative" else _attribution
    ratios = read(report, published)
    return {
        name: replace(row, mri_ratio=ratios[name]) for name, row in published.items()
    }


def _published(report: Report) -> dict[str, Scores]:
    models = (report.father, report.mother)
    depth = min(model.layers if model.probes else 0 for model in models)
    probes = [
        tuple(exact_total(probe_terms(report, model, layer)) for model in models)
        for layer in range(depth)
    ]
    scores = {}
    for name, profile in report.father.tensors.items():
        if name not in report.mother.tensors:
            continue
        site = site_of(name)
        probe = None
        if site.layer is not None and site.stack == report.father.stack:
            probe = probes[site.layer] if site.layer < depth else None
        mother = report.mother.tensors[name]
        scores[name] = published_scores(profile, mother, probe)  # type: ignore[arg-type]
    return scores


@dataclass(frozen=True)
class Scales:
    """The rms of the parents' differences: static by component, probes over layers."""

    static: Mapping[Component, float]
    probe: float


def relative_scales(scores: Mapping[str, Scores]) -> Scales:
    """Return what `mri: relative` sets the differences of these scores against."""
    groups: dict[Component, list[float]] = defaultdict(list)
    for name, row in scores.items():
        groups[site_of(name).component].append(_difference(row.static))
    layers = {
        site_of(name).layer: _difference(row.probe)
        for name, row in scores.items()
        if row.probe is not None
    }
    static = {component: _rms(values) for component, values in groups.items()}
    return Scales(static, _rms(layers.values()))


def relative_terms(component: Component, row: Scores, scales: Scales) -> Terms:
    """Return 0.4 z_static + 0.6 z_probe, each z a difference over its rms.

    z_static is the difference of the static scores over the rms of that difference
    among the tensors of the same component; z_probe that of the probe scores over
    its rms among the layers. Source: our choice.
    """
    static = _over(_difference(row.static), scales.static[component])
    if row.probe is None:
        return (("z_static", 1.0, static),)
    probe = _over(_difference(row.probe), scales.probe)
    return (("z_static", STATIC_SHARE, static), ("z_probe", PROBE_SHARE, probe))


def _relative(report: Report, scores: Mapping[str, Scores]) -> dict[str, float]:
    """Return Phi of the relative terms, Phi the normal distribution's integral."""
    scales = relative_scales(scores)
    ratios = {}
    for name, row in scores.items():
        score = total(relative_terms(site_of(name).component, row, scales))
        ratios[name] = 0.5 * math.erfc(-score / math.sqrt(2.0))
    return ratios


def _difference(pair: Pair) -> float:
    return pair[1] - pair[0]


def _rms(values: Iterable[float]) -> float:
    squares = [value * value for value in values]
    return math.sqrt(math.fsum(squares) / len(squares)) if squares else 0.0


def _over(value: float, scale: float) -> float:
    return value / scale if scale > 0.0 else 0.0


def promise(model: ModelReport, probe: str, name: str) -> float:
    """Return gain - curvature / 2: what a parent's whole step promises in one tensor.

    The gain alone where the report is older than the curvature. Source: a Taylor
    expansion at the base; our choice.
    """
    gain = model.gain.get(probe, {}).get(name, 0.0)
    return gain - 0.5 * model.curvature.get(probe, {}).get(name, 0.0)


def gain_terms(report: Report, model: ModelReport, name: str) -> Terms:
    """Return weight and positive promise of every probe; their fsum is what counts.

    Source: our choice (DESIGN: attribution).
    """
    return tuple(
        (
            probe,
            report.settings.probes[probe].weight,
            max(promise(model, probe, name), 0.0),
        )
        for probe in sorted(model.gain)
    )


def _attribution(report: Report, scores: Mapping[str, Scores]) -> dict[str, float]:
    """Return Mother's share of the positive promises, weighted over probes."""
    if not report.father.gain or not report.mother.gain:
        raise DarwinError(
            "mri: attribution needs a report with gains; this one has none."
            " Run mergekit-darwin-scan with --base, or choose mri: published."
        )

    def gain(model: ModelReport, name: str) -> float:
        return exact_total(gain_terms(report, model, name))

    return {
        name: share(gain(report.father, name), gain(report.mother, name))
        for name in scores
    }
