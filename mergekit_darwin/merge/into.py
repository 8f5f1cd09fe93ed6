"""A merge as mergekit runs it: to a folder, or straight into a model's parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from mergekit.architecture import get_architecture_info
from mergekit.common import dtype_from_name
from mergekit.config import MergeConfiguration
from mergekit.graph import Executor
from mergekit.io.tasks import LoaderCache
from mergekit.merge import run_merge
from mergekit.options import MergeOptions

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.merge.method import register
from mergekit_darwin.models import plan


def parse(text: str) -> MergeConfiguration:
    """Return a fresh configuration: mergekit rewrites the one it is given."""
    register()
    return MergeConfiguration.model_validate(yaml.safe_load(text))


def merge_to(text: str, folder: Path, options: MergeOptions) -> None:
    """Merge a YAML into a folder, exactly as mergekit-yaml does."""
    run_merge(parse(text), str(folder), options=options, config_source=text)


def output_config(text: str, options: MergeOptions) -> Any:
    """Return the transformers configuration that the merge's output will have."""
    config = parse(text)
    LoaderCache().setup(options)
    return plan.output_config(config, get_architecture_info(config, options), options)


def merge_into(text: str, model: torch.nn.Module, options: MergeOptions) -> None:
    """Merge a YAML into the parameters of a model built for its output.

    Each tensor is cast to the merge's own dtype before it is copied, so that the
    model holds what a detour over the disk would have given. Raises DarwinError where
    the checkpoint's names are not the model's.
    """
    saves = plan.planned_saves(parse(text), options)
    targets = {save.tensor_task: save for save in saves}
    device = options.device or "cpu"
    executor = Executor(list(targets), math_device=device, storage_device=device)
    state = model.state_dict()
    missing = {name for name, _ in model.named_parameters()}
    with torch.no_grad():
        for task, tensor in executor.run(quiet=True):
            save = targets[task]
            if tensor is None:
                continue
            if save.tensor_name not in state:
                if save.optional:
                    continue
                raise DarwinError(
                    "--in-memory needs checkpoints with transformers' own tensor"
                    f" names; the model has no {save.tensor_name!r}. Leave it out."
                )
            dtype = dtype_from_name(save.dtype) if save.dtype else tensor.dtype
            state[save.tensor_name].copy_(tensor.to(dtype))
            missing.discard(save.tensor_name)
    if missing:
        raise DarwinError(
            "--in-memory needs checkpoints with transformers' own tensor names; the"
            f" merge does not write {sorted(missing)[0]!r}. Leave it out."
        )
