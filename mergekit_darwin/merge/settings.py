"""What the parameters of one tensor come to: its genome, hash, routing, sources."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.merge.options import GENES, PARAMETERS, LoadedReport, LoadedTable
from mergekit_darwin.ratios.genome import (
    DEFAULT_BLOCKS,
    Genome,
    genome_hash,
    make_genome,
)
from mergekit_darwin.ratios.rules import Mri, Routing


@dataclass(frozen=True)
class Settings:
    """The resolved parameters of one tensor, after mergekit's filters."""

    genome: Genome
    genome_hash: str
    seed: str
    routing: Routing
    mri: Mri
    rescale: bool
    normalize: bool
    report: LoadedReport | None
    table: LoadedTable | None
    ratio: float | None
    layers: int | None


def merge_hash(
    genome: Genome,
    *,
    mds_identity: str | None,
    mri: str,
    mask_seed: str,
    transplant_low: float,
    transplant_high: float,
    rescale: bool,
    normalize: bool,
) -> str:
    """Return genome_hash: 16 hex digits over the genome and whole-merge options.

    Explicit ratios (`ratio`, `ratios`) are left out, so that changing one tensor's
    ratio changes no other tensor's mask.
    """
    options = {
        "mds": mds_identity,
        "mri": mri,
        "mask_seed": mask_seed,
        "transplant_low": transplant_low,
        "transplant_high": transplant_high,
        "rescale": rescale,
        "normalize": normalize,
    }
    return genome_hash(genome, options)


def settle(parameters: Mapping[str, Any]) -> Settings:
    """Return the settings of one tensor from its validated parameters."""
    frozen = tuple((name, parameters.get(name)) for name in PARAMETERS)
    return _settle(frozen)


@lru_cache(maxsize=512)
def _settle(frozen: tuple[tuple[str, Any], ...]) -> Settings:
    given = dict(frozen)
    genome = _merged_genome(given)
    low, high = given["transplant_low"], given["transplant_high"]
    if low > high:
        raise DarwinError(
            f"transplant_low must not exceed transplant_high; got {low:g} and {high:g}."
        )
    report = given["mds"]
    if given["mri"] != "published" and report is None:
        raise DarwinError(
            f"mri: {given['mri']} needs an MDS report; give mds, or mri: published."
        )
    digest = merge_hash(
        genome,
        mds_identity=report.identity if report else None,
        **{
            name: given[name]
            for name in (
                "mri",
                "mask_seed",
                "transplant_low",
                "transplant_high",
                "rescale",
                "normalize",
            )
        },
    )
    return Settings(
        genome=genome,
        genome_hash=digest,
        seed=digest if given["mask_seed"] == "genome" else given["mask_seed"],
        routing=Routing(low, high),
        mri=given["mri"],
        rescale=given["rescale"],
        normalize=given["normalize"],
        report=report,
        table=given["ratios"],
        ratio=given["ratio"],
        layers=given["layers"],
    )


def _merged_genome(given: Mapping[str, Any]) -> Genome:
    """Return the genome file's genes (or neutral) with the YAML's genes over them."""
    overrides = {name: given[name] for name in GENES if given[name] is not None}
    start: Genome | None = given["genome"]
    blocks = given["blocks"] or (start.blocks if start else DEFAULT_BLOCKS)
    if start is not None and start.blocks != blocks:
        raise DarwinError(
            f"blocks must be that of the genome file, {start.blocks}; got {blocks}."
        )
    try:
        if start is not None:
            return start.replaced(overrides)
        return make_genome(overrides, blocks)
    except DarwinError as error:
        if any(name.startswith("block_") for name in overrides):
            hint = " Set blocks to the number of block genes."
            raise DarwinError(error.message + hint) from None
        raise
