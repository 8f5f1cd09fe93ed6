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
from typing import Any

import torch
from torch import Tensor, nn

from mergekit_darwin.errors import DarwinError

_PIECE = 4096  # tokens of one product
_COLUMNS = 256  # of a gram matrix that are computed together


@dataclass
class Moments:
    """What least squares needs to know of a group's tokens, in float64.

    xx is the sum of x x', [in, in], its upper triangle at least; xr the sum of x r',
    [in, out], None where nothing is lacking.
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


def gram(x: Tensor) -> Tensor:
    """Return x' x as float64 [in, in] for rows x [n, in]."""
    return mirror(add_gram(no_moments(x), x, 1.0))


def no_moments(x: Tensor) -> Tensor:
    """Return zeros, float64 [in, in], for rows x [n, in]."""
    size = x.shape[1]
    return torch.zeros(size, size, dtype=torch.float64, device=x.device)


def add_gram(total: Tensor, x: Tensor, share: float) -> Tensor:
    """Add share * x' x to a sum in place; what `mirror` can restore is left out."""
    for start in range(0, x.shape[0], _PIECE):
        piece = x[start : start + _PIECE].double()
        for i in range(0, x.shape[1], _COLUMNS):
            rows = piece[:, i : i + _COLUMNS].T
            total[i : i + _COLUMNS, i:].addmm_(rows, piece[:, i:], alpha=share)
    return total


def mirror(total: Tensor) -> Tensor:
    """Put the upper triangle of a matrix over its lower one, in place."""
    for i in range(0, len(total), _COLUMNS):
        done = i + _COLUMNS
        total[done:, i:done] = total[i:done, done:].T
        corner = total[i:done, i:done]
        corner.copy_(corner.triu() + corner.triu(1).T)
    return total


def change(parts: Sequence[tuple[float, Moments]], ridge: float) -> Tensor:
    """Return D, float64 [out, in], for (share a token, moments) of every group.

    At least one group must lack something; of xx the upper triangle is read. An input
    that is zero on all tokens gets no change. Raises DarwinError for NaN and Inf, and
    where the moments are singular and the ridge is too small to decide.
    """
    whole = torch.zeros_like(parts[0][1].xx)
    for share, moments in parts:
        whole.add_(moments.xx, alpha=share)
    mirror(whole)
    lack = sum_of([m.xr * share for share, m in parts if m.xr is not None])
    if not (bool(torch.isfinite(whole).all()) and bool(torch.isfinite(lack).all())):
        raise DarwinError("inputs and outputs must be finite; found NaN or Inf.")
    square = whole.diagonal().clone()
    unit = torch.where(square > 0.0, square, 1.0).rsqrt()
    whole.mul_(unit[:, None]).mul_(unit)
    whole.diagonal().fill_(1.0 + ridge)
    factor, failed = torch.linalg.cholesky_ex(whole)
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


def change_map(module: nn.Module, found: Tensor, dtype: torch.dtype) -> None:
    """Add a change [out, in (+ 1)] to a map, rounded to what the child is stored in."""
    bias: Any = getattr(module, "bias", None)
    if bias is not None:
        add(bias.data, found[:, -1], dtype)
        found = found[:, :-1]
    weight: Any = module.weight
    add(weight.data, found if isinstance(module, nn.Linear) else found.T, dtype)


def add(weight: Tensor, found: Tensor, dtype: torch.dtype) -> None:
    """Add a float64 change to a weight in place, the sum rounded to dtype."""
    weight.copy_((weight.double() + found).to(dtype))
