"""Partial results of a scan, kept in a folder until the report is whole."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.files import sync, write_whole
from mergekit_darwin.locks import locked
from mergekit_darwin.scan.static import TensorRow

T = TypeVar("T")
_ROW = TypeAdapter(TensorRow)


@dataclass(frozen=True)
class Partial:
    """The folder DIR/.scan; every result in it is filed under what it depends on."""

    folder: Path

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep the folder for this process. Raises DarwinError if another has it."""
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder, "--out"):
            yield

    def rows(self, key: Mapping[str, object]) -> dict[str, TensorRow]:
        """Return the tensors profiled so far; a line cut off by a stop is dropped."""
        rows = {}
        with contextlib.suppress(OSError, ValueError, KeyError):
            for line in self._file("tensors", key).read_bytes().split(b"\n")[:-1]:
                row = _ROW.validate_json(line)
                rows[row.name] = row
        return rows

    @contextlib.contextmanager
    def recorder(self, key: Mapping[str, object]) -> Iterator[Any]:
        """Give a function that files one tensor's row at once."""
        file = self._file("tensors", key)
        known = self.rows(key)
        with writing(self.folder):
            write_whole(file, "".join(_line(row) for row in known.values()))
            with file.open("a", encoding="utf-8") as stream:

                def record(row: TensorRow) -> None:
                    stream.write(_line(row))
                    stream.flush()

                yield record

    def once(
        self, what: str, kind: Any, key: Mapping[str, object], measure: Callable[[], T]
    ) -> T:
        """Return what was filed under this key, or measure it and file it whole.

        kind is the type of what is measured.
        """
        form: TypeAdapter[T] = TypeAdapter(kind)
        file = self._file(what, key)
        with contextlib.suppress(OSError, ValueError):
            return form.validate_json(file.read_bytes())
        found = measure()
        with writing(self.folder):
            write_whole(file, form.dump_json(found).decode())
        return found

    def publish(self, files: Sequence[str]) -> None:
        """Move finished files to the folder above, in order, and remove this one."""
        with writing(self.folder):
            for name in files:
                sync(self.folder / name)
                os.replace(self.folder / name, self.folder.parent / name)
            shutil.rmtree(self.folder)

    def _file(self, kind: str, key: Mapping[str, object]) -> Path:
        text = json.dumps(dict(key), sort_keys=True)
        mark = hashlib.sha256(text.encode()).hexdigest()[:16]
        return self.folder / f"{kind}-{mark}.json"


def check_out(out: Path) -> None:
    """Refuse a folder with a picture of the name of ours that no scan has drawn.

    Raises DarwinError.
    """
    ours = (out / "mds.json").exists() or (out / ".scan").exists()
    if (out / "mds.png").exists() and not ours:
        raise DarwinError(
            f"--out must be a new folder or that of a scan; {out} holds an mds.png"
            " without its mds.json. Take it away, or name another folder."
        )


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


def _line(row: TensorRow) -> str:
    return _ROW.dump_json(row).decode() + "\n"
