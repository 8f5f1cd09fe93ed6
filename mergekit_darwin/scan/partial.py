"""Partial results of a scan, kept in a folder until the report is whole."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.scan.importance import Importance
from mergekit_darwin.scan.report import PairStatistics, ProbeLoss, TensorStatistics
from mergekit_darwin.scan.static import TensorRow


@dataclass(frozen=True)
class Partial:
    """The folder DIR/.scan; every result in it is filed under what it depends on."""

    folder: Path

    def rows(self, key: Mapping[str, object]) -> dict[str, TensorRow]:
        """Return the tensors profiled so far; a line cut off by a stop is dropped."""
        rows = {}
        with contextlib.suppress(OSError, ValueError, KeyError):
            for line in self._file("tensors", key).read_text().splitlines():
                row = _row(json.loads(line))
                rows[row.name] = row
        return rows

    @contextlib.contextmanager
    def recorder(self, key: Mapping[str, object]) -> Iterator[Any]:
        """Give a function that files one tensor's row at once."""
        file = self._file("tensors", key)
        known = self.rows(key)
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            text = "".join(_line(row) for row in known.values())
            _replace(file, text)
            with file.open("a", encoding="utf-8") as stream:

                def record(row: TensorRow) -> None:
                    stream.write(_line(row))
                    stream.flush()

                yield record

    def read(self, kind: str, key: Mapping[str, object]) -> Any:
        """Return what was filed as `kind` under this key, or None."""
        with contextlib.suppress(OSError, ValueError):
            return json.loads(self._file(kind, key).read_text())
        return None

    def write(self, kind: str, key: Mapping[str, object], content: Any) -> None:
        """File a JSON value; it appears whole or not at all."""
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            _replace(self._file(kind, key), json.dumps(content, allow_nan=False))

    def publish(self, files: Sequence[str]) -> None:
        """Move finished files to the folder above, in order, and remove this one."""
        with writing(self.folder):
            for name in files:
                os.replace(self.folder / name, self.folder.parent / name)
            shutil.rmtree(self.folder)

    def _file(self, kind: str, key: Mapping[str, object]) -> Path:
        text = json.dumps(dict(key), sort_keys=True)
        mark = hashlib.sha256(text.encode()).hexdigest()[:16]
        return self.folder / f"{kind}-{mark}.json"


def importance_json(found: Importance) -> dict[str, Any]:
    """Return an Importance as JSON values."""
    loss = {name: row.model_dump() for name, row in found.loss.items()}
    return {**asdict(found), "loss": loss}


def importance_of(content: Mapping[str, Any]) -> Importance:
    """Return the Importance that importance_json wrote."""
    loss = {name: ProbeLoss(**row) for name, row in content["loss"].items()}
    return Importance(content["stack"], content["layers"], content["distances"], loss)


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn a full disk or a folder without access into an error for people."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DarwinError(
                f"No space is left for the scan at {folder.parent}. Free some and run"
                " the same command again: it goes on where it was."
            ) from None
        if isinstance(error, (PermissionError, NotADirectoryError, FileExistsError)):
            raise DarwinError(
                f"--out must be a folder that can be written; {folder.parent} is not"
                f" ({error.strerror})."
            ) from None
        raise


def _replace(file: Path, text: str) -> None:
    aside = file.with_suffix(".part")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, file)


def _line(row: TensorRow) -> str:
    statistics = {role: one.model_dump() for role, one in row.statistics.items()}
    pair = row.pair.model_dump() if row.pair else None
    return json.dumps({"name": row.name, "statistics": statistics, "pair": pair}) + "\n"


def _row(content: Mapping[str, Any]) -> TensorRow:
    statistics = {
        role: TensorStatistics(**one) for role, one in content["statistics"].items()
    }
    pair = PairStatistics(**content["pair"]) if content["pair"] else None
    return TensorRow(content["name"], statistics, pair)
