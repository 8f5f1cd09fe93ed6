"""How a tensor is blended at its ratio: the operators, by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from mergekit_darwin.kernel.blend import Blend
from mergekit_darwin.kernel.dare_ties import merge_three

Operator = Literal["dare_ties", "slerp", "linear"]


@dataclass(frozen=True)
class Operation:
    """One blend of a tensor: its numbers, and the operator that makes it.

    slerp and linear know the ratio only.
    """

    blend: Blend
    operator: Operator = "dare_ties"


def operate(
    base: torch.Tensor, father: torch.Tensor, mother: torch.Tensor, what: Operation
) -> torch.Tensor:
    """Return the blend of two parents: a new tensor of their shape, dtype and device.

    base is the Father's own tensor where there is no third model. Inputs are borrowed,
    never changed. Raises FloatingPointError for NaN or Inf that is met on the CPU.
    """
    if what.operator != "dare_ties":
        return _between(father, mother, what)
    return merge_three(base, father, mother, what.blend)


def _between(
    father: torch.Tensor, mother: torch.Tensor, what: Operation
) -> torch.Tensor:
    """Return mergekit's own slerp or linear of the parents: the same bits as there."""
    from mergekit.merge_methods import merge_tensors

    ratio, index = what.blend.ratio, None
    given: dict[str, object] = {"weight": [1.0 - ratio, ratio]}
    if what.operator == "slerp":
        given, index = {"t": ratio}, 0
    pair = [father, mother]
    child: torch.Tensor = merge_tensors(
        pair, what.operator, parameters=given, base_index=index
    )
    if not bool(torch.isfinite(child.sum(dtype=torch.float32))):
        raise FloatingPointError("the blend is not finite")
    return child
