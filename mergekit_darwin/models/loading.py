"""Models that transformers loaded: whole, or refused.

What a checkpoint's files lack, or hold in another shape, transformers fills with random
numbers and says so in a log. Such a model answers, and its answers mean nothing.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mergekit_darwin.errors import DarwinError, plain, some


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
