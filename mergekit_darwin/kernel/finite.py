"""Weights must be finite: in the parents, and in what is made of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

import torch

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.kernel.profile import Profile


def refuse_unsound(name: str, whose: str, profile: Profile) -> None:
    """Refuse a tensor with NaN or Inf in it. Raises DarwinError naming it."""
    if profile.nan or profile.inf:
        raise DarwinError(
            f"Every weight must be finite; tensor {name!r} of the {whose} has"
            f" {profile.nan} NaN and {profile.inf} Inf among {profile.numel}."
            " Repair or replace that checkpoint."
        )


def check_finite(
    name: str, tensor: torch.Tensor, inputs: Mapping[str, torch.Tensor]
) -> None:
    """Refuse a child's (or an input's) NaN or Inf, naming the input it came from.

    One sum over the tensor finds both; only then are the inputs, by role, looked at.
    Raises DarwinError, also for a finite merge that its dtype cannot hold.
    """
    if not bool(torch.isfinite(tensor.sum(dtype=torch.float32))):
        blame(name, inputs)


def blame(name: str, inputs: Mapping[str, torch.Tensor]) -> NoReturn:
    """Raise DarwinError for the input, by role, that is not finite, or an overflow."""
    for whose, tensor in inputs.items():
        bad = int((~torch.isfinite(tensor)).sum())
        if bad:
            raise DarwinError(
                f"Every weight must be finite; tensor {name!r} of the {whose} has"
                f" {bad} NaN or Inf among {tensor.numel()}. Repair that checkpoint."
            )
    raise DarwinError(
        f"The merged tensor {name!r} overflows {next(iter(inputs.values())).dtype}."
        " Merge in bfloat16 or float32 (dtype), or lower lambda."
    )
