"""The parameters of darwin_v6: each declared once, and what a merge makes of them.

A field of WholeMerge or MergeSettings is the YAML parameter with its check, default and
row in the README's table. Those of WholeMerge hold for a whole merge and change its
result: they are also entries of genome_hash, lines of every YAML we write and keys of
EVOLVE.yml.
"""

from __future__ import annotations

from functools import cached_property, partial
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    PlainValidator,
    StrictBool,
)

from mergekit_darwin.files import Frozen
from mergekit_darwin.kernel.blend import Blend
from mergekit_darwin.kernel.operators import Operation, Operator
from mergekit_darwin.merge.loaded import LoadedReport, LoadedTable, loaded
from mergekit_darwin.ratios.genome import (
    DEFAULT_BLOCKS,
    MAX_BLOCKS,
    Genome,
    extended_genes,
    genome_hash,
    make_genome,
)
from mergekit_darwin.ratios.rules import TRANSPLANT_HIGH, TRANSPLANT_LOW, Routing
from mergekit_darwin.ratios.scores import Mri

GENES = {gene.name: gene for gene in extended_genes(MAX_BLOCKS)}


def _no_switch(value: object) -> object:
    if isinstance(value, bool):  # to pydantic true is the number 1
        raise ValueError("not a switch")
    return value


Number = BeforeValidator(_no_switch)
Fraction = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False), Number]


class WholeMerge(Frozen):
    """What holds for a whole merge and changes its result, besides the genome."""

    mri: Mri = Field(
        default="published",
        description="reading of the scan: published, relative, attribution",
    )
    mask_seed: Annotated[int | Literal["genome"], Number] = Field(
        default="genome",
        description="genome: masks are seeded by genome_hash; a number: by that number",
    )
    transplant_low: Fraction = Field(
        default=TRANSPLANT_LOW,
        description="below this ratio the Father's tensor is taken whole; 0 switches"
        " it off",
    )
    transplant_high: Fraction = Field(
        default=TRANSPLANT_HIGH,
        description="above this ratio the Mother's tensor is taken whole; 1 switches"
        " it off",
    )
    rescale: StrictBool = Field(
        default=True, description="divide kept entries by the kept share (DARE)"
    )
    normalize: StrictBool = Field(
        default=False,
        description="divide by the weights that took part (as mergekit's TIES family)",
    )

    operator: Operator = Field(
        default="dare_ties",
        description="how a tensor is blended at its ratio: dare_ties, slerp, linear;"
        " the latter two blend the parents themselves and take no densities",
    )


class MergeSettings(WholeMerge):
    """All parameters of one tensor, resolved: mergekit's filters, files, the genome."""

    mds: Annotated[LoadedReport | None, PlainValidator(partial(loaded, "mds"))] = Field(
        default=None, description="MDS report (folder or file) of these two parents"
    )
    genome: Annotated[Genome, PlainValidator(partial(loaded, "genome"))] = Field(
        default_factory=lambda: make_genome({}),
        description="genome file; genes beside it override it",
    )
    blocks: Annotated[int, Field(ge=1, le=MAX_BLOCKS), Number] | None = Field(
        default=None,
        description=f"number of block genes; the genome file's, or {DEFAULT_BLOCKS}",
    )
    ratio: Fraction | None = Field(
        default=None, description="explicit ratio; wins over everything else"
    )
    ratios: Annotated[LoadedTable | None, PlainValidator(partial(loaded, "ratios"))] = (
        Field(default=None, description="table of ratios by tensor name (CSV or JSON)")
    )
    allow_missing: StrictBool = Field(
        default=False,
        description="merge even where mergekit's plan leaves weights of the model out",
    )
    layers: Annotated[int, Field(ge=1), Number] | None = Field(
        default=None,
        description="depth of the tensor's stack; only for merge_tensors, a YAML run"
        " knows it",
    )

    @cached_property
    def hash(self) -> str:
        """genome_hash: 16 hex digits over the genome and the whole-merge options.

        Explicit ratios (`ratio`, `ratios`) are left out, so that changing one tensor's
        ratio changes no other tensor's mask. An option that came after the first
        release enters where it is not at its default, so that older hashes stand.
        """
        options = {name: getattr(self, name) for name in WholeMerge.model_fields}
        added = {
            n: v
            for n, v in options.items()
            if n not in _FIRST and v != WholeMerge.model_fields[n].default
        }
        options = {name: options[name] for name in _FIRST} | added
        options["mask_seed"] = str(self.mask_seed)
        options["mds"] = self.mds.identity if self.mds else None
        idle = set(ACTING) - self.acting.keys()
        neutral = {n: g.neutral for n, g in GENES.items() if n in idle}
        return genome_hash(self.genome.replaced(neutral), options)

    @property
    def seed(self) -> str:
        """What seeds the masks."""
        return self.hash if self.mask_seed == "genome" else str(self.mask_seed)

    @property
    def routing(self) -> Routing:
        """Where transplants begin."""
        return Routing(self.transplant_low, self.transplant_high)

    @property
    def acting(self) -> dict[str, float | bool]:
        """What acts on a blend besides its ratio, by parameter."""
        if self.operator != "dare_ties":
            return {}
        return {n: self.genome[n] if n in GENES else getattr(self, n) for n in ACTING}

    def lines(self) -> dict[str, Any]:
        """Return the parameters of a YAML that has the genes as scalars."""
        found: dict[str, Any] = {}
        if self.mds is not None:
            found["mds"] = self.mds.path
        if self.genome.blocks != DEFAULT_BLOCKS:
            found["blocks"] = self.genome.blocks
        for name in WholeMerge.model_fields:
            if name != "mri" or self.mds is not None:
                found[name] = getattr(self, name)
        idle = set(ACTING) - self.acting.keys()
        found |= self.genome.values
        return {name: value for name, value in found.items() if name not in idle}

    def operation(self, name: str, ratio: float, *, masked: bool) -> Operation:
        """Return how the kernel blends a tensor of this name at this ratio."""
        blend = Blend(
            ratio=ratio,
            density_a=self.genome["density_a"],
            density_b=self.genome["density_b"],
            weight=self.genome["merge_method_weight"],
            lambda_=self.genome["lambda"],
            rescale=self.rescale,
            normalize=self.normalize,
            seed=self.seed,
            name=name,
            masked=masked,
        )
        return Operation(blend, self.operator)


_FIRST = (
    "mri",
    "mask_seed",
    "transplant_low",
    "transplant_high",
    "rescale",
    "normalize",
)
ACTING = (
    *("density_a", "density_b", "merge_method_weight", "lambda"),
    *("rescale", "normalize"),
)
