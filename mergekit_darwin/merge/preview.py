"""The ratios of a darwin_v6 YAML before anything is merged, by the merge's own path.

mergekit plans the run as it would for a merge; each planned tensor goes through
method.prescribe_group. Headers and the report are enough wherever the report knows the
tensor; weights are read, one tensor at a time, only where it does not.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
import yaml
from mergekit.architecture.conversion import can_convert_checkpoint_keys
from mergekit.common import ModelReference
from mergekit.config import MergeConfiguration
from mergekit.graph import Executor
from mergekit.io.tasks import LoaderCache, LoadTensor
from mergekit.merge_methods.base import TensorEntry, TensorGroup, TensorMetadata
from mergekit.merge_methods.dtype import align_dtype
from mergekit.merge_methods.task_adapter import ExecuteMergeMethodTask
from mergekit.options import MergeOptions
from pydantic import ValidationError

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.merge.method import (
    NAME,
    needs_weights,
    prescribe_group,
    register,
)
from mergekit_darwin.merge.run_record import Roles, RunPlan
from mergekit_darwin.merge.settings import Settings, settle
from mergekit_darwin.models.checkpoint import (
    Checkpoint,
    is_present,
    loads_of,
    open_checkpoint,
    planned_tasks,
)
from mergekit_darwin.ratios.rules import Prescription

LOG = logging.getLogger("mergekit_darwin")


@dataclass(frozen=True)
class Planned:
    """One tensor of a planned run: its task, resolved settings, nothing loaded."""

    name: str
    task: ExecuteMergeMethodTask
    settings: Settings
    plan: RunPlan

    @property
    def roles(self) -> Roles:
        """(base, father, mother) of the slice that this tensor belongs to."""
        listed = self.task.model_order
        return next(trio for trio in self.plan.roles if {*trio[1:]} <= {*listed})


def read_config(source: str | Path) -> MergeConfiguration:
    """Return a fresh configuration from a YAML file of merge method darwin_v6.

    Raises DarwinError if the file cannot be read as one.
    """
    register()
    path = Path(source)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise DarwinError(f"{path} cannot be read as YAML ({reason}).") from None
    try:
        config = MergeConfiguration.model_validate(content)
    except (ValidationError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise DarwinError(
            f"{path} must be a mergekit configuration; {reason}"
        ) from None
    if config.merge_method != NAME:
        raise DarwinError(
            f"{path} must have merge_method: {NAME}; got {config.merge_method!r}."
        )
    return config


def plan_run(
    config: MergeConfiguration, options: MergeOptions | None = None
) -> list[Planned]:
    """Return every tensor that a merge would write, sorted by name; loads nothing.

    config is consumed. Raises DarwinError if mergekit cannot plan the run.
    """
    try:
        tasks = planned_tasks(config, options)
    except DarwinError:
        raise
    except Exception as error:
        LOG.debug("mergekit could not plan the run", exc_info=error)
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DarwinError(f"mergekit cannot plan this merge: {reason}") from error
    planned = [
        Planned(
            task.output_weight.name,
            task,
            settle(dict(task.parameters.items())),
            task.parameters["darwin_plan"],
        )
        for task in tasks
    ]
    return sorted(planned, key=lambda tensor: tensor.name)


def prescribe_run(
    planned: Iterable[Planned], *, quiet: bool = True
) -> list[Prescription]:
    """Return the row of every tensor, in the order of planned.

    Reads the weights of those tensors whose ratio rests on them, with a progress bar
    unless quiet. Raises DarwinError for what would stop the merge there.
    """
    planned = list(planned)
    rows: dict[str, Prescription] = {}
    heavy = [
        tensor for tensor in planned if needs_weights(tensor.name, tensor.settings)
    ]
    for tensor, group in load_groups(heavy, quiet=quiet):
        rows[tensor.name] = _row(tensor, group)
    for tensor in planned:
        if tensor.name not in rows:
            rows[tensor.name] = _row(tensor, _shapeless(tensor))
    return [rows[tensor.name] for tensor in planned]


def table_of(
    source: str | Path, options: MergeOptions | None = None, *, quiet: bool = True
) -> list[Prescription]:
    """Return the ratio table of a darwin_v6 YAML file, sorted by name."""
    return prescribe_run(plan_run(read_config(source), options), quiet=quiet)


def load_groups(
    planned: list[Planned], *, quiet: bool = True
) -> Iterator[tuple[Planned, TensorGroup]]:
    """Yield the tensors as the merge method would see them, one group in memory."""
    if not planned:
        return
    waiting = defaultdict(list)
    for tensor in planned:
        waiting[tensor.task.gather_tensors].append(tensor)
    executor = Executor(targets=list(waiting))
    for task, found in executor.run(quiet=quiet, desc="Profiling weights"):
        for tensor in waiting.get(task, ()):
            yield tensor, align_dtype(_group(tensor, found))


def shape_of(tensor: Planned) -> tuple[int, ...] | None:
    """Return a tensor's shape by the headers, None where a layout is converted."""
    for model, load in loads_of(tensor.task).items():
        headers = _checkpoint(model).headers
        for name in (load.tensor, *(load.aliases or ()), *(load.tied_names or ())):
            if name in headers:
                return headers[name].shape
    return None


@lru_cache(maxsize=8)
def _checkpoint(model: ModelReference) -> Checkpoint:
    return open_checkpoint(model)


def _row(tensor: Planned, group: TensorGroup) -> Prescription:
    return prescribe_group(group, tensor.settings, tensor.plan)


def _group(
    tensor: Planned, found: Mapping[ModelReference, torch.Tensor | None]
) -> TensorGroup:
    task = tensor.task
    entries = tuple(
        TensorEntry(id=model, tensor=weights, is_base=model == task.base_model)
        for model in task.model_order
        if (weights := found.get(model)) is not None
    )
    return TensorGroup(entries, TensorMetadata.from_weight_info(task.output_weight))


def _shapeless(tensor: Planned) -> TensorGroup:
    """Return the group with empty tensors, for the models that have this one."""
    empty = torch.empty(0, device="meta")
    return _group(tensor, dict.fromkeys(models_with(tensor), empty))


def models_with(tensor: Planned) -> list[ModelReference]:
    """Return the models of a slice that have the tensor, by headers alone."""
    return [model for model, load in loads_of(tensor.task).items() if _has(load)]


def _has(load: LoadTensor) -> bool:
    """Return whether loading would find the tensor, also by converting a layout."""
    if is_present(load):
        return True
    cache = LoaderCache()
    names = set(cache.get(load.model).index.tensor_paths)
    kind = load.model.config(trust_remote_code=cache.trust_remote_code).model_type
    targets = [load.tensor, *(load.aliases or ())]
    return any(can_convert_checkpoint_keys(kind, names, name) for name in targets)
