"""Parameters as mergekit hands them over: checked by name and value, then settled.

A path becomes a loaded, shared, frozen object while mergekit plans, and a bad value is
one line before a single tensor is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache, partial
from typing import Annotated, Any

from pydantic import PlainValidator, TypeAdapter, ValidationError

from mergekit_darwin.errors import DarwinError, nearest
from mergekit_darwin.merge.settings import ACTING, GENES, MergeSettings, WholeMerge
from mergekit_darwin.ratios.genome import (
    DEFAULT_BLOCKS,
    Genome,
    extended_genes,
    make_genome,
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
        for name in ACTING
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
