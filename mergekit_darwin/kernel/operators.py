"""How a tensor is blended at its ratio: the operators, by name."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mergekit_darwin.kernel.dare_ties import Blend, merge_three


@dataclass(frozen=True)
class Operation:
    """One blend of a tensor: its numbers, for the operator that makes it."""

    blend: Blend


def operate(
    base: torch.Tensor, father: torch.Tensor, mother: torch.Tensor, what: Operation
) -> torch.Tensor:
    """Return the blend of two parents: a new tensor of their shape, dtype and device.

    base is the Father's own tensor where there is no third model. Inputs are borrowed,
    never changed. Raises FloatingPointError where the kernel meets NaN or Inf.
    """
    return merge_three(base, father, mother, what.blend)
