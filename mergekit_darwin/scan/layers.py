"""Where a running model has its layers and its head."""

from __future__ import annotations

from typing import Any

from torch import nn

from mergekit_darwin.errors import DarwinError

_TOWERS = ("vision", "visual", "audio", "image", "speech", "encoder")
_DEPTHS = ("num_hidden_layers", "decoder_layers", "num_decoder_layers", "num_blocks")


def find_layers(model: nn.Module, name: str) -> tuple[str, nn.ModuleList]:
    """Return the path and list of the language model's layers.

    It is the outermost list as long as the config says the text model is deep, outside
    encoders and towers if there is one outside. Raises DarwinError if there is none.
    """
    config: Any = model.config
    text = config.get_text_config(decoder=True)
    depths = {getattr(text, key, None) for key in _DEPTHS} - {None}
    found = [
        (path, module)
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) in depths
    ]
    inner = [
        row for row in found if not any(tower in row[0].lower() for tower in _TOWERS)
    ]
    for path, module in inner or found:
        return path, module
    known = sorted(filter(None, depths))
    raise DarwinError(
        f"{name} must have a list of {known} layers for its probes; none was"
        f" found in {type(model).__name__}. Scan it with --no-probes."
    )


def find_head(model: nn.Module, name: str) -> Any:
    """Return the LM head. Raises DarwinError if the model has none."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    if head is None:
        raise DarwinError(
            f"{name} must have an LM head for its probes; {type(model).__name__} has"
            " none. Scan it with --no-probes."
        )
    return head
