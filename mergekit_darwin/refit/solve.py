"""From moments to the change of a linear map: ridge regression in closed form.

A map A is to become A + D. With x its inputs and r what its outputs lack, D minimises

    sum over groups of  share * mean over tokens of |D x - r|^2
        + ridge * sum over inputs i of  s_i * |D e_i|^2,

where s_i is input i's mean square over all groups, so that the ridge knows no units. A
group whose r is zero holds the map as it is: keeping general text costs its inputs'
second moments and nothing else. Sources: RegMean (arXiv 2212.09849) for least squares
on inputs, MEMIT (arXiv 2210.07229, eq. 14) for the moments that hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mergekit_darwin.errors import DarwinError

_PIECE = 4096  # tokens of one product


@dataclass
class Moments:
    """What least squares needs to know of a group's tokens, in float64.

    xx is the sum of x x', [in, in]; xr the sum of x r', [in, out], None where nothing
    is lacking.
    """

    xx: Tensor
    xr: Tensor | None = None


def product(x: Tensor, y: Tensor) -> Tensor:
    """Return x' y as float64 [in, out] for rows x [n, in] and y [n, out]."""
    total = torch.zeros(x.shape[1], y.shape[1], dtype=torch.float64, device=x.device)
    for start in range(0, x.shape[0], _PIECE):
        piece = slice(start, start + _PIECE)
        total += x[piece].double().T @ y[piece].double()
    return total


def change(parts: Sequence[tuple[float, Moments]], ridge: float) -> Tensor:
    """Return D, float64 [out, in], for (share a token, moments) of every group.

    At least one group must lack something. An input that is zero on all tokens gets no
    change. Raises DarwinError for NaN and Inf, and where the moments are singular and
    the ridge is too small to decide.
    """
    gram = sum_of([moments.xx * share for share, moments in parts])
    lacks = [m.xr * share for share, m in parts if m.xr is not None]
    lack = sum_of(lacks)
    if not (bool(torch.isfinite(gram).all()) and bool(torch.isfinite(lack).all())):
        raise DarwinError("inputs and outputs must be finite; found NaN or Inf.")
    square = gram.diagonal().clone()
    unit = torch.where(square > 0.0, square, 1.0).rsqrt()
    scaled = gram * unit[:, None] * unit[None, :]
    scaled.diagonal().fill_(1.0 + ridge)
    factor, failed = torch.linalg.cholesky_ex(scaled)
    if int(failed):
        raise DarwinError(
            "the moments of its inputs must be regular; they are singular at ridge"
            f" {ridge:g}."
            " Give more texts or a larger --ridge."
        )
    return (torch.cholesky_solve(lack * unit[:, None], factor) * unit[:, None]).T


def sum_of(terms: Sequence[Tensor]) -> Tensor:
    """Return the sum of one tensor or more, in their order."""
    total = terms[0].clone()
    for term in terms[1:]:
        total += term
    return total
