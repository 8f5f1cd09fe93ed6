"""A model whose weights stay on disk: one module's at a time are held in memory.

accelerate builds it without weights and puts them in and out. Its own hooks of disk
offload would read a layer again for every batch, so that which weights are held is
decided here; what transformers packs on loading (experts) is packed by transformers.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from accelerate.utils import set_module_tensor_to_device
from torch import Tensor, nn

from mergekit_darwin.errors import DarwinError, some
from mergekit_darwin.talk import silent


def empty_model(
    kind: Any, config: Any, dtype: torch.dtype, device: str, remote: bool
) -> nn.Module:
    """Return a model of an auto class without weights; its buffers are on device.

    Buffers that no file holds (rotary frequencies) have their values.
    """
    from transformers.initialization import no_init_weights

    with init_empty_weights(include_buffers=False), no_init_weights():
        model: nn.Module = kind.from_config(
            config, dtype=dtype, trust_remote_code=remote
        )
    model.eval().requires_grad_(False)
    for module in model.modules():
        for key, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[key] = buffer.to(device)
    return model


@dataclass(frozen=True)
class DiskWeights:
    """Where each weight of a model lies on disk, and how it gets into the model.

    keys maps a module's tensor name to the (file, key) pairs it is made of; tied maps
    a tensor's name to the one whose values it shares.
    """

    name: str
    model: nn.Module
    dtype: torch.dtype
    device: str
    keys: Mapping[str, list[tuple[str, str]]]
    tied: Mapping[str, str]
    mapping: list[Any] = field(repr=False)

    def load(self, path: str) -> None:
        """Read all weights under a module's path. Raises DarwinError if some lack."""
        module = self.model.get_submodule(path)
        names = [f"{path}.{name}" for name, _ in _own_tensors(module)]
        self._read([name for name in names if name in self.keys])
        for name in names:
            if name not in self.keys and name in self.tied:
                self._tie(name, self.tied[name])
        lacking = [k for k, p in module.named_parameters() if p.device.type == "meta"]
        if lacking:
            raise DarwinError(
                f"{self.name}: --stream needs the weights of every layer under its own"
                f" name; {path} lacks {some(lacking)}. Scan it without --stream."
            )

    def drop(self, path: str) -> None:
        """Forget the weights under a module's path."""
        module = self.model.get_submodule(path)
        for name, _ in list(module.named_parameters(remove_duplicate=False)):
            set_module_tensor_to_device(module, name, "meta")
        _give_back()

    def _read(self, names: list[str]) -> None:
        from safetensors import safe_open
        from transformers.core_model_loading import (
            convert_and_load_state_dict_in_model,
        )
        from transformers.modeling_utils import LoadStateDictConfig

        files: dict[str, set[str]] = defaultdict(set)
        for name in names:
            for file, key in self.keys[name]:
                files[file].add(key)
        found: dict[str, Tensor] = {}
        for file, keys in sorted(files.items()):
            for key in sorted(keys):
                # opened for each and cloned: mapped pages stay as long as their file
                with safe_open(file, framework="pt") as handle:
                    found[key] = handle.get_tensor(key).clone()
        plan = LoadStateDictConfig(
            dtype=self.dtype,
            device_map={"": self.device},
            weight_mapping=self.mapping,
        )
        with silent("transformers"):
            convert_and_load_state_dict_in_model(self.model, found, plan)  # type: ignore[arg-type]
        self.model._weight_conversions = self.mapping  # type: ignore[assignment]

    def _tie(self, name: str, source: str) -> None:
        owner, _, leaf = source.rpartition(".")
        shared = self.model.get_submodule(owner)._parameters[leaf]
        if shared is None or shared.device.type == "meta":
            self.load(owner)
            shared = self.model.get_submodule(owner)._parameters[leaf]
        target, _, leaf = name.rpartition(".")
        self.model.get_submodule(target)._parameters[leaf] = shared


def _give_back() -> None:
    """Return freed memory to the system, where the C library has a call for that.

    Without it glibc keeps what tensors under 32 MiB used, and the peak of a streamed
    scan grows from layer to layer (measured: 30 MB a layer).
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _own_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def disk_weights(
    name: str, model: nn.Module, path: str, dtype: torch.dtype, device: str
) -> DiskWeights:
    """Return the map from a model's tensors to its files; nothing is read but headers.

    Modules outside the layers load themselves when first called.
    """
    from mergekit.io import ShardedTensorIndex
    from transformers.conversion_mapping import get_model_conversion_mapping

    index = ShardedTensorIndex.from_disk(path)
    if not index.is_safetensors:
        raise DarwinError(
            f"--stream needs safetensors files; {name} has other ones."
            " Scan it without --stream."
        )
    mapping: list[Any] = get_model_conversion_mapping(model)  # type: ignore[arg-type]
    keys: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for key, names in module_names(model, sorted(index.tensor_paths)).items():
        for wanted in names:
            keys[wanted].append((str(Path(path) / index.tensor_paths[key]), key))
    tied = dict(getattr(model, "all_tied_weights_keys", None) or {})
    return DiskWeights(name, model, dtype, device, dict(keys), tied, mapping)


def module_names(model: nn.Module, stored: Iterable[str]) -> dict[str, list[str]]:
    """Return the model's tensors that each stored name becomes (part of) on loading.

    As transformers does it: prefixes are added, names changed, experts fused.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import (
        WeightConverter,
        WeightRenaming,
        rename_source_key,
    )

    mapping: list[Any] = get_model_conversion_mapping(model)  # type: ignore[arg-type]
    renamings = [row for row in mapping if isinstance(row, WeightRenaming)]
    converters = [row for row in mapping if isinstance(row, WeightConverter)]
    known, prefix = model.state_dict(), str(model.base_model_prefix)
    found = {}
    for key in stored:
        target, pattern = rename_source_key(key, renamings, converters, prefix, known)
        found[key] = _targets(target, pattern, converters)
    return found


def _targets(target: str, pattern: str | None, converters: list[Any]) -> list[str]:
    """Return all tensors that a file's tensor becomes part of; target is the first."""
    for converter in converters:
        if pattern is not None and pattern in converter.source_patterns:
            first = converter.target_patterns[0]
            return [target.replace(first, other) for other in converter.target_patterns]
    return [target]


def load_on_call(disk: DiskWeights, layers: str) -> None:
    """Make every module outside the layers read its weights when it is first called."""

    def ensure(path: str) -> Any:
        def hook(module: nn.Module, args: Any) -> None:
            if any(p.device.type == "meta" for p in module.parameters(recurse=False)):
                disk.load(path)

        return hook

    for path, module in disk.model.named_modules():
        owns = next(module.parameters(recurse=False), None) is not None
        if owns and not path.startswith(f"{layers}."):
            module.register_forward_pre_hook(ensure(path))
