"""A stage for bad inputs: a small family with everything that commands read."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import yaml

from tests import evolving, tiny
from tests.delphi.stub import write_task

ROLES = ("base", "father", "mother", "child")
GENES = {"attn_ratio": 0.3, "ffn_ratio": 0.7, "mri_trust": 0.5}


def build(folder: Path) -> Path:
    """Write the models, tasks (in gen one of texts), probes: what stages share."""
    evolving.write_family(folder)
    tiny.nudged(folder / "base", folder / "child", 9, size=0.3)
    write_task(
        folder / "gen", [{"question": f"{i}+{i}=", "answer": "2"} for i in "123"]
    )
    (folder / "probes").mkdir()
    rows = [{"prompt": f"{i}+{i}=", "completion": str(2 * i)} for i in range(8)]
    text = "\n".join(json.dumps(row) for row in rows)
    (folder / "probes" / "MATH.jsonl").write_text(text)
    (folder / "probes" / "WORDS.txt").write_text("one two three\n\nfour five six\n")
    genome = {"format": "mergekit-darwin/genome", "version": 1, "genes": GENES}
    (folder / "genome.json").write_text(json.dumps(genome))
    (folder / "table.csv").write_text("name,ratio\nlm_head.weight,0.25\n")
    return folder


def scanned(folder: Path) -> None:
    """Put a report of the family beside it."""
    from mergekit_darwin.api.merging import scan_parents

    names = [str(folder / role) for role in ("father", "mother", "base")]
    probes = folder / "probes"
    scan_parents(*names, out=folder / "mds", probes=probes, dtype="float32")


def fresh(template: Path, folder: Path) -> Path:
    """Return a copy of a built stage whose YAMLs name the models in it."""
    shutil.copytree(template, folder)
    for path in (*folder.glob("tasks/*.yaml"), folder / "gen" / "sums.yaml"):
        path.write_text(path.read_text().replace(str(template), str(folder)))
    write_yaml(folder)
    write_evolve(folder)
    return folder


def write_yaml(folder: Path, parameters: Any = None, **keys: Any) -> None:
    """Write darwin.yml; keys replace whole keys, None drops one."""
    content = {
        "merge_method": "darwin_v6",
        "base_model": str(folder / "base"),
        "models": [{"model": str(folder / who)} for who in ("father", "mother")],
        "parameters": parameters if parameters is not None else dict(GENES),
        "dtype": "bfloat16",
        **keys,
    }
    kept = {key: value for key, value in content.items() if value is not None}
    (folder / "darwin.yml").write_text(yaml.safe_dump(kept))


def write_evolve(folder: Path, **keys: Any) -> None:
    """Write evolve.yml; keys replace whole keys."""
    search = {"max_evaluations": 4, "top_k": 2, "seed": 3}
    content = evolving.content(folder, **{"search": search, **keys})
    (folder / "evolve.yml").write_text(yaml.safe_dump(content))


def state(folder: Path) -> dict[str, str]:
    """Return what stands at every path under a folder: its kind and content."""
    found = {}
    for place, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = os.path.join(place, name)
            found[os.path.relpath(path, folder)] = _content(path)
    return found


def _content(path: str) -> str:
    if os.path.islink(path):
        return f"link to {os.readlink(path)}"
    if os.path.isdir(path):
        return "folder"
    if not os.path.isfile(path):
        return "special"
    with open(path, "rb") as stream:
        return hashlib.sha256(stream.read()).hexdigest()
