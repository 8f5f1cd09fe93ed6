"""EVOLVE.yml: every key, its default and its meaning; errors name the nearest key."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    ValidationError,
    field_validator,
    model_validator,
)

from mergekit_darwin.errors import DarwinError, nearest
from mergekit_darwin.files import read_yaml
from mergekit_darwin.merge.settings import Number, WholeMerge
from mergekit_darwin.ratios.genome import MAX_BLOCKS
from mergekit_darwin.ratios.scores import Mri
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


# What evolve gives lm-evaluation-harness itself, and where a user says it.
OWN_ARGS = {
    "pretrained": "father and mother",
    "tokenizer": "tokenizer_source",
    "batch_size": "--batch-size",
    "max_batch_size": "--batch-size",
    "device": "--device",
    "dtype": "--eval-dtype",
    "trust_remote_code": "--trust-remote-code",
}


@dataclass(frozen=True)
class RunOptions:
    """What may change between two starts of one run without changing its result.

    in_memory None means: where the model fits. eval_dtype "auto" is float32 on a CPU,
    else the files' own. num_threads are torch's,
    in every worker alike, so that sums come out the same in all of them.
    """

    scratch: str | None = None
    strategy: Literal["serial", "ray"] = "serial"
    num_workers: int = 1
    gpus_per_worker: float = 0.0
    ray_address: str | None = None
    in_memory: bool | None = None
    device: str = "cpu"
    eval_dtype: str = "auto"
    batch_size: str = "64"
    num_threads: int | None = None
    random_search: bool = False
    allow_benchmark_tasks: bool = False
    trust_remote_code: bool = False
    wandb: bool = False
    wandb_project: str = "mergekit-darwin"
    quiet: bool = False


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TaskSetting(_Strict):
    """One lm-evaluation-harness task: its weight in the score, and its metric.

    metric may name a filter after a comma ("exact_match,strict-match"); a metric that
    is better when lower enters the score negated.
    """

    name: str
    weight: Annotated[FiniteFloat, Field(gt=0.0)] = 1.0
    metric: str = "acc"

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


class EvolveConfig(WholeMerge):
    """A whole EVOLVE.yml. Paths are absolute once `read_config` has read it."""

    father: str
    mother: str
    base_model: str | None = None
    dtype: str = "bfloat16"
    out_dtype: str | None = None
    tokenizer: dict[str, Any] | None = None
    tokenizer_source: str | None = None
    chat_template: str | None = None
    blocks: Annotated[int, Field(ge=1, le=MAX_BLOCKS)] | None = None
    genes: Literal["published", "extended"] | None = None
    mri: Mri | None = None  # type: ignore[assignment]
    mask_seed: Annotated[int | Literal["genome"], Number] = 1
    mds: str | None = None
    probes: str | None = None
    probe_items: Annotated[int, Field(ge=1)] = 16
    include_path: list[str] = Field(default_factory=list)
    tasks: Annotated[list[TaskSetting], Field(min_length=1)]
    heldout: (
        Annotated[FiniteFloat, Field(gt=0.0, lt=1.0)]
        | Annotated[list[TaskSetting], Field(min_length=1)]
    ) = 0.5
    limit: Annotated[int, Field(ge=1)] | None = None
    num_fewshot: Annotated[int, Field(ge=0)] | None = None
    apply_chat_template: bool = False
    fewshot_as_multiturn: bool = True
    model_type: str = "hf"
    model_args: dict[str, Any] = Field(default_factory=dict)
    search: SearchSettings = Field(default_factory=SearchSettings)
    refit: bool | None = None
    refit_texts: str | None = None

    @field_validator("include_path", mode="before")
    @classmethod
    def _one_path(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("model_args")
    @classmethod
    def _not_ours(cls, value: dict[str, Any]) -> dict[str, Any]:
        for key in value:
            if key in OWN_ARGS:
                raise ValueError(f"{key} is set by evolve itself; use {OWN_ARGS[key]}")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> EvolveConfig:
        if self.tokenizer is not None and self.tokenizer_source is not None:
            raise ValueError("tokenizer and tokenizer_source exclude each other")
        if self.transplant_low > self.transplant_high:
            raise ValueError("transplant_low must not exceed transplant_high")
        if self.father == self.mother:
            raise ValueError("father and mother must be two different models")
        if self.refit_texts is not None and self.refit is False:
            raise ValueError("refit_texts is of no use with refit: false")
        names = [task.name for task in self.tasks]
        if len(set(names)) < len(names):
            raise ValueError("a task occurs twice among tasks")
        if isinstance(self.heldout, list):
            both = sorted({task.name for task in self.heldout} & set(names))
            if both:
                raise ValueError(f"{both[0]!r} is both searched on and held out")
        return self

    @property
    def third_base(self) -> str | None:
        """The base model, unless it is one of the parents or absent."""
        return self.base_model if self.base_model != self.father else None

    @property
    def refits(self) -> bool:
        """Whether children are refitted at the end; by default with refit_texts."""
        return self.refit_texts is not None if self.refit is None else self.refit

    @property
    def gene_kind(self) -> Literal["published", "extended"]:
        """The genes to search: extended by default where there is a third base."""
        return self.genes or ("extended" if self.third_base else "published")


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


def with_overrides(
    config: EvolveConfig, mds: str | None = None, **search: Any
) -> EvolveConfig:
    """Return a config with some search settings replaced, and its report if given."""
    changes = {key: value for key, value in search.items() if value is not None}
    update: dict[str, Any] = {"search": config.search.model_copy(update=changes)}
    if mds is not None:
        update["mds"] = os.path.abspath(mds)
    return config.model_copy(update=update)
