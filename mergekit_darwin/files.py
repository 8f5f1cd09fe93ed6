"""Files: written whole or not at all, read through their schema."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from mergekit_darwin.errors import DarwinError, about, reason
from mergekit_darwin.locks import beside


class Frozen(BaseModel):
    """A document or settings: of known keys only, and never changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("version", mode="before", check_fields=False)
    @classmethod
    def _a_number(cls, value: object) -> object:
        if isinstance(value, bool):  # which equals 1
            raise ValueError("must be a number")
        return value


Document = TypeVar("Document", bound=BaseModel)
_MOST_NESTED, _MOST_VALUES, _LONGEST = 100, 1_000_000, 8_000_000
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the former is of C
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".npz")
_OF_MODELS = (
    *("config.json", "generation_config.json", "tokenizer.json"),
    *("tokenizer_config.json", "special_tokens_map.json"),
    "model.safetensors.index.json",
)


def read_text(file: Path, unreadable: str) -> str:
    """Return a text file, without the mark that some editors put in front of UTF-8.

    Raises DarwinError: unreadable, and why; a fifo or a device, of which nothing may
    ever come, is not waited for.
    """
    with about(unreadable):
        return read_bytes(file, unreadable).decode("utf-8-sig")


def read_bytes(file: Path, unreadable: str) -> bytes:
    """Return a regular file's bytes; raises DarwinError as read_text does."""
    with about(unreadable):
        if file.exists() and not file.is_file():
            kind = "a folder" if file.is_dir() else "no regular file"
            raise DarwinError(f"{unreadable} ({file} is {kind}).")
        return file.read_bytes()


def read_yaml(file: Path, unreadable: str) -> Any:
    """Return what a YAML file of one document holds, as read_yamls reads it."""
    documents = read_yamls(file, unreadable)
    with about(unreadable):
        if len(documents) > 1:
            raise ValueError(f"it holds {len(documents)} documents, not one")
    return documents[0] if documents else None


def read_yamls(file: Path, unreadable: str) -> list[Any]:
    """Return the documents of a YAML file: plain values, of bounded depth and size.

    Raises DarwinError as read_text does, also where a value is nested more than 100
    deep, aliases make more than a million values of it, a key stands twice, or there
    are more than 8 million characters.
    """
    text = read_text(file, unreadable)
    with about(unreadable):
        return parse_yamls(text)


def parse_yamls(text: str) -> list[Any]:
    """Return the documents of a YAML text, as read_yamls says. Raises ValueError."""
    if len(text) > _LONGEST:
        raise ValueError(f"it is longer than {_LONGEST} characters")
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > _MOST_NESTED:
            raise ValueError(f"it is nested more than {_MOST_NESTED} deep")
    for node in yaml.compose_all(text, Loader=_LOADER):
        _refuse_twice(node, set())
    documents = list(yaml.load_all(text, Loader=_LOADER))
    if _values(documents, {}) > _MOST_VALUES:
        raise ValueError(f"its aliases make more than {_MOST_VALUES} values of it")
    return documents


def _refuse_twice(node: yaml.Node | None, seen: set[int]) -> None:
    """Raise ValueError if a key stands twice in a mapping: YAML drops the first."""
    if not isinstance(node, yaml.CollectionNode) or id(node) in seen:
        return
    seen.add(id(node))
    inside = node.value
    if isinstance(node, yaml.MappingNode):
        keys = [key.value for key, _ in inside if isinstance(key, yaml.ScalarNode)]
        _refuse_repeated(keys, f" near line {node.start_mark.line + 1}")
        inside = [part for pair in inside for part in pair]
    for part in inside:
        _refuse_twice(part, seen)


def _refuse_repeated(keys: list[str], place: str = "") -> None:
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} stands twice{place}; keep one")


def parse_json(text: str | bytes) -> Any:
    """Return what a JSON text holds. Raises ValueError, also for a key twice."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            _refuse_repeated([key for key, _ in pairs])
        return found

    return json.loads(text, object_pairs_hook=once)


def _values(value: Any, known: dict[int, float]) -> float:
    """Return how many values one holds, aliases written out; infinite in itself."""
    if not isinstance(value, (dict, list)):
        return 1
    if id(value) not in known:
        known[id(value)] = math.inf  # until it is counted: it may hold itself
        inside = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_values(row, known) for row in inside)
    return known[id(value)]


def read_document(
    path: str | Path, schema: type[Document], name: str, command: str
) -> Document:
    """Return what a command wrote: the file, or the one of this name in a folder.

    Raises DarwinError if there is none, or with the first key that does not fit.
    """
    file = Path(path) / name if Path(path).is_dir() else Path(path)
    what = f"{name}: {file} must be as {command} wrote it"
    content = read_bytes(file, f"{what}; it cannot be read")
    try:
        found = schema.model_validate_json(content)
        parse_json(content)
        return found
    except ValueError as error:  # pydantic's too
        raise DarwinError(
            f"{what}; {reason(error)}. Mend it, or run {command} again."
        ) from None


def read_lines(
    path: Path, schema: type[Document], kind: str, advice: str
) -> list[Document]:
    """Return the documents of a file of one a line; a torn last line is left out.

    No file, no documents. Raises DarwinError, naming the line, for any other that is
    no such document: kind says what, advice what to do.
    """
    if not os.path.lexists(path):
        return []
    found = []
    rows = read_bytes(path, f"{path} cannot be read").split(b"\n")
    for number, row in enumerate(rows[:-1], start=1):
        try:
            found.append(schema.model_validate_json(row))
        except ValidationError as error:
            words = reason(error).removeprefix("the file: ")
            raise DarwinError(
                f"{path}, line {number}, is no {kind} ({words}). {advice}"
            ) from None
    return found


def append(path: Path, text: str) -> None:
    """Add text to a file and return once it is on the disk."""
    with path.open("ab") as stream:
        stream.write(text.encode())
        stream.flush()
        os.fsync(stream.fileno())


def cut_torn_line(path: Path) -> None:
    """Drop what a killed process left in a file behind the last newline."""
    if not path.exists():
        return
    content = path.read_bytes()
    kept = content.rfind(b"\n") + 1
    if kept < len(content):
        with path.open("r+b") as stream:
            stream.truncate(kept)
            os.fsync(stream.fileno())


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give a place to write a file at; what was written there then becomes path.

    The folder is made. The bytes are on the disk before the name is; if the body
    raises, path is as it was. Raises DarwinError while another process writes path, and
    where path is there already and no regular file: a device, a fifo, a link or a
    folder is not ours to replace, nor are weights and a model's own JSON files.
    """
    found = _not_ours(path)
    if found:
        raise DarwinError(
            f"Output must go to a regular file or a new one; {path} is {found}."
            " Name another file."
        )
    with about(f"{path.parent} must be a folder that can be written"):
        path.parent.mkdir(parents=True, exist_ok=True)
    with beside(path) as aside:
        yield aside
        sync(aside)
        aside.replace(path)


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


def _not_ours(path: Path) -> str | None:
    """Return what stands at a path that must not be replaced, None if nothing does."""
    if path.is_symlink():
        return "a link"
    if not path.exists():
        return None
    if not path.is_file():
        return "a folder" if path.is_dir() else "no regular file"
    if path.suffix in _WEIGHTS:
        return "a file of weights"
    of_model = path.suffix == ".json" and (path.parent / "config.json").exists()
    return "a model's file" if of_model and path.name in _OF_MODELS else None
