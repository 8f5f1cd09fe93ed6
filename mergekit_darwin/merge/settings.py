"""The parameters of darwin_v6: each declared once, checked once, frozen before a run.

A field of WholeMerge or MergeSettings is the YAML parameter with its check, default and
row in the README's table. Those of WholeMerge hold for a whole merge and change its
result: they are also entries of genome_hash, lines of every YAML we write and keys of
EVOLVE.yml. A path becomes a loaded, shared, frozen object while mergekit plans, and a
bad value is one line before a single tensor is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, lru_cache, partial
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    StrictBool,
    TypeAdapter,
    ValidationError,
)

from mergekit_darwin.errors import DarwinError, nearest
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
from mergekit_darwin.ratios.rules import (
    TRANSPLANT_HIGH,
    TRANSPLANT_LOW,
    Mri,
    Routing,
)

GENES = {gene.name: gene for gene in extended_genes(MAX_BLOCKS)}


def _no_switch(value: object) -> object:
    if isinstance(value, bool):  # to pydantic true is the number 1
        raise ValueError("not a switch")
    return value


Number = BeforeValidator(_no_switch)
Fraction = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False), Number]


class WholeMerge(BaseModel):
    """What holds for a whole merge and changes its result, besides the genome."""

    model_config = ConfigDict(extra="forbid", frozen=True)

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
            n: v for n, v in options.items() if n not in _FIRST and v != default(n)
        }
        options = {name: options[name] for name in _FIRST} | added
        options["mask_seed"] = str(self.mask_seed)
        options["mds"] = self.mds.identity if self.mds else None
        idle = set(_ACTING) - self.acting.keys()
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
        return {n: self.genome[n] if n in GENES else getattr(self, n) for n in _ACTING}

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
        idle = set(_ACTING) - self.acting.keys()
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
_ACTING = (
    *("density_a", "density_b", "merge_method_weight", "lambda"),
    *("rescale", "normalize"),
)
_FIELDS = MergeSettings.model_fields
_ORDER = ("mds", "genome", "blocks", "ratio", "ratios", *WholeMerge.model_fields)
OPTIONS = (*_ORDER, *(name for name in _FIELDS if name not in _ORDER))
PARAMETERS = (*OPTIONS, *GENES)
_ADAPTERS: dict[str, TypeAdapter[Any]] = {
    name: TypeAdapter(Annotated[(field.annotation, field)])  # type: ignore[arg-type]
    for name, field in _FIELDS.items()
}


def default(name: str) -> Any:
    """Return what a parameter is where the YAML is silent; None: nothing is given."""
    row = _FIELDS.get(name)
    return None if row is None or row.default_factory else row.default


def meaning(name: str) -> str:
    """Return a parameter's meaning in a line."""
    return GENES[name].meaning if name in GENES else str(_FIELDS[name].description)


def check_value(name: str, value: object) -> Any:
    """Return a parameter's value as used: a number, switch, word or loaded file.

    Raises DarwinError saying what it must be.
    """
    if value is None:
        return None
    if name in GENES:
        return GENES[name].check(value)
    try:
        return _ADAPTERS[name].validate_python(value)
    except ValidationError:
        schema = _ADAPTERS[name].json_schema()
        hint = nearest(str(value), schema.get("enum", ()))
        raise DarwinError(
            f"{name} must be {_words(schema)}; got {value!r}.{hint}"
        ) from None


def _words(schema: Mapping[str, Any]) -> str:
    """Return in words what a JSON schema of one parameter asks for."""
    if "anyOf" in schema:
        parts = [part for part in schema["anyOf"] if part.get("type") != "null"]
        return " or ".join(map(_words, parts))
    if "enum" in schema:
        return f"one of {', '.join(schema['enum'])}"
    if "const" in schema:
        return repr(schema["const"])
    kinds = {"boolean": "true or false", "integer": "a whole number"}
    word = kinds.get(schema["type"], "a number")
    low, high = schema.get("minimum"), schema.get("maximum")
    if high is not None:
        return f"{word} in [{low:g}, {high:g}]"
    return word if low is None else f"{word} from {low:g} on"


def value_type(name: str) -> Any:
    """Return the pydantic type of a parameter, whose check raises DarwinError."""
    return Annotated[Any, PlainValidator(partial(check_value, name))]


def check_names(names: Mapping[str, object], where: str) -> None:
    """Refuse a parameter that darwin_v6 does not have. Raises DarwinError."""
    for name in names:
        if name not in PARAMETERS:
            raise DarwinError(
                f"darwin_v6 has no parameter {name!r} ({where})."
                f"{nearest(name, PARAMETERS)} See the table in the README."
            )


def settle(parameters: Mapping[str, Any]) -> MergeSettings:
    """Return the settings of one tensor from its validated parameters."""
    return _settle(tuple((name, parameters.get(name)) for name in PARAMETERS))


@lru_cache(maxsize=512)
def _settle(frozen: tuple[tuple[str, Any], ...]) -> MergeSettings:
    given = {name: value for name, value in frozen if value is not None}
    genes = {name: given.pop(name) for name in GENES if name in given}
    genome = _genome(given.get("genome"), given.get("blocks"), genes)
    settings = MergeSettings(**{**given, "genome": genome})
    idle = [
        name
        for name in _ACTING
        if name not in settings.acting
        and (name in genes or given.get(name, default(name)) != default(name))
    ]
    if idle:
        raise DarwinError(
            f"{', '.join(idle)} act on task vectors; operator: {settings.operator}"
            " blends the parents themselves. Leave them out."
        )
    low, high = settings.transplant_low, settings.transplant_high
    if low > high:
        raise DarwinError(
            f"transplant_low must not exceed transplant_high; got {low:g} and {high:g}."
        )
    if settings.mri != "published" and settings.mds is None:
        raise DarwinError(
            f"mri: {settings.mri} needs an MDS report; give mds, or mri: published."
        )
    return settings


def _genome(
    start: Genome | None, blocks: int | None, genes: Mapping[str, float]
) -> Genome:
    """Return the genome file's genes (or neutral) with the YAML's genes over them."""
    if start is not None and blocks not in (None, start.blocks):
        raise DarwinError(
            f"blocks must be that of the genome file, {start.blocks}; got {blocks}."
        )
    try:
        if start is not None:
            return start.replaced(genes)
        return make_genome(genes, blocks or DEFAULT_BLOCKS)
    except DarwinError as error:
        if any(name.startswith("block_") for name in genes):
            hint = " Set blocks to the number of block genes."
            raise DarwinError(error.message + hint) from None
        raise


def parameter_rows() -> list[tuple[str, str, str]]:
    """Return (name, default, meaning) of every parameter, for the README's table."""
    rows = []
    for name in OPTIONS:
        silent = default(name)
        rows.append(
            (name, "none" if silent is None else str(silent).lower(), meaning(name))
        )
    for gene in extended_genes(DEFAULT_BLOCKS):
        if not gene.name.startswith("block_"):
            label = f"{gene.meaning}; in [{gene.low:.3g}, {gene.high:g}]"
            rows.append((gene.name, f"{gene.neutral:g}", label))
    blocks = "ratio of a block of each stack of layers; in [0, 1]"
    rows.insert(-3, ("block_0_ratio ... block_{B-1}_ratio", "0.5", blocks))
    return rows
