"""The genome: every gene declared once, its file, its hash. No tensors, no names."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Strict
from pydantic.types import FiniteFloat

from mergekit_darwin.errors import DarwinError, refuse_unknown
from mergekit_darwin.files import Frozen, read_document

MAX_BLOCKS = 32
DEFAULT_BLOCKS = 6
_SMALLEST_DENSITY = 1 / 65536  # one step of a 16-bit mask threshold


@dataclass(frozen=True)
class Gene:
    """One coordinate of the search: valid in [low, high], searched in `search`."""

    name: str
    low: float
    high: float
    neutral: float
    meaning: str
    search: tuple[float, float]

    def check(self, value: object) -> float:
        """Return value as a float. Raises DarwinError unless a number in range."""
        if isinstance(value, str):
            try:
                value = float(value)
            except ValueError:
                pass
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not self.low <= float(value) <= self.high:  # type: ignore[arg-type]
            raise DarwinError(
                f"Gene {self.name} must be a number in [{self.low:g}, {self.high:g}];"
                f" got {value!r}. Correct it in the YAML or the genome file."
            )
        return float(value)  # type: ignore[arg-type]


def _ratio(name: str, meaning: str, neutral: float = 0.5) -> Gene:
    return Gene(name, 0.0, 1.0, neutral, meaning, (0.0, 1.0))


def _density(name: str, parent: str) -> Gene:
    meaning = f"share of the {parent}'s task vector that DARE keeps"
    return Gene(name, _SMALLEST_DENSITY, 1.0, 0.9, meaning, (0.1, 1.0))


_HEAD = (
    _ratio("global_ratio", "ratio of norms, scalars and whatever has no other gene"),
    _ratio("attn_ratio", "ratio of attention and other token mixers"),
    _ratio("ffn_ratio", "ratio of MLPs, experts and routers"),
    _ratio("embed_ratio", "ratio of token embeddings and LM head"),
    _density("density_a", "Father"),
    _density("density_b", "Mother"),
)
_TAIL = (
    _ratio("mri_trust", "share of mri_ratio in the final ratio; the rest is genes'"),
    _ratio("merge_method_weight", "share of DARE-TIES; the rest is plain sum", 1.0),
)
LAMBDA = Gene(
    "lambda",
    -4.0,
    4.0,
    1.0,
    "scale of the merged task vector (extended: not among the published genes)",
    (0.0, 2.0),
)


def block_gene(index: int) -> str:
    """Return the name of the gene of a block, 0-based."""
    return f"block_{index}_ratio"


def published_genes(blocks: int = DEFAULT_BLOCKS) -> tuple[Gene, ...]:
    """Return the published genes, 8 + blocks of them, in canonical order.

    Source: names and the count of 14 at six blocks, Darwin V6; bounds ours.
    """
    if not 1 <= blocks <= MAX_BLOCKS:
        raise DarwinError(
            f"The number of blocks must lie in [1, {MAX_BLOCKS}]; got {blocks}."
        )
    rows = tuple(
        _ratio(block_gene(i), f"ratio of block {i} of each stack of layers")
        for i in range(blocks)
    )
    return _HEAD + rows + _TAIL


def extended_genes(blocks: int = DEFAULT_BLOCKS) -> tuple[Gene, ...]:
    """Return the published genes and `lambda` (our choice; DESIGN: genome)."""
    return (*published_genes(blocks), LAMBDA)


@dataclass(frozen=True)
class Genome:
    """Values of all genes, `lambda` included; immutable, comparable by value."""

    values: Mapping[str, float]
    blocks: int

    def __getitem__(self, name: str) -> float:
        return self.values[name]

    def replaced(self, overrides: Mapping[str, float]) -> Genome:
        """Return this genome with some genes changed. Raises DarwinError if unknown."""
        return make_genome({**self.values, **overrides}, self.blocks)

    def __hash__(self) -> int:
        return hash(tuple(self.values.items()))


def make_genome(values: Mapping[str, object], blocks: int = DEFAULT_BLOCKS) -> Genome:
    """Return the genome with these values, neutral where none is given.

    Raises DarwinError for an unknown gene or a value out of range.
    """
    genes = {gene.name: gene for gene in extended_genes(blocks)}
    refuse_unknown(values, genes, f"A genome of {blocks} blocks has no gene")
    full = {
        name: gene.check(values.get(name, gene.neutral)) for name, gene in genes.items()
    }
    return Genome(full, blocks)


def genome_hash(genome: Genome, options: Mapping[str, object]) -> str:
    """Return 16 hex digits that name a merge: genome and whole-merge options.

    options holds JSON values (numbers, strings, booleans, None). Floats enter by
    their shortest exact decimal form. Source: our choice (SHA-256, first 64 bits).
    """
    canonical = {"genes": dict(genome.values), "options": dict(options)}
    text = json.dumps(canonical, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class GenomeFile(Frozen):
    """genome.json: `format`, `version`, `genes`, and the hash of the merge it won."""

    format: Literal["mergekit-darwin/genome"] = "mergekit-darwin/genome"
    version: Literal[1] = 1
    genes: dict[str, Annotated[FiniteFloat, Strict()]]  # true is no 1
    genome_hash: str | None = None


def count_blocks(names: Mapping[str, object]) -> int:
    """Return B for a set of gene names: one above the highest block gene, or 6."""
    found = [i for i in range(MAX_BLOCKS) if block_gene(i) in names]
    return max(found) + 1 if found else DEFAULT_BLOCKS


def read_genome(path: str | Path) -> Genome:
    """Return the genome in a file. Raises DarwinError if it cannot be read as one."""
    command = "mergekit-darwin-evolve"
    content = read_document(path, GenomeFile, "genome.json", command)
    return make_genome(content.genes, count_blocks(content.genes))


def genome_json(genome: Genome, digest: str) -> str:
    """Return the text of genome.json for a genome and its genome_hash."""
    if not all(math.isfinite(value) for value in genome.values.values()):
        raise ValueError("a genome holds finite numbers only")
    content = GenomeFile(genes=dict(genome.values), genome_hash=digest)
    return content.model_dump_json(indent=2) + "\n"
