"""The DARE-TIES kernel for one tensor."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mergekit.merge_methods import merge_tensors

from mergekit_darwin.kernel.dare_ties import Blend, merge_three
from mergekit_darwin.kernel.masks import PAGE

PLAIN = Blend(
    ratio=0.4,
    density_a=1.0,
    density_b=1.0,
    weight=1.0,
    lambda_=1.0,
    rescale=True,
    normalize=False,
    seed="seed",
    name="tensor",
)
TWO_ULP = 2.0**-26  # of float32 at 0.125, the largest weight of parents()
SPARSE = replace(PLAIN, density_a=0.9, density_b=0.8)


def parents(*shape: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(len(shape))
    base = 0.02 * torch.randn(shape, generator=draw)
    deltas = [0.002 * torch.randn(shape, generator=draw) for _ in range(2)]
    return [t.to(dtype) for t in (base, base + deltas[0], base + deltas[1])]


def one(base: float, father: float, mother: float, blend: Blend) -> float:
    tensors = [torch.tensor([value]) for value in (base, father, mother)]
    return float(merge_three(*tensors, blend))


def test_hand_computed_election() -> None:
    half = replace(PLAIN, ratio=0.5)
    assert one(1.0, 3.0, 5.0, half) == 1.0 + 1.0 + 2.0  # agree: both are added
    assert one(1.0, 3.0, -5.0, half) == 1.0 - 3.0  # disagree: the larger one stays
    assert one(1.0, 3.0, -1.0, half) == 1.0 + 1.0  # a tie elects plus
    assert one(1.0, 1.0, 5.0, half) == 1.0 + 2.0  # an untouched parent has no say
    assert one(1.0, 3.0, 5.0, replace(half, lambda_=2.0)) == 1.0 + 2.0 * 3.0
    assert one(1.0, 3.0, -5.0, replace(half, normalize=True)) == 1.0 - 6.0
    assert one(1.0, 3.0, 5.0, replace(half, normalize=True)) == 1.0 + 3.0


def test_method_weight_mixes_with_the_plain_sum() -> None:
    half = replace(PLAIN, ratio=0.5, weight=0.25)
    ties, plain = -3.0, 1.0 - 3.0
    assert one(1.0, 3.0, -5.0, half) == 1.0 + 0.25 * ties + 0.75 * plain


def test_weight_zero_is_the_interpolation_of_the_parents() -> None:
    base, father, mother = parents(64, 33)
    blend = replace(SPARSE, weight=0.0)
    expected = 0.6 * father.double() + 0.4 * mother.double()
    for merged in (
        merge_three(base, father, mother, blend),
        merge_three(father, father, mother, blend),
    ):
        assert torch.allclose(merged.double(), expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("method", ["ties", "dare_ties"])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("lambda_", [1.0, 1.7])
def test_at_density_one_it_equals_mergekit(
    method: str, normalize: bool, lambda_: float
) -> None:
    base, father, mother = parents(300, 500)
    ours = merge_three(
        base, father, mother, replace(PLAIN, normalize=normalize, lambda_=lambda_)
    )
    theirs = merge_tensors(
        [father, mother, base],
        method,
        base_index=2,
        parameters={
            "weight": [0.6, 0.4],
            "density": 1.0,
            "normalize": normalize,
            "rescale": False,
            "lambda": lambda_,
        },
    )
    assert torch.allclose(ours, theirs, rtol=0, atol=TWO_ULP)


def test_with_the_father_as_base_his_density_has_nothing_to_act_on() -> None:
    _, father, mother = parents(513, 300)
    for blend in (PLAIN, SPARSE, replace(SPARSE, weight=0.3, lambda_=1.5)):
        merged = merge_three(father, father, mother, blend)
        other = replace(blend, density_a=0.5)
        assert torch.equal(merged, merge_three(father, father, mother, other))
        assert not torch.equal(merged, father)


def test_rescaled_masks_keep_the_expected_value() -> None:
    base, father, mother = parents(1000, 1000)
    blend = replace(SPARSE, ratio=1.0, density_b=0.5)
    child = merge_three(base, father, mother, blend)
    delta = (mother - base).double()
    kept = (child - base).double() != 0
    assert float(kept.double().mean()) == pytest.approx(0.5, abs=5 * 0.0005)
    found = (child - base).double()[kept] / delta[kept]
    assert float(found.median()) == pytest.approx(2.0, rel=1e-3)


def test_without_rescale_kept_entries_stay_as_they_are() -> None:
    base, father, mother = parents(400, 400)
    blend = replace(SPARSE, ratio=1.0, density_b=0.5, rescale=False)
    child = merge_three(base, father, mother, blend)
    kept = child != base
    assert torch.allclose(child[kept], mother[kept], rtol=0, atol=TWO_ULP)


def test_pages_and_strides_do_not_show_in_the_result() -> None:
    base, father, mother = parents(3, PAGE // 2 + 77, dtype=torch.bfloat16)
    whole = merge_three(base, father, mother, SPARSE)
    turned = [t.t().contiguous().t() for t in (base, father, mother)]
    assert not turned[0].is_contiguous()
    assert torch.equal(merge_three(*turned, SPARSE), whole)


def test_threads_do_not_show_in_the_result() -> None:
    trio = parents(700, 700, dtype=torch.bfloat16)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(merge_three(*trio, SPARSE))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*results)


@pytest.mark.parametrize("changed", ["seed", "name"])
def test_another_seed_or_name_gives_another_mask(changed: str) -> None:
    trio = parents(100, 100)
    other = replace(SPARSE, **{changed: "else"})
    assert not torch.equal(merge_three(*trio, SPARSE), merge_three(*trio, other))
    dense = replace(PLAIN, **{changed: "else"})
    assert torch.equal(merge_three(*trio, PLAIN), merge_three(*trio, dense))


def test_unmasked_ignores_the_densities() -> None:
    trio = parents(100)
    unmasked = merge_three(*trio, replace(SPARSE, masked=False))
    assert torch.equal(unmasked, merge_three(*trio, PLAIN))


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64]
)
def test_dtype_and_shape_stay_and_inputs_are_not_touched(dtype: torch.dtype) -> None:
    trio = parents(5, 7, 3, dtype=dtype)
    before = [t.clone() for t in trio]
    child = merge_three(*trio, SPARSE)
    assert (child.dtype, child.shape) == (dtype, trio[0].shape)
    assert all(torch.equal(a, b) for a, b in zip(trio, before, strict=True))


@pytest.mark.parametrize("shape", [(), (0,), (0, 4), (1, 1)])
def test_odd_shapes_pass(shape: tuple[int, ...]) -> None:
    assert merge_three(*parents(*shape), SPARSE).shape == shape


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(*[st.floats(-2, 2, width=16)] * 3), min_size=1, max_size=20),
    st.floats(0, 1, width=16),
    st.floats(0, 1, width=16),
)
def test_any_values_follow_the_plain_definition(
    rows: list[tuple[float, float, float]], ratio: float, weight: float
) -> None:
    base, father, mother = torch.tensor(rows, dtype=torch.float64).T
    left, right = (1 - ratio) * (father - base), ratio * (mother - base)
    sign = torch.where(left + right >= 0, 1.0, -1.0)
    agree = sum(torch.where(d.sign() == sign, d, 0.0) for d in (left, right))
    expected = base + weight * agree + (1 - weight) * (left + right)
    blend = replace(PLAIN, ratio=ratio, weight=weight)
    child = merge_three(base.contiguous(), father.contiguous(), mother, blend)
    assert torch.allclose(child, expected, rtol=0, atol=1e-12)
