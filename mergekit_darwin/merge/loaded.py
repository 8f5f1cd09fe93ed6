"""Files that parameters name: loaded once, and shared while they do not change."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.models.names import stack_depths
from mergekit_darwin.ratios.genome import Genome, read_genome
from mergekit_darwin.ratios.scores import Mri, Scores, report_scores
from mergekit_darwin.ratios.table import read_ratios
from mergekit_darwin.scan.report import Report, read_report


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


def wrap_report(report: Report, path: str = "(in memory)") -> LoadedReport:
    """Return a report ready for use as the `mds` parameter."""
    names = [*report.father.tensors, *report.mother.tensors]
    return LoadedReport(path, report, report.identity(), stack_depths(names))


_READERS: dict[str, Callable[[str], Any]] = {
    "mds": lambda path: wrap_report(read_report(path), path),
    "genome": read_genome,
    "ratios": lambda path: LoadedTable(path, read_ratios(path)),
}


@lru_cache(maxsize=16)
def _read(name: str, path: str, time: int, size: int) -> Any:
    """Return what a file holds, read once for as long as it is not changed."""
    return _READERS[name](path)


def loaded(name: str, value: object) -> Any:
    """Return a file's content where value is a path; a loaded one is passed on."""
    if isinstance(value, Report):
        return wrap_report(value)
    if value is None or isinstance(value, (LoadedReport, LoadedTable, Genome)):
        return value
    if not isinstance(value, (str, os.PathLike)):
        raise DarwinError(
            f"{name} must be the path of a file or folder; got {value!r}."
        )
    path = os.path.abspath(os.fspath(value))
    file = Path(path) / "mds.json" if os.path.isdir(path) else Path(path)
    try:
        stat = file.stat()
    except OSError:
        return _read(name, path, 0, -1)
    return _read(name, path, stat.st_mtime_ns, stat.st_size)
