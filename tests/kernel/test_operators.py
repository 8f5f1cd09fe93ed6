"""Operators: dare_ties is ours, slerp and linear are mergekit's to the bit."""

from __future__ import annotations

import pytest
import torch
from mergekit.merge_methods import merge_tensors

from mergekit_darwin.kernel.dare_ties import merge_three
from mergekit_darwin.kernel.operators import Blend, Operation, Operator, operate

BLEND = Blend(0.3, 0.6, 0.7, 0.8, 1.2, True, False, "seed", "a.weight")


def tensors(dtype: torch.dtype) -> list[torch.Tensor]:
    """Return base, Father and Mother of one tensor."""
    draw = torch.Generator().manual_seed(3)
    return [torch.randn(33, 17, generator=draw).to(dtype) for _ in range(3)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("operator", "given", "index"),
    [("slerp", {"t": 0.3}, 0), ("linear", {"weight": [0.7, 0.3]}, None)],
)
def test_slerp_and_linear_blend_the_parents_as_mergekit_does(
    dtype: torch.dtype, operator: Operator, given: dict, index: int | None
) -> None:
    base, father, mother = tensors(dtype)
    child = operate(base, father, mother, Operation(BLEND, operator))
    alone = merge_tensors(
        [father, mother], operator, parameters=given, base_index=index
    )
    assert torch.equal(child, alone) and child.dtype == dtype
    middle = 0.7 * father.double() + 0.3 * mother.double()
    close = torch.nn.functional.cosine_similarity(
        child.double().flatten(), middle.flatten(), dim=0
    )
    assert close > 0.99  # both lie between the parents, near the straight line


def test_dare_ties_is_the_kernel_with_and_without_a_third_model() -> None:
    base, father, mother = tensors(torch.bfloat16)
    three = operate(base, father, mother, Operation(BLEND))
    assert torch.equal(three, merge_three(base, father, mother, BLEND))
    two = operate(father, father, mother, Operation(BLEND))
    assert torch.equal(two, merge_three(father, father, mother, BLEND))


@pytest.mark.parametrize("operator", ["slerp", "linear"])
def test_what_is_not_finite_is_an_error(operator: Operator) -> None:
    base, father, mother = tensors(torch.float32)
    mother[1, 2] = torch.inf
    with pytest.raises(FloatingPointError):
        operate(base, father, mother, Operation(BLEND, operator))
