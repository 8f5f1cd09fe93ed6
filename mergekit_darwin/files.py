"""Files: written whole or not at all, read through their schema, folders locked."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from mergekit_darwin.errors import DarwinError

Document = TypeVar("Document", bound=BaseModel)


def read_document(
    file: Path, schema: type[Document], *, unreadable: str, unfit: str, advice: str = ""
) -> Document:
    """Return the document in a file.

    Raises DarwinError: unreadable and the system's reason in brackets, or unfit, the
    first key that does not fit, why, and the advice.
    """
    try:
        return schema.model_validate_json(file.read_bytes())
    except OSError as error:
        reason = error.strerror or error
        raise DarwinError(f"{unreadable} ({reason}).") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise DarwinError(f"{unfit}; {place}: {first['msg']}.{advice}") from None


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give a place to write a file at; what was written there then becomes path.

    The folder is made. The bytes are on the disk before the name is; if the body
    raises, path is as it was. Raises DarwinError where path is there already and no
    regular file: a device, a fifo, a link or a folder is not ours to replace.
    """
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise DarwinError(
            f"Output must go to a regular file or a new one; {path} is"
            f" {_kind(path)}. Name another file."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield aside
        sync(aside)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Write a text file so that it is there whole or not at all, as whole says."""
    with whole(path) as aside:
        aside.write_text(text, encoding="utf-8")


def sync(path: Path) -> None:
    """Return when a file's bytes, or a folder's names, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def locked(folder: Path, option: str) -> Iterator[None]:
    """Hold a folder for this process; option is what another folder is named by.

    Raises DarwinError if another process has it.
    """
    with (folder / "lock").open("a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            stream.seek(0)
            holder = stream.read().strip() or "unknown"
            raise DarwinError(
                f"{folder} is in use by another run (process {holder}). Wait for it,"
                f" or choose another {option}."
            ) from None
        stream.seek(0)
        stream.truncate()
        stream.write(str(os.getpid()))
        stream.flush()
        yield


def _kind(path: Path) -> str:
    if path.is_symlink():
        return "a link"
    return "a folder" if path.is_dir() else "no regular file"
