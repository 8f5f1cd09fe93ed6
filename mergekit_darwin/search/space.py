"""The free genes as a unit cube: points of it, genomes, and rows of all genes."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from mergekit_darwin.ratios.genome import (
    Gene,
    Genome,
    extended_genes,
    make_genome,
    published_genes,
)

Array = npt.NDArray[np.float64]
Predictor = Callable[[Array], Array]  # points [N, n] to what is expected there, [N]

_DIGITS = 6  # decimals of a gene: what the YAML shows is what was measured


@dataclass(frozen=True)
class Space:
    """The free genes, each mapped from its search interval to [0, 1]."""

    genes: tuple[Gene, ...]
    blocks: int

    def decode(self, point: Array) -> Genome:
        """Return the genome at a point of [0, 1]^n, genes rounded to 6 decimals."""
        values = {}
        for gene, unit in zip(self.genes, point, strict=True):
            low, high = gene.search
            value = low + float(min(max(unit, 0.0), 1.0)) * (high - low)
            values[gene.name] = round(value, _DIGITS)
        return make_genome(values, self.blocks)

    def encode(self, genome: Genome) -> Array:
        """Return the point of a genome; values outside the interval meet its end."""
        units = [
            (genome[gene.name] - gene.search[0]) / (gene.search[1] - gene.search[0])
            for gene in self.genes
        ]
        return np.asarray(np.clip(units, 0.0, 1.0))

    def rows(self, points: Array) -> Array:
        """Return all genes of extended_genes for points [N, n], as [N, G]."""
        known = extended_genes(self.blocks)
        column = {gene.name: i for i, gene in enumerate(known)}
        rows = np.tile([gene.neutral for gene in known], (len(points), 1))
        for i, gene in enumerate(self.genes):
            low, high = gene.search
            value = low + np.clip(points[:, i], 0.0, 1.0) * (high - low)
            rows[:, column[gene.name]] = np.round(value, _DIGITS)
        return rows


def make_space(
    kind: Literal["published", "extended"],
    blocks: int,
    acting: Container[str] | None = None,
) -> Space:
    """Return the space of the published genes, or of those and lambda.

    Of those that act, if they are given: an operator may have no use for some.
    """
    genes = extended_genes(blocks) if kind == "extended" else published_genes(blocks)
    free = (gene for gene in genes if acting is None or gene.name in acting)
    return Space(tuple(free), blocks)
