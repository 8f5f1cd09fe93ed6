"""From a running model's tensor names to those of mergekit's output."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.models.names import stack_depths
from mergekit_darwin.models.opened import ProbeOptions, merge_options
from mergekit_darwin.models.plan import model_loads


def checkpoint_tensors(
    model: nn.Module, tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return tensors that are named and shaped as in the model, as its files have them.

    What transformers packs on loading (experts, renamed prefixes) is taken apart
    again. That only re-orders elements, so inner products of gradients and weights are
    the same in both forms.
    """
    from transformers.core_model_loading import revert_weight_conversion

    return revert_weight_conversion(model, dict(tensors))  # type: ignore[arg-type]


def layer_stack(model: str, path: str, depth: int, options: ProbeOptions) -> str:
    """Return the stack that a running model's layers at path are in mergekit's names.

    It is the one of the same depth whose name ends most like the path. Raises
    DarwinError if none has that depth.
    """
    depths = stack_depths(model_loads(model, merge_options(options)))
    fitting = [stack for stack, layers in depths.items() if layers == depth]
    if not fitting:
        raise DarwinError(
            f"mergekit must know the {depth} layers of {model} at {path} for its"
            f" probes; it plans {depths or 'no layers'} for such a model, and a merge"
            " would lose them. Scan it with --no-probes."
        )
    return max(fitting, key=lambda stack: _common_tail(stack, path))


def _common_tail(first: str, second: str) -> int:
    pairs = zip(reversed(first.split(".")), reversed(second.split(".")), strict=False)
    count = 0
    for left, right in pairs:
        if left != right:
            break
        count += 1
    return count
