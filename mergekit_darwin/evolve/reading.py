"""EVOLVE.yml read and written: paths made absolute, errors name the nearest key."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from mergekit_darwin.errors import DarwinError, nearest
from mergekit_darwin.evolve.config import EvolveConfig, TaskSetting
from mergekit_darwin.evolve.options import RunOptions
from mergekit_darwin.files import read_yaml
from mergekit_darwin.search.cma import SearchSettings

# Prefixes of public benchmarks, as mergekit-evolve refuses them (mergekit 0.1.5,
# evo/config.py, check_for_naughty_config), and a few of their relatives (ours).
BENCHMARKS = (
    "mmlu",
    "hendrycks",
    "agieval",
    "gsm8k",
    "hellaswag",
    "winogrande",
    "arc_",
    "ai2_arc",
    "truthfulqa",
    "bigbench",
    "piqa",
    "openbookqa",
    "leaderboard",
    "bbh",
    "gpqa",
    "humaneval",
    "ifeval",
    "kmmlu",
    "mbpp",
)


def read_config(path: str | Path) -> EvolveConfig:
    """Return the configuration in a file, its relative paths made absolute.

    They are relative to the file's own folder. A model is taken as a path if it exists
    there or begins with a dot; otherwise it is a name on the hub. Raises DarwinError.
    """
    path = Path(path)
    content = read_yaml(path, f"{path} cannot be read as YAML")
    if not isinstance(content, dict):
        raise DarwinError(f"{path} must hold keys such as father, mother and tasks.")
    return make_config(content, path.resolve().parent, str(path))


def make_config(
    content: dict[str, Any], folder: Path | None = None, where: str = "the config"
) -> EvolveConfig:
    """Return a configuration from its keys. Raises DarwinError naming the key."""
    try:
        config = EvolveConfig.model_validate(content)
    except ValidationError as error:
        raise DarwinError(f"{where}: {_explain(error)}") from None
    return config if folder is None else _absolute(config, folder)


def _explain(error: ValidationError) -> str:
    """Return one sentence for the first fault: the key, the reason, the nearest key."""
    first = max(error.errors(), key=lambda fault: len(fault["loc"]))
    place = [part for part in first["loc"] if not _is_type(part)]
    key = ".".join(str(part) for part in place) or "the whole"
    if first["type"] == "extra_forbidden":
        known = _known(place[:-1])
        hint = nearest(str(place[-1]), known)
        return f"there is no key {key!r}.{hint} Known here: {', '.join(sorted(known))}."
    if first["type"] == "missing":
        return f"the key {key!r} is required."
    reason = first["msg"].removeprefix("Value error, ")
    return f"{key}: {reason}; got {first['input']!r}." if place else f"{reason}."


def _is_type(part: str | int) -> bool:
    """Return whether pydantic put a type into the place, as it does for unions."""
    types = ("int", "constrained-float", "function-before", "literal")
    return isinstance(part, str) and ("[" in part or part in types)


def _known(place: list[str | int]) -> list[str]:
    if place and place[0] == "search":
        return list(SearchSettings.model_fields)
    if place and place[0] in ("tasks", "heldout"):
        return list(TaskSetting.model_fields)
    return list(EvolveConfig.model_fields)


def _absolute(config: EvolveConfig, folder: Path) -> EvolveConfig:
    def place(value: str | None) -> str | None:
        if value is None:
            return None
        target = folder / os.path.expanduser(value)
        if value.startswith((".", "~")) or target.exists():
            return os.path.normpath(target)
        return value

    paths = ("father", "mother", "base_model", "tokenizer_source")
    ours = ("mds", "probes", "refit_texts")
    changes: dict[str, Any] = {
        name: place(getattr(config, name)) for name in (*paths, *ours)
    }
    if config.tokenizer is not None and isinstance(config.tokenizer.get("source"), str):
        source = place(config.tokenizer["source"])
        changes["tokenizer"] = {**config.tokenizer, "source": source}
    changes["include_path"] = [
        os.path.normpath(folder / os.path.expanduser(part))
        for part in config.include_path
    ]
    for name in ("tasks", "heldout"):
        tasks = getattr(config, name)
        if isinstance(tasks, list):
            changes[name] = [_absolute_task(task, folder) for task in tasks]
    for name in ours:
        if changes[name] is not None and not os.path.exists(changes[name]):
            raise DarwinError(f"{name} must exist; there is no {changes[name]}.")
    for part in changes["include_path"]:
        if not os.path.isdir(part):
            raise DarwinError(f"include_path must be a folder; there is no {part}.")
    return config.model_copy(update=changes)


def _absolute_task(task: TaskSetting, folder: Path) -> TaskSetting:
    if task.name.endswith((".yaml", ".yml")):
        return task.model_copy(update={"name": os.path.normpath(folder / task.name)})
    return task


def check_benchmarks(config: EvolveConfig, allowed: bool) -> list[str]:
    """Return the public benchmarks among the searched tasks.

    Raises DarwinError if there are any and they are not allowed: selecting on a
    benchmark's own test items makes its score worthless.
    """
    named = [
        task.name
        for task in config.tasks
        if os.path.basename(task.name).startswith(BENCHMARKS)
        and not task.name.endswith("_train")
    ]
    if named and not allowed:
        raise DarwinError(
            f"tasks: {named[0]!r} is a public benchmark; a model selected on its items"
            " says nothing by its score there. Search on other items, or give"
            " --allow-benchmark-tasks (the report will say so)."
        )
    return named


def config_yaml(config: EvolveConfig) -> str:
    """Return the configuration as YAML, defaults included: config.yml of a run."""
    content = config.model_dump(mode="json")
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def with_overrides(config: EvolveConfig, options: RunOptions) -> EvolveConfig:
    """Return a config with what a start puts in place of its own."""
    search = {"seed": options.random_seed, "max_evaluations": options.max_evaluations}
    given = {key: value for key, value in search.items() if value is not None}
    update: dict[str, Any] = {"search": config.search.model_copy(update=given)}
    if options.reuse_mds is not None:
        update["mds"] = os.path.abspath(Path(options.reuse_mds, "mds"))
    return config.model_copy(update=update)
