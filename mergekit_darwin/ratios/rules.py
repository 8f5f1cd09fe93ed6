"""From scores and genes to ratios and routes: pure rules, no tensors, no files."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.models.names import Site, block_of
from mergekit_darwin.ratios.genome import Genome, block_gene
from mergekit_darwin.ratios.scores import Scores, Terms, total

Route = Literal["father", "mother", "blend"]
ROUTES: tuple[Route, ...] = get_args(Route)

TRANSPLANT_LOW = 0.15  # Source: Darwin V6
TRANSPLANT_HIGH = 0.85  # Source: Darwin V6
SPREAD_WARNING = 0.01  # below it the scan hardly tells the parents apart; our choice
COLUMNS = (
    *("name", "stack", "layer", "block", "component"),
    *("static_father", "static_mother", "probe_father", "probe_mother"),
    *("mri_ratio", "genome_ratio", "ratio", "route"),
)


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
    """What a merge does with one tensor: the parts of its ratio, and its route.

    block, scores and genome_ratio are None where they do not apply.
    """

    site: Site
    block: int | None
    scores: Scores | None
    genome_ratio: float | None
    ratio: float
    route: Route

    @property
    def name(self) -> str:
        """The tensor's name in mergekit's output."""
        return self.site.name

    @property
    def mri_ratio(self) -> float | None:
        """The scan's ratio in [0, 1], None where no scores were needed."""
        return self.scores.mri_ratio if self.scores else None

    def columns(self) -> dict[str, Any]:
        """Return the row of the ratio table, by the names in COLUMNS."""
        nothing = (None, None)
        static = self.scores.static if self.scores else nothing
        probe = (self.scores.probe if self.scores else None) or nothing
        site = (self.name, self.site.stack, self.site.layer, self.block)
        ratios = (self.mri_ratio, self.genome_ratio, self.ratio, self.route)
        row = (*site, self.site.component, *static, *probe, *ratios)
        return dict(zip(COLUMNS, row, strict=True))


def routes_of(rows: Iterable[Prescription]) -> dict[Route, int]:
    """Return how many tensors are the Father's, the Mother's and blended."""
    counts = Counter(row.route for row in rows)
    return {route: counts[route] for route in ROUTES}


@dataclass(frozen=True)
class Spread:
    """How far mri_ratio reaches over the tensors of a model."""

    least: float
    mean: float
    most: float

    @property
    def width(self) -> float:
        """The one statistic of how well a scan tells parents apart: most - least."""
        return self.most - self.least

    @property
    def warning(self) -> str | None:
        """What to say where the parents are nearly the same to the scan, else None."""
        if self.width >= SPREAD_WARNING:
            return None
        return (
            f"mri_ratio spreads over {self.width:.4f} only (below {SPREAD_WARNING}): to"
            " this scan the parents are nearly the same, and mri_trust has little to"
            " say."
        )


def spread_of(rows: Iterable[Prescription | Scores]) -> Spread | None:
    """Return the spread of the rows' mri_ratio, None if none of them has one."""
    found = [row.mri_ratio for row in rows if row.mri_ratio is not None]
    if not found:
        return None
    return Spread(min(found), math.fsum(found) / len(found), max(found))


def gene_terms(site: Site, genome: Genome, block: int | None) -> Terms:
    """Return the mean of the genes that name a tensor: its component's, its block's.

    block is None outside any layer. Source: our choice.
    """
    names = [f"{site.component}_ratio"]
    if block is not None:
        names.append(block_gene(block))
    return tuple((name, 1.0 / len(names), genome[name]) for name in names)


def final_terms(mri_ratio: float, genome_ratio: float, trust: float) -> Terms:
    """Return trust * mri_ratio + (1 - trust) * genome_ratio. Source: Darwin V6."""
    return (
        ("mri_ratio", trust, mri_ratio),
        ("genome_ratio", 1.0 - trust, genome_ratio),
    )


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

    An explicit ratio replaces the rule. depth is the number of layers of the tensor's
    stack, None outside any. scores may be None only with an explicit ratio or a trust
    of 0. Raises DarwinError where a layer's block needs an unknown depth.
    """
    block = None
    if site.layer is not None:
        if depth is None:
            raise DarwinError(
                f"The block of {site.name!r} needs the number of layers of its stack."
                " Outside a mergekit run give the parameter layers, or an MDS report."
            )
        block = block_of(site.layer, depth, genome.blocks)
    genes = total(gene_terms(site, genome, block))
    trust = genome["mri_trust"]
    if explicit is not None:
        final = explicit
    elif scores is not None:
        final = total(final_terms(scores.mri_ratio, genes, trust))
    elif trust == 0.0:
        final = genes
    else:
        raise ValueError(f"{site.name}: neither scores nor an explicit ratio")
    return Prescription(site, block, scores, genes, final, routing.route(final))
