"""What a child would score, without merging it: from gains, norms and conflicts.

The reasoning, for one task k and one tensor t:

1. A child applies the Father's task vector with a coefficient a_t and the Mother's with
   b_t: lambda (1 - r_t) and lambda r_t in a blend, (1, 0) and (0, 1) where a parent is
   transplanted. TIES takes a part away again where the signs oppose (see `_kept`).
2. The gains of the scan (-gradient times task vector at the base, less half the
   curvature) say which tensors carry a parent's gain on k. Only their proportions are
   used: they say where a skill lives, not how far it reaches.
3. The reach is known: both parents and the base were measured. A parent was trained to
   about the end of its own line, so along it the gain is taken as F_k (2 a - a^2):
   0 at the base, F_k at the parent, flat there. A loss F_k < 0 grows with a^2.
4. What the other parent's change does to a skill, what DARE's noise costs and how far
   the two parents together may leave the base is not known beforehand: three further
   terms with small prior weights.

So score = sum over six features of weight * feature: linear in the weights, which are
fitted to the real evaluations by ridge regression towards their prior. Assumed: gains
add over tensors, and curvature is shared out as the gains are. Without gains (no third
model) the importance of layers stands in for them, which was measured to say little.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mergekit_darwin.models.names import block_of, site_of, stack_depths
from mergekit_darwin.ratios.genome import block_gene, extended_genes
from mergekit_darwin.ratios.rules import Mri, Routing, promise, report_scores
from mergekit_darwin.scan.report import ModelReport, Report
from mergekit_darwin.search.space import Array

Ints = npt.NDArray[np.int64]

_PUBLISHED = Routing()
PRIOR = np.array([0.0, 2.0, -1.0, 1.0, -0.3, -0.2, -0.2])  # our choice; see module
SPREAD = np.array([0.02, 0.5, 0.5, 0.5, 0.5, 0.3, 0.3])  # of the prior; our choice


@dataclass(frozen=True, eq=False)
class Landscape:
    """A report as arrays over the T tensors both parents have.

    columns maps a gene to its column in a population; component and block are
    columns too (block -1 outside any layer). mri in [0, 1]; gain_* are a parent's
    gains on each of K tasks, non-negative, each row summing to 1 (or 0); energy_*
    shares of squared task-vector norms; opposite shares of opposite signs. plain
    where blends are of the whole parents: no masks, no election, no scale.
    """

    names: tuple[str, ...]
    columns: Mapping[str, int]
    component: Ints
    block: Ints
    mri: Array
    masked: npt.NDArray[np.bool_]
    gain_father: Array  # [K, T]
    gain_mother: Array  # [K, T]
    energy_father: Array
    energy_mother: Array
    norm_father: Array
    norm_mother: Array
    opposite: Array
    routing: Routing
    attributed: bool
    plain: bool = False


@dataclass(frozen=True, eq=False)
class Anchors:
    """Real scores of base and parents on the K tasks, [K]; weights sum to 1."""

    base: Array
    father: Array
    mother: Array
    weights: Array


@dataclass(frozen=True, eq=False)
class Applied:
    """What a population applies, [N, T]: coefficients, and noise that DARE adds."""

    father: Array
    mother: Array
    noise_father: Array
    noise_mother: Array


def landscape(
    report: Report,
    mri: Mri,
    tasks: Sequence[str],
    blocks: int,
    routing: Routing = _PUBLISHED,
) -> Landscape:
    """Return a report as arrays; tasks are the probes whose gains count, in order."""
    scores = report_scores(report, mri)
    names = tuple(scores)
    columns = {gene.name: i for i, gene in enumerate(extended_genes(blocks))}
    depths = stack_depths([*report.father.tensors, *report.mother.tensors])
    sites = [site_of(name) for name in names]
    block = [
        -1
        if site.layer is None or site.stack is None
        else columns[block_gene(block_of(site.layer, depths[site.stack], blocks))]
        for site in sites
    ]
    pair = report.pair or {}
    norm_father = np.array([pair[n].norm_father if n in pair else 1.0 for n in names])
    norm_mother = np.array([pair[n].norm_mother if n in pair else 1.0 for n in names])
    attributed = bool(report.father.gain) and bool(report.mother.gain)
    return Landscape(
        names=names,
        columns=columns,
        component=np.array([columns[f"{site.component}_ratio"] for site in sites]),
        block=np.array(block),
        mri=np.array([scores[name].mri_ratio for name in names]),
        masked=np.array([site.component != "global" for site in sites]),
        gain_father=_shares(report.father, tasks, names, attributed),
        gain_mother=_shares(report.mother, tasks, names, attributed),
        energy_father=_share(norm_father**2),
        energy_mother=_share(norm_mother**2),
        norm_father=norm_father,
        norm_mother=norm_mother,
        opposite=np.array(
            [pair[n].opposite_signs if n in pair else 0.5 for n in names]
        ),
        routing=routing,
        attributed=attributed,
    )


def _share(values: Array) -> Array:
    total = values.sum()
    return values / total if total > 0.0 else values


def _shares(
    model: ModelReport, tasks: Sequence[str], names: Sequence[str], attributed: bool
) -> Array:
    """Return each tensor's share of a parent's positive promises a task, [K, T]."""
    if not attributed:
        return np.tile(_importance(model, names), (len(tasks), 1))
    rows = [[max(promise(model, task, name), 0.0) for name in names] for task in tasks]
    return np.array([_share(np.array(row)) for row in rows])


def _importance(model: ModelReport, names: Sequence[str]) -> Array:
    """Return layer importance times tensor size, as shares: the weak stand-in."""
    layers = np.zeros(max(model.layers, 1))
    for distances in model.probes.values():
        layers += np.array(distances)
    layers = layers if layers.any() else np.ones_like(layers)
    weights = []
    for name in names:
        site = site_of(name)
        inside = site.stack == model.stack and site.layer is not None
        known = inside and site.layer is not None and site.layer < len(layers)
        importance = layers[site.layer] if known and site.layer is not None else 0.0
        weights.append(importance * model.tensors[name].numel)
    return _share(np.array(weights))


def population_ratios(land: Landscape, population: Array) -> Array:
    """Return the final ratio of every tensor for every genome, [N, T].

    population [N, G] holds all genes of `land.columns`. The same arithmetic, in the
    same order, as `ratios.prescribe`.
    """
    component = population[:, land.component]
    block = population[:, np.maximum(land.block, 0)]
    genes = np.where(land.block >= 0, 0.5 * (component + block), component)
    trust = population[:, [land.columns["mri_trust"]]]
    return trust * land.mri + (1.0 - trust) * genes


def applied(land: Landscape, population: Array) -> Applied:
    """Return the coefficients with which a population applies both task vectors."""
    ratio = population_ratios(land, population)
    take_father = ratio < land.routing.low
    take_mother = ratio > land.routing.high
    blend = ~(take_father | take_mother)
    scale = population[:, [land.columns["lambda"]]]
    weight = population[:, [land.columns["merge_method_weight"]]]
    if land.plain:
        scale, weight = np.ones_like(scale), np.zeros_like(weight)
    father, mother = scale * (1.0 - ratio), scale * ratio
    grow_a = _noise(population[:, [land.columns["density_a"]]], land.masked)
    grow_b = _noise(population[:, [land.columns["density_b"]]], land.masked)
    left = np.abs(father) * land.norm_father * np.sqrt(1.0 + grow_a)
    right = np.abs(mother) * land.norm_mother * np.sqrt(1.0 + grow_b)
    kept_a, kept_b = _kept(left, right, land.opposite)
    return Applied(
        father=np.where(blend, father * (1.0 - weight + weight * kept_a), take_father),
        mother=np.where(blend, mother * (1.0 - weight + weight * kept_b), take_mother),
        noise_father=np.where(blend, (weight * father) ** 2 * grow_a, 0.0),
        noise_mother=np.where(blend, (weight * mother) ** 2 * grow_b, 0.0),
    )


def _noise(density: Array, masked: npt.NDArray[np.bool_]) -> Array:
    """Return the relative variance DARE adds at a density d: (1 - d) / d."""
    return np.where(masked, (1.0 - density) / density, 0.0)


def _kept(left: Array, right: Array, opposite: Array) -> tuple[Array, Array]:
    """Return the shares of both task vectors that TIES' election leaves.

    Where the signs oppose, the larger weighted entry stays. For normal entries of
    standard deviations u and v, E|x| restricted to |x| > |y| is u / sqrt(u^2 + v^2)
    of E|x|.
    """
    length = np.sqrt(left**2 + right**2)
    safe = np.where(length > 0.0, length, 1.0)
    return (
        1.0 - opposite * (1.0 - left / safe),
        1.0 - opposite * (1.0 - right / safe),
    )


def features(land: Landscape, anchors: Anchors, population: Array) -> Array:
    """Return the seven features of every genome, [N, 7]; the first is the constant.

    Then: gains, their saturation, losses, interference, DARE's noise, distance from
    the base; all in units of the score (see the module).
    """
    part = applied(land, population)
    gain_a, gain_b = anchors.father - anchors.base, anchors.mother - anchors.base
    up_a = anchors.weights * np.maximum(gain_a, 0.0)
    up_b = anchors.weights * np.maximum(gain_b, 0.0)
    down_a = float((anchors.weights * np.minimum(gain_a, 0.0)).sum())
    down_b = float((anchors.weights * np.minimum(gain_b, 0.0)).sum())
    where_a, where_b = up_a @ land.gain_father, up_b @ land.gain_mother  # [T]
    size = float(up_a.sum() + up_b.sum()) or 1.0
    square_a, square_b = part.father**2, part.mother**2
    energy_a, energy_b = land.energy_father, land.energy_mother
    between = np.sqrt(energy_a * energy_b)
    total = (square_a @ energy_a) + (square_b @ energy_b)
    columns = [
        np.ones(len(population)),
        (part.father @ where_a) + (part.mother @ where_b),
        (square_a @ where_a) + (square_b @ where_b),
        down_a * (square_a @ energy_a) + down_b * (square_b @ energy_b),
        size * (np.abs(part.father * part.mother) @ between),
        size * ((part.noise_father @ energy_a) + (part.noise_mother @ energy_b)),
        size * np.maximum(total - 1.0, 0.0),
    ]
    return np.stack(columns, axis=1)


def anchor_features(land: Landscape, anchors: Anchors) -> Array:
    """Return the features of the base, the Father and the Mother themselves, [3, 7]."""
    gain_a, gain_b = anchors.father - anchors.base, anchors.mother - anchors.base
    rows = [np.array([1.0, 0, 0, 0, 0, 0, 0])]
    for gain in (gain_a, gain_b):
        up = float((anchors.weights * np.maximum(gain, 0.0)).sum())
        down = float((anchors.weights * np.minimum(gain, 0.0)).sum())
        rows.append(np.array([1.0, up, up, down, 0, 0, 0]))
    return np.array(rows)


def coordinates(land: Landscape, population: Array) -> Array:
    """Return where genomes lie by what they apply, [N, d].

    The mean coefficient of each parent in each component and each block, and the noise
    of DARE in both: many genomes are one child (trust, blocks, components and lambda
    trade off), and these coordinates know it. Distances between scores follow them far
    better than they follow the genes (benchmarks/evolve.md).
    """
    part = applied(land, population)
    masks = [land.component == c for c in np.unique(land.component)]
    masks += [land.block == b for b in np.unique(land.block) if b >= 0]
    columns = [
        coefficient[:, mask].mean(axis=1)
        for coefficient in (part.father, part.mother)
        for mask in masks
    ]
    columns += [
        (part.noise_father @ land.energy_father),
        (part.noise_mother @ land.energy_mother),
    ]
    return np.stack(columns, axis=1)


def anchor_coordinates(land: Landscape) -> Array:
    """Return the coordinates of the base, the Father and the Mother, [3, d]."""
    count = len(np.unique(land.component)) + len(np.unique(land.block[land.block >= 0]))
    rows = np.zeros((3, 2 * count + 2))
    rows[1, :count] = 1.0
    rows[2, count : 2 * count] = 1.0
    return rows


def prior_weights(anchors: Anchors) -> Array:
    """Return the weights before any child was measured, [7]."""
    weights = PRIOR.copy()
    weights[0] = float((anchors.weights * anchors.base).sum())
    return weights


def fit(rows: Array, scores: Array, prior: Array, noise: float) -> Array:
    """Return weights [7] by ridge regression of scores [n] on rows [n, 7].

    noise is the standard error of one score; the prior's spread is SPREAD.
    """
    precision = rows.T @ rows / noise**2 + np.diag(1.0 / SPREAD**2)
    pull = rows.T @ (scores - rows @ prior) / noise**2
    return np.asarray(prior + np.linalg.solve(precision, pull))
