"""What mergekit plans for a configuration, and which tensors its loaders find."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from mergekit.architecture import (
    ModelArchitecture,
    WeightInfo,
    get_architecture_info,
)
from mergekit.architecture.conversion import can_convert_checkpoint_keys
from mergekit.common import ModelReference
from mergekit.config import InputModelDefinition, MergeConfiguration
from mergekit.io.tasks import GatherTensors, LoaderCache, LoadTensor, SaveTensor
from mergekit.merge import _model_out_config
from mergekit.merge_methods.task_adapter import ExecuteMergeMethodTask
from mergekit.options import MergeOptions
from mergekit.plan import MergePlanner

from mergekit_darwin.errors import DarwinError, reason
from mergekit_darwin.models.checkpoint import Checkpoint, parse_model


def without_config(error: Exception) -> str:
    """Return what mergekit says as one line, without the configuration it prints."""
    return re.sub(r"\{.*\}", "{...}", reason(error, 10_000))[:400]


def output_config(
    config: MergeConfiguration, architecture: ModelArchitecture, options: MergeOptions
) -> Any:
    """Return the child's configuration; slices may change the number of layers."""
    return _model_out_config(config, architecture, options.trust_remote_code)


def planned_tasks(
    config: MergeConfiguration, options: MergeOptions | None = None
) -> list[ExecuteMergeMethodTask]:
    """Return mergekit's own task of every tensor of a configuration, nothing loaded.

    config is consumed. Each task carries the output tensor's name, the parameters
    resolved for it and the loads of its inputs. Raises DarwinError as planned_saves.
    """
    return [save.tensor_task for save in planned_saves(config, options)]


def planned_saves(
    config: MergeConfiguration, options: MergeOptions | None = None
) -> list[SaveTensor]:
    """Return mergekit's tasks of writing each tensor; nothing is written by that.

    config is consumed, as mergekit's planner rewrites it. Raises DarwinError if
    mergekit cannot plan it.
    """
    options = options or MergeOptions()
    LoaderCache().setup(options)
    try:
        architecture = get_architecture_info(config, options)
        child = output_config(config, architecture, options)
        planner = MergePlanner(
            config, architecture, options=options, out_model_config=child
        )
        # plan_in_memory fails its own validation under pydantic 2.14
        tasks = planner.plan_to_disk("unused")
    except DarwinError:
        raise
    except Exception as error:  # its own checks, and whatever a config makes it do
        words = without_config(error)
        raise DarwinError(f"mergekit cannot plan this merge: {words}") from error
    return [task for task in tasks if isinstance(task, SaveTensor)]


def inputs_of(task: ExecuteMergeMethodTask) -> GatherTensors:
    """Return what gathers a planned tensor's inputs.

    Vocabulary permutation, where a tokenizer is configured, is looked through.
    """
    gather = task.gather_tensors
    return gather if isinstance(gather, GatherTensors) else gather.gather_tensors


def loads_of(task: ExecuteMergeMethodTask) -> dict[ModelReference, LoadTensor]:
    """Return the load of each input of a planned tensor, by model."""
    gather = inputs_of(task)
    loads = gather.arguments()
    return {
        model: loads[f"{model}:{weight.name}"]
        for model, weight in gather.weight_info.items()
    }


def model_loads(
    model: str | ModelReference, options: MergeOptions | None = None
) -> dict[str, LoadTensor]:
    """Return how to load every tensor a merge of this model would touch, by its name.

    The names are those of mergekit's output (and of darwin_v6), which for some
    architectures differ from the file's. `load.execute()` returns the tensor.
    """
    reference = parse_model(model)
    config = MergeConfiguration(
        merge_method="passthrough", models=[InputModelDefinition(model=reference)]
    )
    return {
        task.output_weight.name: loads_of(task)[reference]
        for task in planned_tasks(config, options)
    }


def is_present(load: LoadTensor) -> bool:
    """Return whether the model has the tensor: mergekit would find or convert it."""
    cache = LoaderCache()
    found = _source(
        load.tensor,
        load.aliases,
        load.tied_names,
        cache.get(load.model).index.tensor_paths,
        _model_type(load.model, cache.trust_remote_code),
    )
    return found is not None


def stored_name(weight: WeightInfo, model: Checkpoint) -> str | None:
    """Return the name under which mergekit loads a weight from a model, None if not.

    It is one of its file's names, or the weight's own where mergekit makes it of
    several tensors, as with experts that are stored one by one.
    """
    return _source(
        weight.name, weight.aliases, weight.tied_names, model.headers, model.kind
    )


def _source(
    name: str,
    aliases: Iterable[str] | None,
    tied: Iterable[str] | None,
    stored: Mapping[str, object],
    kind: str | None,
) -> str | None:
    for other in (name, *(aliases or ()), *(tied or ())):
        if other in stored:
            return other
    names = frozenset(stored)
    for other in (name, *(aliases or ())):
        if _converts(other, names, kind):
            return other
    return None


@lru_cache(maxsize=1 << 16)
def _converts(name: str, names: frozenset[str], kind: str | None) -> bool:
    """Ask mergekit about a tensor; of the layer's own files first, which is quick."""
    layer = next((part for part in name.split(".") if part.isdigit()), None)
    near = {other for other in names if f".{layer}." in other}
    groups = (near, set(names))
    return any(can_convert_checkpoint_keys(kind, group, name) for group in groups)


@lru_cache(maxsize=64)
def _model_type(model: ModelReference, remote: bool) -> str | None:
    return getattr(model.config(trust_remote_code=remote), "model_type", None)
