"""The table of ratios as a file: CSV or JSON, written by us and edited by people."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.models.names import Site
from mergekit_darwin.ratios.rules import COLUMNS, Prescription, Scores


def table_json(rows: Iterable[Prescription]) -> str:
    """Return the rows as JSON text: a list of objects with the columns' names."""
    return json.dumps([row.columns() for row in rows], indent=1, allow_nan=False) + "\n"


def table_csv(rows: Iterable[Prescription]) -> str:
    """Return the rows as CSV text with a header; None is an empty field."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(row.columns() for row in rows)
    return text.getvalue()


def read_rows(path: Path) -> list[Prescription]:
    """Return the rows of a CSV table that table_csv wrote, a merge's record say."""
    with path.open(encoding="utf-8", newline="") as stream:
        return [_prescription(row) for row in csv.DictReader(stream)]


def _prescription(row: Mapping[str, str]) -> Prescription:
    """Return a row as the object whose columns it shows."""
    cells = {key: _cell(key, text) for key, text in row.items()}
    parts = [cells[name] for name in ("name", "stack", "layer", "component")]
    scores = None
    if cells["mri_ratio"] is not None:
        static = (cells["static_father"], cells["static_mother"])
        probe = (cells["probe_father"], cells["probe_mother"])
        known = None if probe == (None, None) else probe
        scores = Scores(static, known, cells["mri_ratio"])
    last = [cells[name] for name in ("genome_ratio", "ratio", "route")]
    return Prescription(Site(*parts), cells["block"], scores, *last)


def _cell(column: str, text: str) -> Any:
    if text == "" or column in ("name", "stack", "component", "route"):
        return text or None
    return int(text) if column in ("layer", "block") else float(text)


def read_ratios(path: str | Path) -> dict[str, float]:
    """Return ratio by tensor name from a CSV or JSON table; other columns are ignored.

    Raises DarwinError if the file cannot be read, a name occurs twice, or a ratio is
    not a number in [0, 1].
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DarwinError(f"ratios: cannot read {path} ({error}).") from None
    rows = _json_rows(text, path) if path.suffix == ".json" else _csv_rows(text, path)
    ratios: dict[str, float] = {}
    for place, row in enumerate(rows, start=1):
        name = row.get("name")
        if not isinstance(name, str) or not name or "ratio" not in row:
            raise DarwinError(
                f"ratios: every row needs 'name' and 'ratio'; row {place} of {path}"
                f" has {sorted(map(str, row))}."
            )
        if name in ratios:
            raise DarwinError(f"ratios: {name!r} occurs twice in {path}; keep one row.")
        ratios[name] = _ratio(row["ratio"], name, path)
    return ratios


def _csv_rows(text: str, path: Path) -> list[dict[str, object]]:
    reader = csv.DictReader(io.StringIO(text.lstrip("\ufeff")))
    if not {"name", "ratio"} <= set(reader.fieldnames or ()):
        raise DarwinError(
            f"ratios: {path} must be a CSV with the columns name and ratio;"
            f" its first line has {reader.fieldnames}."
        )
    return [dict(row) for row in reader]


def _json_rows(text: str, path: Path) -> list[Mapping[str, object]]:
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise DarwinError(f"ratios: {path} is not JSON ({error}).") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DarwinError(f"ratios: {path} must be a list of objects.")
    return rows


def _ratio(value: object, name: str, path: Path) -> float:
    try:
        ratio = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        ratio = math.nan
    if not 0.0 <= ratio <= 1.0:
        raise DarwinError(
            f"ratios: the ratio of {name!r} in {path} must be a number in [0, 1];"
            f" got {value!r}."
        )
    return ratio
