"""Models on disk, through mergekit's own loaders: headers, identity, tensors as merged.

Nothing here reads a whole model: headers cost kilobytes, tensors come one at a time.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from mergekit.architecture import WeightInfo, get_architecture_info
from mergekit.architecture.conversion import can_convert_checkpoint_keys
from mergekit.common import ModelReference
from mergekit.config import InputModelDefinition, MergeConfiguration
from mergekit.io.tasks import GatherTensors, LoaderCache, LoadTensor, SaveTensor
from mergekit.merge import _model_out_config
from mergekit.merge_methods.task_adapter import ExecuteMergeMethodTask
from mergekit.options import MergeOptions
from mergekit.plan import MergePlanner

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.models.config import check_config

_SAMPLE = 64  # bytes taken from the middle of every tensor for the digest
_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}


@dataclass(frozen=True)
class TensorHeader:
    """One tensor as its file declares it; dtype by torch's name (or the file's)."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Checkpoint:
    """One model's files: where they lie and what their headers say."""

    reference: ModelReference
    path: str
    headers: Mapping[str, TensorHeader]
    safetensors: bool

    @cached_property
    def names(self) -> set[str]:
        """The names of all tensors in the files."""
        return set(self.headers)

    @cached_property
    def kind(self) -> str | None:
        """The model_type of its configuration, which says how layouts are converted."""
        trusted = LoaderCache().trust_remote_code
        return self.reference.config(trust_remote_code=trusted).model_type

    @cached_property
    def digest(self) -> str:
        """16 hex digits over names, shapes, dtypes, sizes and a sample of every tensor.

        The sample (64 bytes from the middle of each tensor; safetensors only) tells
        siblings apart, which share names, shapes and sizes. Source: our choice.
        """
        mark = hashlib.sha256()
        for name in sorted(self.headers):
            header = self.headers[name]
            row = [name, header.dtype, list(header.shape)]
            mark.update(json.dumps(row).encode())
        if self.safetensors:
            for file in sorted(Path(self.path).glob("*.safetensors")):
                _sample_file(file, self.headers, mark)
        return mark.hexdigest()[:16]


def _read_header(file: Path) -> tuple[dict[str, dict], int]:
    """Return a safetensors file's header by tensor and where its data begins."""
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(length))
    except (OSError, ValueError, MemoryError, RecursionError, struct.error) as error:
        raise DarwinError(
            f"{file} must be a whole safetensors file; its header cannot be read"
            f" ({error}). Download or save the model again."
        ) from None
    if not isinstance(header, dict) or not all(map(_is_row, header.items())):
        raise DarwinError(
            f"{file} must be a whole safetensors file; its header is no table of"
            " tensors. Download or save the model again."
        )
    header.pop("__metadata__", None)
    return header, 8 + length


def _is_row(item: tuple[str, object]) -> bool:
    name, row = item
    keys = {"dtype", "shape", "data_offsets"}
    return name == "__metadata__" or (isinstance(row, dict) and keys <= set(row))


def _sample_file(
    file: Path, headers: Mapping[str, TensorHeader], mark: hashlib._Hash
) -> None:
    rows, offset = _read_header(file)
    with file.open("rb") as stream:
        for name in sorted(rows):
            if name not in headers:
                continue
            begin, end = rows[name]["data_offsets"]
            stream.seek(offset + begin + max(0, (end - begin) // 2 - _SAMPLE // 2))
            mark.update(stream.read(min(_SAMPLE, end - begin)))


def parse_model(model: str | ModelReference) -> ModelReference:
    """Return mergekit's reference of a model given as path, hub name, or model+lora."""
    if isinstance(model, ModelReference):
        return model
    return ModelReference.parse(model)


def open_checkpoint(
    model: str | ModelReference, options: MergeOptions | None = None
) -> Checkpoint:
    """Return a model's checkpoint; a hub name is downloaded, a LoRA merged first.

    Raises DarwinError if there is no model at that place.
    """
    reference = parse_model(model)
    cache = LoaderCache()
    if options is not None:
        cache.setup(options)
    try:
        index = cache.get(reference).index
    except Exception as error:
        raise DarwinError(
            f"{reference} must be a folder with safetensors (or .bin) weights, or a"
            f" model on the hub; it cannot be opened ({_first_line(error)})."
        ) from error
    _check_shards(reference, index.tensor_paths)
    headers: dict[str, TensorHeader] = {}
    if index.is_safetensors:
        for shard in sorted({*index.tensor_paths.values()}):
            rows, _ = _read_header(Path(index.base_path) / shard)
            for name, row in rows.items():
                dtype = _DTYPES.get(row["dtype"], row["dtype"])
                headers[name] = TensorHeader(name, dtype, tuple(row["shape"]))
    else:
        for name, tensor in _meta_tensors(index.base_path, index.tensor_paths).items():
            dtype = str(tensor.dtype).removeprefix("torch.")
            headers[name] = TensorHeader(name, dtype, tuple(tensor.shape))
    check_config(reference, index.base_path, len(headers), cache.trust_remote_code)
    return Checkpoint(reference, index.base_path, headers, index.is_safetensors)


def _check_shards(model: ModelReference, paths: Mapping[str, str]) -> None:
    """Refuse an index that sends a tensor to a file outside the model's folder."""
    for name, shard in paths.items():
        if os.path.isabs(shard) or ".." in Path(shard).parts:
            raise DarwinError(
                f"Every file of {model} must lie in its folder; its index says"
                f" {shard!r} for {name!r}. Download or save the model again."
            )


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__


def _meta_tensors(folder: str, paths: Mapping[str, str]) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for shard in sorted(set(paths.values())):
        state = torch.load(os.path.join(folder, shard), map_location="meta")
        found.update(state.get("state_dict", state))
    return {name: found[name] for name in paths if name in found}


def planned_tasks(
    config: MergeConfiguration, options: MergeOptions | None = None
) -> list[ExecuteMergeMethodTask]:
    """Return mergekit's own per-tensor tasks for a configuration, nothing loaded.

    config is consumed, as mergekit's planner rewrites it. Each task carries the
    output tensor's name, the parameters resolved for it and the loads of its inputs.
    """
    options = options or MergeOptions()
    LoaderCache().setup(options)
    architecture = get_architecture_info(config, options)
    # run_merge's own config of the child: slices may change the number of layers
    child = _model_out_config(config, architecture, options.trust_remote_code)
    planner = MergePlanner(
        config, architecture, options=options, out_model_config=child
    )
    # plan_in_memory fails its own validation under pydantic 2.14; nothing is written
    tasks = planner.plan_to_disk("unused")
    return [task.tensor_task for task in tasks if isinstance(task, SaveTensor)]


def loads_of(task: ExecuteMergeMethodTask) -> dict[ModelReference, LoadTensor]:
    """Return the load of each input of a planned tensor, by model.

    Vocabulary permutation, where a tokenizer is configured, is looked through.
    """
    gather = task.gather_tensors
    if not isinstance(gather, GatherTensors):
        gather = gather.gather_tensors
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
    """Return whether the model has the tensor, under any name mergekit would accept."""
    names = [load.tensor, *(load.aliases or ()), *(load.tied_names or ())]
    index = LoaderCache().get(load.model).index
    return any(name in index.tensor_paths for name in names)


def stored_name(weight: WeightInfo, model: Checkpoint) -> str | None:
    """Return the name under which mergekit loads a weight from a model, None if not.

    It is one of its file's names, or where mergekit converts a layout the weight's own.
    """
    aliases = weight.aliases or ()
    for name in (weight.name, *aliases, *(weight.tied_names or ())):
        if name in model.headers:
            return name
    for name in (weight.name, *aliases):
        if can_convert_checkpoint_keys(model.kind, model.names, name):
            return name
    return None
