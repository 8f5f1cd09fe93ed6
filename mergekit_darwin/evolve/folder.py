"""The run folder: whose it is, what it was begun with, who works in it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import yaml

from mergekit_darwin.errors import DarwinError, about, some
from mergekit_darwin.evolve.config import EvolveConfig
from mergekit_darwin.evolve.reading import config_yaml
from mergekit_darwin.files import read_text, read_yaml, write_whole
from mergekit_darwin.talk import versions

MARKER = ".mergekit-darwin-run"  # first file of a run: what is beside it is ours
TOOLS = ("mergekit", "torch", "transformers", "lm_eval", "cma", "numpy")


def made_with() -> str:
    """Return the versions that can move a result, as one phrase."""
    return ", ".join(f"{tool} {it}" for tool, it in versions(*TOOLS).items())


def claim(folder: Path) -> None:
    """Make a new run's folder, or know it again.

    Raises DarwinError if anything else lies there.
    """
    if (folder / MARKER).is_file():
        return
    foreign = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    if foreign:
        raise DarwinError(
            "--storage-path must be an empty or a new folder, or that of a run;"
            f" {folder} holds {some(foreign, 3)}. Choose another one: what is there"
            " would be overwritten."
        )
    write_whole(folder / MARKER, "A run of mergekit-darwin-evolve: see config.yml.\n")


def scratch_of(folder: Path, given: str | None) -> str:
    """Return the run's own folder for candidates, what a killed run left there gone."""
    if given is None:
        scratch = folder / "scratch"
    else:
        mark = hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]
        scratch = Path(given).resolve() / f"mergekit-darwin-{mark}"
    for left in scratch.glob("candidate-*"):
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left)
    return str(scratch)


def is_begun(folder: Path) -> bool:
    """Return whether a run in this folder has found its config good."""
    return (folder / "config.yml").exists()


def freeze(folder: Path, config: EvolveConfig) -> None:
    """Write config.yml and versions.json on the first start; compare them later.

    Raises DarwinError if the config or a version that the log depends on changed.
    """
    text = config_yaml(config)
    path, made_by = folder / "config.yml", folder / "versions.json"
    if not is_begun(folder):
        write_whole(made_by, json.dumps(versions(*TOOLS), indent=1) + "\n")
        write_whole(path, text)
        return
    before = read_yaml(path, f"{path} cannot be read as YAML")
    if not isinstance(before, dict):
        raise DarwinError(f"{path} must hold the config of this run. Restore it.")
    now = yaml.safe_load(text)
    changed = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
    if changed:
        raise DarwinError(
            f"{path} was written with another {', '.join(changed)}; a run keeps its"
            " config. Restore it, or choose another --storage-path (with --reuse-mds"
            f" {folder} the scan of the same parents is taken over)."
        )
    with about(f"{made_by} must be the JSON that this run began with", "Restore it."):
        found = dict(json.loads(read_text(made_by, f"{made_by} cannot be read")))
    for name, version in versions(*TOOLS).items():
        if found.get(name, version) != version:
            raise DarwinError(
                f"{folder} was begun with {name} {found[name]}; this is {version},"
                " which may measure differently. Install that version, or choose"
                " another --storage-path."
            )
