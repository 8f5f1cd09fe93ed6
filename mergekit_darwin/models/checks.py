"""What a model must be: its files before it is built, its weights once it is loaded.

What a checkpoint's files lack, or hold in another shape, transformers fills with random
numbers and says so in a log. Such a model answers, and its answers mean nothing.
"""

from __future__ import annotations

import json
import os
import stat
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mergekit.common import ModelReference, dtype_from_name

from mergekit_darwin.errors import DarwinError, about, plain, some
from mergekit_darwin.files import read_text

_DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "depth")
_LAYERS = 1000  # a declared depth up to this needs no tensors to prove it (our choice)


def check_files(folder: str | Path) -> None:
    """Refuse a model's folder that holds what is neither a file nor a folder.

    Of a fifo or a device nothing may ever come, or no end. Raises DarwinError.
    """
    for path in sorted(Path(folder).iterdir()) if Path(folder).is_dir() else ():
        with suppress(OSError):  # links to nothing are missed by those who need them
            mode = path.stat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise DarwinError(
                    f"A model's folder must hold regular files; {path} is none. Take"
                    " it away, or download the model again."
                )


def check_config(model: ModelReference, folder: str, tensors: int, remote: bool) -> Any:
    """Return the config of a model whose files hold so many tensors.

    Raises DarwinError unless config.json is an object that transformers reads, of one
    architecture, and of no more layers than its tensors can be of: a depth of a billion
    would otherwise be built before anything else looked at it.
    """
    path = Path(folder) / "config.json"
    if path.exists():
        _check_content(path, tensors)
    with about(f"{path} must be a config that transformers reads"):
        config = model.config(trust_remote_code=remote)
    names = getattr(config, "architectures", None)
    if not isinstance(names, list) or [type(name) for name in names] != [str]:
        raise DarwinError(
            f"{path} must name one architecture, as ['LlamaForCausalLM'], under"
            f" architectures; got {names!r}."
        )
    return config


def _check_content(path: Path, tensors: int) -> None:
    text = read_text(path, f"{path} cannot be read")
    with about(f"{path} must be the JSON of a model's config"):
        content = json.loads(text)
    if not isinstance(content, dict):
        raise DarwinError(
            f"{path} must be a JSON object, as transformers writes it; got"
            f" {type(content).__name__}. Download or save the model again."
        )
    most = max(tensors, _LAYERS)
    for key, depth in _depths(content):
        if not 0 <= depth <= most:
            raise DarwinError(
                f"{key} in {path} must be at most {most}, as the files hold {tensors}"
                f" tensors; got {depth}. Download or save the model again."
            )
    own = content.get("num_hidden_layers")
    if own is not None and own == 0:
        raise DarwinError(f"num_hidden_layers in {path} must be 1 or more; got 0.")


def _depths(content: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """Yield every declared number of layers, those of towers inside included."""
    for key, value in content.items():
        if isinstance(value, dict):
            yield from _depths(value)
        elif key in _DEPTHS and isinstance(value, int):
            yield key, value


def check_dtypes(settings: Any) -> None:
    """Refuse a dtype or an out_dtype that torch does not have. Raises DarwinError."""
    for key in ("dtype", "out_dtype"):
        with about(f"{key} must be a torch type such as bfloat16"):
            dtype_from_name(getattr(settings, key) or "float32")


def check_shards(model: ModelReference, paths: Mapping[str, str]) -> None:
    """Refuse an index that sends a tensor to a file outside the model's folder."""
    for name, shard in paths.items():
        if os.path.isabs(shard) or ".." in Path(shard).parts:
            raise DarwinError(
                f"Every file of {model} must lie in its folder; its index says"
                f" {shard!r} for {name!r}. Download or save the model again."
            )


def check_loaded(name: str, info: Mapping[str, Any]) -> None:
    """Refuse a model if some of its weights came from no file.

    info is what from_pretrained gives beside the model for output_loading_info; it
    must have been told to ignore_mismatched_sizes, or it raises before. Raises
    DarwinError that names the weights.
    """
    lacking = sorted(info["missing_keys"])
    if lacking:
        raise DarwinError(
            f"{name} must hold all weights of its architecture; its files lack"
            f" {some(lacking)}."
        )
    shapes = [
        f"{key} is {list(stored)} and must be {list(needed)}"
        for key, stored, needed in sorted(info["mismatched_keys"])
    ]
    if shapes:
        more = f", and {len(shapes) - 1} more" if len(shapes) > 1 else ""
        raise DarwinError(
            f"{name} must hold weights of the shapes that its config.json asks for;"
            f" {shapes[0]}{more}."
        )


@contextmanager
def whole_models() -> Iterator[None]:
    """Refuse what others load meanwhile by transformers, unless it is whole.

    lm-evaluation-harness has no place to ask for the loading info, and every one of its
    types that loads by transformers does so by this one method. Not for threads that
    load at once. Raises DarwinError as check_loaded does, also for a LoRA that lacks
    weights.
    """
    from transformers import PreTrainedModel

    original = PreTrainedModel.__dict__["from_pretrained"]

    def checked(kind: Any, name: Any, *args: Any, **given: Any) -> Any:
        asked = given.pop("output_loading_info", False)
        given |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
        model, info = original.__func__(kind, name, *args, **given)
        check_loaded(str(name), info)
        return (model, info) if asked else model

    PreTrainedModel.from_pretrained = classmethod(checked)  # type: ignore[assignment, method-assign]
    try:
        with _whole_adapters():
            yield
    finally:
        PreTrainedModel.from_pretrained = original  # type: ignore[method-assign]


@contextmanager
def _whole_adapters() -> Iterator[None]:
    """Refuse a LoRA that peft fills up, of which it only warns."""
    said = "Found missing adapter keys"
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=said)
        try:
            yield
        except UserWarning as warning:
            words = plain(str(warning))
            if not words.startswith(said):
                raise
            raise DarwinError(
                "An adapter must hold all weights that its adapter_config.json names;"
                f" {words[:300]}"
            ) from warning
