"""A bank of fused experts: what each expert's maps read and give on chosen tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mergekit_darwin.refit.solve import gram

_PRODUCTS = (torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.mm, Tensor.mm)


@dataclass(frozen=True)
class Product:
    """One product with one expert's weight: x [n, in], y [n, out], the weight's place.

    weight is the slice [out, in] or, if turned, [in, out] of the bank's parameter.
    """

    x: Tensor
    y: Tensor
    weight: Tensor
    turned: bool


class _Watch(TorchFunctionMode):
    """Notes products with slices of a bank's weights."""

    def __init__(self, bank: nn.Module, expert: int) -> None:
        super().__init__()
        self.slices = {
            p[expert].data_ptr(): p.data[expert]
            for p in bank.parameters(recurse=False)
            if p.dim() == 3
        }
        self.found: list[Product] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        linear = func is nn.functional.linear
        if (linear or func in _PRODUCTS) and isinstance(args[1], Tensor):
            weight = self.slices.get(args[1].data_ptr())
            if weight is not None and weight.shape == args[1].shape:
                x = args[0].reshape(-1, args[0].shape[-1])
                y = result.reshape(-1, result.shape[-1])
                self.found.append(Product(x, y, weight, not linear))
        return result


def products(bank: nn.Module, expert: int, x: Tensor) -> list[Product]:
    """Return the products of one expert on tokens x [n, in], in their order."""
    index = torch.full((len(x), 1), expert, device=x.device)
    weights = torch.ones((len(x), 1), dtype=x.dtype, device=x.device)
    forward = type(bank).forward
    eager = getattr(forward, "__wrapped__", forward)  # past the host's fused kernels
    with _Watch(bank, expert) as watch:
        eager(bank, x, index, weights)
    return watch.found


def experts_of(bank: nn.Module) -> int:
    """Return the number of a bank's experts."""
    return next(len(p) for p in bank.parameters(recurse=False) if p.dim() == 3)


def routed(index: Tensor, expert: int) -> Tensor:
    """Return the rows of index [n, k], each a token's experts, that have an expert."""
    return torch.nonzero((index == expert).any(dim=-1)).flatten()


def weight_at(
    bank: nn.Module, expert: int, place: int, x: Tensor
) -> tuple[Tensor, bool]:
    """Return the weight of an expert's product by its place, and if it is turned."""
    found = products(bank, expert, x[:1])[place]
    return found.weight, found.turned


def kept(
    bank: nn.Module, expert: int, calls: Sequence[tuple[Tensor, Tensor]]
) -> list[Tensor]:
    """Return sums of x x', float64 [in, in], of each of an expert's products.

    calls are tokens [n, in] and their experts [n, k]; nothing if none is the expert's.
    """
    sums: list[Tensor] = []
    for x, index in calls:
        rows = x[routed(index, expert)]
        found = products(bank, expert, rows) if len(rows) else []
        terms = [gram(row.x) for row in found]
        sums = (
            [a + b for a, b in zip(sums, terms, strict=True)]
            if sums and terms
            else sums or terms
        )
    return sums
