"""manifest.json: what a written model must hold, tensor by tensor."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

MANIFEST = "manifest.json"


def manifest(folder: Path) -> str:
    """Return JSON with dtype, shape and SHA-256 of the bytes of every tensor."""
    tensors: dict[str, Any] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as stored:
            for name in sorted(stored.keys()):
                tensor = stored.get_tensor(name).contiguous()
                content = tensor.reshape(-1).view(torch.uint8).numpy()
                tensors[name] = {
                    "dtype": str(tensor.dtype).removeprefix("torch."),
                    "shape": list(tensor.shape),
                    "sha256": hashlib.sha256(content).hexdigest(),
                }
    head = {"format": "mergekit-darwin/manifest", "version": 1}
    return json.dumps({**head, "tensors": tensors}, indent=1) + "\n"
