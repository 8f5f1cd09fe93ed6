"""A report as arrays over tensors, and what a population of genomes applies of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from mergekit_darwin.models.names import block_of, site_of, stack_depths
from mergekit_darwin.ratios.genome import block_gene, extended_genes
from mergekit_darwin.ratios.rules import Routing
from mergekit_darwin.ratios.scores import Mri, promise, report_scores
from mergekit_darwin.scan.report import ModelReport, Report
from mergekit_darwin.search.space import Array

Ints = npt.NDArray[np.int64]

_PUBLISHED = Routing()


@dataclass(frozen=True, eq=False)
class Landscape:
    """A report as arrays over the T tensors both parents have.

    columns maps a gene to its column in a population; component and block are
    columns too (block -1 outside any layer). mri in [0, 1]; gain_* are a parent's
    gains on each of K tasks, non-negative, each row summing to 1 (or 0); norm_* norms
    of task vectors; opposite shares of opposite signs. plain where blends are of the
    whole parents: no masks, no election, no scale.
    """

    names: tuple[str, ...]
    columns: Mapping[str, int]
    component: Ints
    block: Ints
    mri: Array
    masked: npt.NDArray[np.bool_]
    gain_father: Array  # [K, T]
    gain_mother: Array  # [K, T]
    norm_father: Array
    norm_mother: Array
    opposite: Array
    routing: Routing
    attributed: bool
    plain: bool = False

    @cached_property
    def energy_father(self) -> Array:
        """The shares of the Father's squared task-vector norm, [T]."""
        return _share(self.norm_father**2)

    @cached_property
    def energy_mother(self) -> Array:
        """The shares of the Mother's squared task-vector norm, [T]."""
        return _share(self.norm_mother**2)


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
        norm_father=_pairwise(report, names, "norm_father", 1.0),
        norm_mother=_pairwise(report, names, "norm_mother", 1.0),
        opposite=_pairwise(report, names, "opposite_signs", 0.5),
        routing=routing,
        attributed=attributed,
    )


def _pairwise(
    report: Report, names: Sequence[str], field: str, unknown: float
) -> Array:
    """Return a number of both task vectors of every tensor, [T]."""
    pair = report.pair or {}
    return np.array([getattr(pair[n], field) if n in pair else unknown for n in names])


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
