"""The folder of a consensus run: whose it is, and what its samples were drawn with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mergekit_darwin.errors import DarwinError, about, some
from mergekit_darwin.files import read_text, write_whole

SETTINGS_NAME = "settings.json"
_ALWAYS = {"model", "tasks", "samples", "stage", "risk"}  # keys of every run's settings


def claim(folder: Path) -> None:
    """Make a new run's folder, or know a run's again by its settings.

    Raises DarwinError if anything else lies there: it would be overwritten.
    """
    with about(f"--out must be a folder that can be written; {folder} is none"):
        folder.mkdir(parents=True, exist_ok=True)
        there = sorted(path.name for path in folder.iterdir())
        if _begun(folder / SETTINGS_NAME):
            return
        foreign = [name for name in there if not _of_a_start(folder / name)]
    if foreign:
        raise DarwinError(
            f"--out must be an empty or a new folder, or that of a run; {folder} holds"
            f" {some(foreign, 3)}. Choose another one: what is there would be"
            " overwritten."
        )


def _begun(settings: Path) -> bool:
    """Return whether a file holds settings of a run, whatever they are."""
    with suppress(DarwinError, ValueError, RecursionError):
        found = json.loads(read_text(settings, "unread"))
        return isinstance(found, dict) and found.keys() >= _ALWAYS
    return False


def _of_a_start(path: Path) -> bool:
    """Return whether a run leaves this before its settings: who it was, a torn file."""
    if path.name == "lock":
        said = path.read_bytes() if path.is_file() else b"?"
        return not said or said.strip().isdigit()
    return path.name == f".{SETTINGS_NAME}.part"


def keep_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write the settings of a new run, or refuse a folder that has another's."""
    path = folder / SETTINGS_NAME
    if not path.exists():
        write_whole(path, json.dumps(settings, indent=2, ensure_ascii=False) + "\n")
        return
    before = dict(json.loads(read_text(path, f"{path} cannot be read")))
    now = json.loads(json.dumps(settings))
    for key in now:
        if before.get(key) != now[key]:
            raise DarwinError(
                f"{folder} has the samples of another run: {key} was"
                f" {json.dumps(before.get(key))}, now it is {json.dumps(now[key])}. Use"
                " the same, or choose another --out."
            )
