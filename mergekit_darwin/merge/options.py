"""The parameters of darwin_v6: declared once, checked once, frozen before a run.

mergekit validates each parameter while it plans; so a path becomes a loaded, shared,
frozen object here, and a bad value is one line before a single tensor is read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import PlainValidator

from mergekit_darwin.errors import DarwinError, nearest
from mergekit_darwin.models.names import stack_depths
from mergekit_darwin.ratios.genome import (
    DEFAULT_BLOCKS,
    MAX_BLOCKS,
    Gene,
    Genome,
    extended_genes,
    read_genome,
)
from mergekit_darwin.ratios.rules import (
    TRANSPLANT_HIGH,
    TRANSPLANT_LOW,
    Mri,
    Scores,
    report_scores,
)
from mergekit_darwin.ratios.table import read_ratios
from mergekit_darwin.scan.report import Report, read_report

GENES = {gene.name: gene for gene in extended_genes(MAX_BLOCKS)}
_READINGS = get_args(Mri)


@dataclass(frozen=True, eq=False)
class LoadedReport:
    """An MDS report in use: compared by identity, scored once a reading."""

    path: str
    report: Report
    identity: str
    depths: Mapping[str, int]
    _scores: dict[Mri, dict[str, Scores]] = field(default_factory=dict, repr=False)

    def scores(self, mri: Mri) -> dict[str, Scores]:
        """Return the scores of every tensor under one reading."""
        if mri not in self._scores:
            self._scores[mri] = report_scores(self.report, mri)
        return self._scores[mri]


@dataclass(frozen=True, eq=False)
class LoadedTable:
    """A table of ratios in use, compared by identity."""

    path: str
    ratios: Mapping[str, float]


def _stamp(path: str) -> tuple[str, int, int]:
    """Return what identifies a file's content for caching: path, time, size."""
    target = Path(path) / "mds.json" if Path(path).is_dir() else Path(path)
    try:
        stat = target.stat()
    except OSError:
        return (os.path.abspath(path), 0, -1)
    return (os.path.abspath(path), stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=8)
def _report_at(stamp: tuple[str, int, int]) -> LoadedReport:
    return wrap_report(read_report(stamp[0]), stamp[0])


def wrap_report(report: Report, path: str = "(in memory)") -> LoadedReport:
    """Return a report ready for use as the `mds` parameter."""
    names = [*report.father.tensors, *report.mother.tensors]
    return LoadedReport(path, report, report.identity(), stack_depths(names))


@lru_cache(maxsize=8)
def _genome_at(stamp: tuple[str, int, int]) -> Genome:
    return read_genome(stamp[0])


@lru_cache(maxsize=8)
def _table_at(stamp: tuple[str, int, int]) -> LoadedTable:
    return LoadedTable(stamp[0], read_ratios(stamp[0]))


def _report(value: object) -> LoadedReport | None:
    if value is None or isinstance(value, LoadedReport):
        return value
    if isinstance(value, Report):
        return wrap_report(value)
    return _report_at(_stamp(_path("mds", value)))


def _genome(value: object) -> Genome | None:
    if value is None or isinstance(value, Genome):
        return value
    return _genome_at(_stamp(_path("genome", value)))


def _table(value: object) -> LoadedTable | None:
    if value is None or isinstance(value, LoadedTable):
        return value
    return _table_at(_stamp(_path("ratios", value)))


def _path(name: str, value: object) -> str:
    if isinstance(value, (str, os.PathLike)):
        return os.fspath(value)
    raise DarwinError(f"{name} must be the path of a file or folder; got {value!r}.")


def _gene(gene: Gene, value: object) -> float | None:
    return None if value is None else gene.check(value)


def _fraction(name: str, value: object) -> float | None:
    if value is None:
        return None
    number = _number(value)
    if number is None or not 0.0 <= number <= 1.0:
        raise DarwinError(f"{name} must be a number in [0, 1]; got {value!r}.")
    return number


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return float(value)
    except ValueError:
        return None


def _reading(value: object) -> Mri:
    if value not in _READINGS:
        raise DarwinError(
            f"mri must be one of {', '.join(_READINGS)}; got {value!r}."
            f"{nearest(str(value), _READINGS)}"
        )
    return value  # type: ignore[return-value]


def _mask_seed(value: object) -> str:
    if value == "genome":
        return "genome"
    number = _number(value)
    if number is None or number != int(number):
        raise DarwinError(
            f"mask_seed must be 'genome' or a whole number; got {value!r}."
        )
    return str(int(number))


def _switch(name: str, value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise DarwinError(f"{name} must be true or false; got {value!r}.")


def _whole(name: str, highest: int, value: object) -> int | None:
    if value is None:
        return None
    number = _number(value)
    if number is None or number != int(number) or not 1 <= number <= highest:
        raise DarwinError(
            f"{name} must be a whole number in [1, {highest}]; got {value!r}."
        )
    return int(number)


@dataclass(frozen=True)
class Option:
    """One YAML parameter that is not a gene: how it is checked, what it means."""

    name: str
    check: Callable[[object], Any]
    default: object
    meaning: str


OPTIONS = (
    Option("mds", _report, None, "MDS report (folder or file) of these two parents"),
    Option("genome", _genome, None, "genome file; genes beside it override it"),
    Option(
        "blocks",
        partial(_whole, "blocks", MAX_BLOCKS),
        None,
        f"number of block genes; the genome file's, or {DEFAULT_BLOCKS}",
    ),
    Option(
        "ratio",
        partial(_fraction, "ratio"),
        None,
        "explicit ratio; wins over everything else",
    ),
    Option("ratios", _table, None, "table of ratios by tensor name (CSV or JSON)"),
    Option(
        "mri", _reading, "published", f"reading of the scan: {', '.join(_READINGS)}"
    ),
    Option(
        "mask_seed",
        _mask_seed,
        "genome",
        "genome: masks are seeded by genome_hash; a number: by that number",
    ),
    Option(
        "transplant_low",
        partial(_fraction, "transplant_low"),
        TRANSPLANT_LOW,
        "below this ratio the Father's tensor is taken whole; 0 switches it off",
    ),
    Option(
        "transplant_high",
        partial(_fraction, "transplant_high"),
        TRANSPLANT_HIGH,
        "above this ratio the Mother's tensor is taken whole; 1 switches it off",
    ),
    Option(
        "rescale",
        partial(_switch, "rescale"),
        True,
        "divide kept entries by the kept share (DARE)",
    ),
    Option(
        "normalize",
        partial(_switch, "normalize"),
        False,
        "divide by the weights that took part (as mergekit's TIES family)",
    ),
    Option(
        "layers",
        partial(_whole, "layers", 100_000),
        None,
        "depth of the tensor's stack; only for merge_tensors, a YAML run knows it",
    ),
)
PARAMETERS = (*(option.name for option in OPTIONS), *GENES)


def value_type(name: str) -> Any:
    """Return the pydantic type of a parameter, whose check raises DarwinError."""
    if name in GENES:
        return Annotated[Any, PlainValidator(partial(_gene, GENES[name]))]
    check = next(option.check for option in OPTIONS if option.name == name)
    return Annotated[Any, PlainValidator(check)]


def check_names(names: Mapping[str, object], where: str) -> None:
    """Refuse a parameter that darwin_v6 does not have. Raises DarwinError."""
    for name in names:
        if name not in PARAMETERS:
            raise DarwinError(
                f"darwin_v6 has no parameter {name!r} ({where})."
                f"{nearest(name, PARAMETERS)} See the table in the README."
            )


def parameter_rows() -> list[tuple[str, str, str]]:
    """Return (name, default, meaning) of every parameter, for the README's table."""
    rows = []
    for option in OPTIONS:
        default = "none" if option.default is None else str(option.default)
        rows.append((option.name, default.lower(), option.meaning))
    for gene in extended_genes(DEFAULT_BLOCKS):
        if not gene.name.startswith("block_"):
            label = f"{gene.meaning}; in [{gene.low:.3g}, {gene.high:g}]"
            rows.append((gene.name, f"{gene.neutral:g}", label))
    meaning = "ratio of a block of each stack of layers; in [0, 1]"
    rows.insert(-3, ("block_0_ratio ... block_{B-1}_ratio", "0.5", meaning))
    return rows
