"""The YAML a merge left in the child: its models, and the tensors it gives again."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from mergekit.common import dtype_from_name
from mergekit.config import MergeConfiguration
from mergekit.graph import Executor
from mergekit.io.tasks import LoadTensor
from mergekit.merge_methods.task_adapter import ExecuteMergeMethodTask
from mergekit.options import MergeOptions

from mergekit_darwin.errors import DarwinError, about
from mergekit_darwin.files import read_yaml
from mergekit_darwin.health.facts import same_bits
from mergekit_darwin.health.report import Finding, finding
from mergekit_darwin.models.names import site_of
from mergekit_darwin.models.plan import planned_tasks
from mergekit_darwin.talk import silent

LOG = logging.getLogger(__name__)

FILE = "mergekit_config.yml"
Verify = Literal["sample", "all", "none"]
_SAMPLE = 8  # tensors merged again in a sample, spread over the model; our choice


@dataclass(frozen=True)
class Provenance:
    """What a child's mergekit_config.yml says: method, models by role, the text.

    father and mother are the first two models that are not the base, or the base and
    the other one; None where the file names fewer.
    """

    path: Path
    method: str
    father: str | None
    mother: str | None
    base: str | None
    content: Mapping[str, Any]

    @property
    def ours(self) -> bool:
        """Whether the child was merged by darwin_v6."""
        return self.method == "darwin_v6"


def read_provenance(folder: str | Path) -> Provenance | None:
    """Return the recipe in a child's folder, or None if there is none to read.

    Only a plain list of models (or slices of whole models) names parents.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        return None
    try:
        content = read_yaml(path, f"{path} is not read")
    except DarwinError as error:
        LOG.warning("%s", error.message)
        return None
    if not isinstance(content, dict) or "merge_method" not in content:
        return None
    base = _model(content.get("base_model"))
    listed = [_model(row) for row in content.get("models") or ()]
    names = [name for name in dict.fromkeys(listed) if name]
    parents = [name for name in names if name != base]
    if len(parents) == 1 and base is not None:
        parents, base = [base, parents[0]], base
    father, mother = [*parents, None, None][:2]
    return Provenance(path, str(content["merge_method"]), father, mother, base, content)


def _model(row: object) -> str | None:
    if isinstance(row, dict):
        row = row.get("model")
    if isinstance(row, dict):  # mergekit's long form {model: {path: ...}}
        row = row.get("path", row.get("model"))
    return row if isinstance(row, str) else None


def looks_local(name: str) -> bool:
    """Return whether a model's name can only be a path: ./x, ../x, /x, ~x."""
    return name.startswith((".", "/", "~", os.sep))


def check_places(recipe: Provenance) -> None:
    """Refuse a recipe whose local models are not there.

    Relative paths are taken from the current folder, as mergekit takes them. Raises
    DarwinError naming the path and what to do.
    """
    for name in (recipe.father, recipe.mother, recipe.base):
        if name is not None and looks_local(name) and not os.path.isdir(name):
            raise DarwinError(
                f"Models in {recipe.path} must exist, relative paths as seen from the"
                f" current folder ({os.getcwd()}); got {name!r}, which is not there."
                " Run from the folder the merge ran in, or give --father, --mother"
                " (and --base) and --verify none."
            )


def chosen_names(names: Sequence[str], verify: Verify) -> list[str]:
    """Return which tensors to merge again: none, all, or eight spread over the model.

    The sample is the same every time: at even steps through the names in order of
    layer, so that embedding, head and layers of every depth are in it.
    """
    if verify == "none":
        return []
    if verify == "all" or len(names) <= _SAMPLE:
        return list(names)
    last = len(names) - 1
    return [names[round(i * last / (_SAMPLE - 1))] for i in range(_SAMPLE)]


def chosen_tasks(
    recipe: Provenance, verify: Verify, options: MergeOptions
) -> tuple[dict[str, ExecuteMergeMethodTask], str | None]:
    """Return mergekit's tasks of the tensors to merge again, and the stored type.

    Raises DarwinError if the recipe cannot be planned again.
    """
    with about(
        f"{recipe.path} must be a merge configuration",
        "Give --verify none to leave it out.",
    ):
        config = MergeConfiguration.model_validate(recipe.content)
    stored = config.out_dtype  # the planner consumes config
    tasks = {task.output_weight.name: task for task in _plan(recipe, config, options)}
    order = sorted(tasks, key=lambda name: (site_of(name).layer or 0, name))
    return {name: tasks[name] for name in chosen_names(order, verify)}, stored


def _plan(
    recipe: Provenance, config: MergeConfiguration, options: MergeOptions
) -> list[ExecuteMergeMethodTask]:
    from mergekit_darwin.merge.method import register

    register()
    try:
        return planned_tasks(config, options)
    except DarwinError as error:
        raise DarwinError(
            f"{recipe.path} must still describe a merge that can run: {error.message}"
            " Give --verify none to leave this check out."
        ) from error


def merge_again(
    task: ExecuteMergeMethodTask, stored: str | None
) -> torch.Tensor | None:
    """Return one tensor as its task gives it, in the type it is stored in."""
    executor = Executor([task], math_device="cpu", storage_device="cpu")
    tensor: torch.Tensor | None = next(row for _, row in executor.run(quiet=True))
    wanted = dtype_from_name(task.output_weight.force_dtype or stored)
    return tensor if tensor is None or wanted is None else tensor.to(wanted)


def recipe_findings(
    recipe: Provenance,
    child: Mapping[str, LoadTensor],
    verify: Verify,
    options: MergeOptions,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[Finding], int]:
    """Return how the child differs from its recipe, and how many tensors were merged.

    child says how to load its tensors by name; progress gets (done, in all).
    """
    found: list[Finding] = []
    with silent("mergekit_darwin"):
        tasks, stored = chosen_tasks(recipe, verify, options)
        for done, (name, task) in enumerate(tasks.items(), start=1):
            own = child[name].execute() if name in child else None
            problem = _difference(own, merge_again(task, stored))
            if problem:
                layer = site_of(name).layer
                found.append(
                    finding("recipe", "error", problem, 0, tensor=name, layer=layer)
                )
            if progress is not None:
                progress(done, len(tasks))
    return found, len(tasks)


def _difference(
    stored: torch.Tensor | None, wanted: torch.Tensor | None
) -> str | int | None:
    """Return what is different, in words or as a count of elements; None if nothing."""
    if stored is None or wanted is None:
        return None if stored is wanted else "only one of both has it"
    if stored.shape != wanted.shape or stored.dtype != wanted.dtype:
        return (
            f"{tuple(stored.shape)} {str(stored.dtype).removeprefix('torch.')} stored,"
            f" {tuple(wanted.shape)} {str(wanted.dtype).removeprefix('torch.')} merged"
        )
    if same_bits(stored, wanted):
        return None
    return int((stored != wanted).sum()) or "same numbers, other bits"
