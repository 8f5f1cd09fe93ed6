"""manifest.json: what a written model must hold, tensor by tensor and file by file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from mergekit_darwin.errors import reason
from mergekit_darwin.files import sync, write_whole

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


def damage(folder: Path) -> str | None:
    """Return what a model's folder has otherwise than its manifest says, or None.

    Files that came later (health.json, say) are no damage; tensors that did are.
    """
    try:
        known = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        found = json.loads(manifest(folder))
    except Exception as error:  # a torn file may fail in any way
        return f"it cannot be read ({reason(error)})"
    for part in ("tensors", "files"):
        later = found[part] if part == "tensors" else {}
        for name in sorted({*known[part], *later}):
            if known[part].get(name) != found[part].get(name):
                return f"{part[:-1]} {name!r} is not what {MANIFEST} says"
    return None


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
