"""What a child would score, without merging it: from gains, norms and conflicts.

The reasoning, for one task k and one tensor t:

1. A child applies the Father's task vector with a coefficient a_t and the Mother's with
   b_t: lambda (1 - r_t) and lambda r_t in a blend, (1, 0) and (0, 1) where a parent is
   transplanted. TIES takes a part away again where the signs oppose (see landscape).
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

from dataclasses import dataclass

import numpy as np

from mergekit_darwin.search.landscape import Landscape, applied
from mergekit_darwin.search.space import Array

PRIOR = np.array([0.0, 2.0, -1.0, 1.0, -0.3, -0.2, -0.2])  # our choice; see module
SPREAD = np.array([0.02, 0.5, 0.5, 0.5, 0.5, 0.3, 0.3])  # of the prior; our choice


@dataclass(frozen=True, eq=False)
class Anchors:
    """Real scores of base and parents on the K tasks, [K]; weights sum to 1."""

    base: Array
    father: Array
    mother: Array
    weights: Array


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
