"""config.json as it stands, checked before anything is built from it."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from mergekit.common import ModelReference

from mergekit_darwin.errors import DarwinError, about
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
