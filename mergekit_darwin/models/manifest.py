"""manifest.json: what a written model must hold, tensor by tensor and file by file."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from itertools import count
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open

from mergekit_darwin.errors import DarwinError, reason
from mergekit_darwin.files import (
    Frozen,
    parse_json,
    read_bytes,
    read_document,
    sync,
    write_whole,
)

LOG = logging.getLogger("mergekit_darwin")
MANIFEST = "manifest.json"
# Written later, or with paths or times of one run in them.
_NOT_LISTED = (
    MANIFEST,
    "README.md",
    "mergekit_config.yml",
    "family.png",
    "before_refit.mergekit_config.yml",
    "refit.json",
    "refit.png",
)


def seal(folder: Path) -> None:
    """Write a model's manifest once everything in its folder is on the disk."""
    for file in folder.iterdir():
        sync(file)
    write_whole(folder / MANIFEST, manifest(folder))
    sync(folder)


class Manifest(Frozen):
    """manifest.json: SHA-256 of every tensor and file, by name."""

    format: Literal["mergekit-darwin/manifest"] = "mergekit-darwin/manifest"
    version: Literal[1] = 1
    tensors: dict[str, dict[str, Any]]
    files: dict[str, str]


def damage(folder: Path) -> str | None:
    """Return what a model's folder has otherwise than its manifest says, or None.

    Files that came later (health.json, say) are no damage; tensors that did are.
    """
    file = folder / MANIFEST
    try:
        known = read_document(file, Manifest, MANIFEST, "mergekit-darwin")
        found = Manifest.model_validate_json(manifest(folder))
    except Exception as error:  # a torn file may fail in any way
        return f"it cannot be read ({reason(error)})"
    for kind, there, now in (
        ("tensor", known.tensors, found.tensors),
        ("file", known.files, found.files),
    ):
        later = now if kind == "tensor" else ()
        for name in sorted({*there, *later}):
            if there.get(name) != now.get(name):
                return f"{kind} {name!r} is not what {MANIFEST} says"
    return None


def has_manifest(folder: Path) -> bool:
    """Return whether a folder has a manifest that may be ours: other tools have some.

    A torn one may be.
    """
    file = folder / MANIFEST
    if not file.exists():
        return False
    try:
        content = parse_json(read_bytes(file, str(file)))
    except (DarwinError, ValueError, RecursionError):
        return True
    said = content.get("format") if isinstance(content, dict) else None
    return isinstance(said, str) and said.startswith("mergekit-darwin/")


def manifest(folder: Path) -> str:
    """Return JSON with SHA-256, dtype and shape of every tensor, SHA-256 of files."""
    tensors: dict[str, Any] = {}
    files: dict[str, str] = {}
    for file in sorted(folder.iterdir()):
        if file.suffix == ".safetensors":
            tensors |= _tensors(file)
        elif file.name not in _NOT_LISTED and file.is_file():
            files[file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
    head = {"format": "mergekit-darwin/manifest", "version": 1}
    return json.dumps({**head, "tensors": tensors, "files": files}, indent=1) + "\n"


def _tensors(file: Path) -> dict[str, Any]:
    found = {}
    with safe_open(file, framework="pt") as stored:
        for name in sorted(stored.keys()):
            tensor = stored.get_tensor(name).contiguous()
            content = tensor.reshape(-1).view(torch.uint8).numpy()
            found[name] = {
                "dtype": str(tensor.dtype).removeprefix("torch."),
                "shape": list(tensor.shape),
                "sha256": hashlib.sha256(content).hexdigest(),
            }
    return found


def set_aside(path: Path) -> None:
    """Move what stands at a path to a name of its own beside it, and say so.

    It may hold what somebody added or changed by hand: nothing of it is removed.
    """
    if not os.path.lexists(path):
        return
    names = (path.with_name(f"{path.name}.old{number or ''}") for number in count())
    kept = next(name for name in names if not os.path.lexists(name))
    path.rename(kept)
    LOG.warning("%s is kept as %s.", path, kept.name)
