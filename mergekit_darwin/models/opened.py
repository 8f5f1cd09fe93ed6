"""A model opened by transformers, whole in memory or one module at a time from disk."""

from __future__ import annotations

import contextlib
import ctypes
import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mergekit_darwin.errors import DarwinError, some
from mergekit_darwin.models.checkpoint import open_checkpoint

LOG = logging.getLogger(__name__)
DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}


@dataclass(frozen=True)
class ProbeOptions:
    """How probes run. max_tokens bounds one item; batch_size counts items.

    stream holds one layer's weights at a time (and embedding and head), from disk.
    """

    device: str = "cpu"
    dtype: str = "float32"
    max_tokens: int = 256
    batch_size: int = 8
    stream: bool = False
    trust_remote_code: bool = False
    transformers_cache: str | None = None
    lora_merge_cache: str | None = None


@dataclass(frozen=True)
class OpenModel:
    """A model ready to run; disk is None if all its weights are in memory."""

    name: str
    model: nn.Module
    tokenizer: Any
    device: str
    disk: DiskWeights | None = None

    @contextlib.contextmanager
    def loaded(self, path: str) -> Iterator[None]:
        """Hold the weights of the module at path while the context lasts."""
        if self.disk is None:
            yield
            return
        self.disk.load(path)
        try:
            yield
        finally:
            self.disk.drop(path)


def open_model(name: str, options: ProbeOptions) -> OpenModel:
    """Return a model and its tokenizer, ready for inference.

    Raises DarwinError if either is missing or does not fit the other's files.
    """
    if options.dtype not in DTYPES:
        raise DarwinError(
            f"dtype must be one of {', '.join(DTYPES)}; got {options.dtype!r}."
        )
    checkpoint = open_checkpoint(name, merge_options(options))
    tokenizer = _tokenizer(name, checkpoint.path, options)
    with _quiet():
        if options.stream:
            return _open_on_disk(name, checkpoint.path, tokenizer, options)
        return _open_in_memory(name, checkpoint.path, tokenizer, options)


def merge_options(options: ProbeOptions) -> Any:
    """Return mergekit's options for loading the same models."""
    from mergekit.options import MergeOptions

    return MergeOptions(
        trust_remote_code=options.trust_remote_code,
        transformers_cache=options.transformers_cache,
        lora_merge_cache=options.lora_merge_cache,
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' own progress bars off the screen for a moment."""
    from transformers.utils import logging as talk

    shown = talk.is_progress_bar_enabled()
    talk.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            talk.enable_progress_bar()


def _tokenizer(name: str, path: str, options: ProbeOptions) -> Any:
    from transformers import AutoTokenizer

    places = [path]
    if "+" in name:  # a merged LoRA's folder may lack the tokenizer of its model
        places.append(name.split("+")[0])
    for place in places:
        try:
            return AutoTokenizer.from_pretrained(
                place, trust_remote_code=options.trust_remote_code
            )
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    raise DarwinError(
        f"{name} must have a tokenizer for its probes; none can be loaded from"
        f" {path} ({reason}). Copy the tokenizer's files there."
    )


def _auto_classes() -> list[Any]:
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    return [AutoModelForCausalLM, AutoModelForImageTextToText]


def _open_in_memory(
    name: str, path: str, tokenizer: Any, options: ProbeOptions
) -> OpenModel:
    reason = ""
    for auto in _auto_classes():
        try:
            model, info = auto.from_pretrained(
                path,
                dtype=DTYPES[options.dtype],
                trust_remote_code=options.trust_remote_code,
                output_loading_info=True,
            )
        except (ValueError, OSError, KeyError, RuntimeError) as error:
            reason = reason or str(error).splitlines()[0]
            continue
        _check_complete(name, info["missing_keys"])
        model.eval().requires_grad_(False)
        return OpenModel(name, model.to(options.device), tokenizer, options.device)
    raise DarwinError(f"{name} cannot be opened as a language model ({reason}).")


def _check_complete(name: str, missing: Any) -> None:
    if missing:
        raise DarwinError(
            f"{name} must hold all weights of its architecture; its files lack"
            f" {some(sorted(missing))}."
        )


def _open_on_disk(
    name: str, path: str, tokenizer: Any, options: ProbeOptions
) -> OpenModel:
    from transformers import AutoConfig
    from transformers.initialization import no_init_weights

    remote = options.trust_remote_code
    config = AutoConfig.from_pretrained(path, trust_remote_code=remote)
    dtype = DTYPES[options.dtype]
    reason = ""
    for auto in _auto_classes():
        try:
            with _parameters_on_meta(), no_init_weights():
                model = auto.from_config(config, dtype=dtype, trust_remote_code=remote)
        except ValueError as error:
            reason = reason or str(error).splitlines()[0]
            continue
        model.eval().requires_grad_(False)
        for module in model.modules():
            for key, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[key] = buffer.to(options.device)
        disk = disk_weights(name, model, path, dtype, options.device)
        return OpenModel(name, model, tokenizer, options.device, disk)
    raise DarwinError(f"{name} cannot be opened as a language model ({reason}).")


@contextlib.contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Send every new parameter to the meta device; buffers are made as always.

    Buffers that no file holds (rotary frequencies) thus get their values.
    """
    original = nn.Module.register_parameter

    def register(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        original(self, name, None if param is None else _to_meta(param))

    nn.Module.register_parameter = register  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = original  # type: ignore[method-assign]


def _to_meta(param: nn.Parameter) -> nn.Parameter:
    if param.device.type == "meta":
        return param
    return nn.Parameter(torch.empty_like(param, device="meta"), requires_grad=False)


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
        for module in self.model.get_submodule(path).modules():
            for key, param in module._parameters.items():
                if param is not None:
                    module._parameters[key] = _to_meta(param)
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
        with _quiet():
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
    from transformers.core_model_loading import (
        WeightConverter,
        WeightRenaming,
        rename_source_key,
    )

    index = ShardedTensorIndex.from_disk(path)
    if not index.is_safetensors:
        raise DarwinError(
            f"--stream needs safetensors files; {name} has other ones."
            " Scan it without --stream."
        )
    mapping: list[Any] = get_model_conversion_mapping(model)  # type: ignore[arg-type]
    renamings = [row for row in mapping if isinstance(row, WeightRenaming)]
    converters = [row for row in mapping if isinstance(row, WeightConverter)]
    known = model.state_dict()
    keys: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for key, shard in sorted(index.tensor_paths.items()):
        target, pattern = rename_source_key(
            key,
            renamings,
            converters,
            str(model.base_model_prefix),
            known,
        )
        for wanted in _targets(target, pattern, converters):
            keys[wanted].append((str(Path(path) / shard), key))
    tied = dict(getattr(model, "all_tied_weights_keys", None) or {})
    return DiskWeights(name, model, dtype, device, dict(keys), tied, mapping)


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
