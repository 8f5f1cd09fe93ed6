"""The compiled loop and the chain of torch operations are one function, bit for bit."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mergekit_darwin.kernel import dare_ties, profile
from mergekit_darwin.kernel.blend import Blend, Scalars, scalars_of
from mergekit_darwin.kernel.masks import PAGE
from mergekit_darwin.kernel.work import Work

njit = pytest.importorskip("numba").njit
fused = pytest.importorskip("mergekit_darwin.kernel.fused")

BLEND = Blend(
    ratio=0.4,
    density_a=0.9,
    density_b=0.8,
    weight=1.0,
    lambda_=1.0,
    rescale=True,
    normalize=False,
    seed="seed",
    name="tensor",
)
DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
Trio = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def merged(maker: dare_ties.Maker, trio: Trio, blend: Blend) -> torch.Tensor:
    return dare_ties._merge(maker, trio, blend, scalars_of(blend))


def bits(tensor: torch.Tensor) -> torch.Tensor:
    whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    return tensor.view(whole[tensor.element_size()])


def assert_same_bits(trio: Trio, blend: Blend) -> torch.Tensor:
    """Both paths give the same bits, or both find the same page not finite."""
    found = []
    for maker in (fused.compiled_pages, dare_ties.torch_pages):
        try:
            found.append(merged(maker, trio, blend))
        except FloatingPointError:
            found.append(None)
    compiled, expected = found
    assert (compiled is None) == (expected is None), blend
    if compiled is not None:
        assert torch.equal(bits(compiled), bits(expected)), blend
    return compiled


def trio_of(count: int, dtype: torch.dtype, seed: int = 0) -> Trio:
    draw = torch.Generator().manual_seed(seed)
    base = 0.02 * torch.randn(count, generator=draw)
    father, mother = (
        base + 0.004 * torch.randn(count, generator=draw) for _ in range(2)
    )
    return base.to(dtype), father.to(dtype), mother.to(dtype)


def patterns(count: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    """Return finite weights of all patterns of bits: any exponent, sign, subnormal."""
    size = torch.finfo(dtype).bits // 8
    raw = np.random.default_rng(seed).integers(0, 256, count * size, dtype=np.uint8)
    weights = torch.from_numpy(raw).view(dtype)
    return torch.where(weights.isfinite(), weights, torch.zeros_like(weights))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weight, normalize", product((1.0, 0.7), (False, True)))
def test_same_bits_over_ratios_densities_and_lambdas(
    dtype: torch.dtype, weight: float, normalize: bool
) -> None:
    trio = trio_of(3000, dtype)
    for ratio, density, lambda_, rescale in product(
        (0.0, 0.3169, 1.0), (1.0, 0.8997, 0.05), (1.0, 0.0, 1.9), (True, False)
    ):
        blend = replace(
            BLEND,
            ratio=ratio,
            density_a=density,
            density_b=1.0 - density / 2,
            weight=weight,
            normalize=normalize,
            lambda_=lambda_,
            rescale=rescale,
        )
        assert_same_bits(trio, blend)


@pytest.mark.parametrize("dtype", DTYPES)
def test_same_bits_at_and_around_the_borders_of_pages(dtype: torch.dtype) -> None:
    for count in (0, 1, 7, 8, 9, 31, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE + 13):
        assert_same_bits(trio_of(count, dtype), replace(BLEND, weight=0.6))


@pytest.mark.parametrize("dtype", DTYPES)
def test_same_bits_for_weights_of_every_size_and_sign(dtype: torch.dtype) -> None:
    finite = 0
    for seed in range(30):
        trio = tuple(patterns(64, dtype, 3 * seed + i) for i in range(3))
        tame = tuple(t * 2.0**-10 for t in trio)
        for weight, normalize in product((1.0, 0.3), (False, True)):
            blend = replace(BLEND, weight=weight, normalize=normalize)
            finite += assert_same_bits(tame, blend) is not None
            assert_same_bits(trio, blend)
    assert finite > 30


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("normalize", (False, True))
def test_same_bits_for_zeros_of_both_signs_and_subnormals(
    dtype: torch.dtype, normalize: bool
) -> None:
    info = torch.finfo(dtype)
    small = [info.smallest_normal, info.smallest_normal / 4, 0.0]
    values = torch.tensor([s * x for x in small for s in (1, -1)], dtype=torch.float64)
    trio = tuple(torch.cartesian_prod(values, values, values).to(dtype).T.contiguous())
    for ratio, weight in product((0.0, 0.5, 1.0), (1.0, 0.5)):
        blend = replace(BLEND, ratio=ratio, weight=weight, normalize=normalize)
        assert_same_bits(trio, replace(blend, density_a=0.5))


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
def test_every_16_bit_pattern_is_read_and_written_exactly(dtype: torch.dtype) -> None:
    every = torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16).view(dtype)
    every = every[every.isfinite()]
    zero = torch.zeros_like(every)
    same = replace(BLEND, ratio=1.0, density_a=1.0, density_b=1.0)
    child = assert_same_bits((zero, zero, every), same)
    assert torch.equal(child, every)
    assert torch.equal(assert_same_bits((every, every, every), same), every)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", (float("nan"), float("inf"), -float("inf")))
@pytest.mark.parametrize("whose", range(3))
def test_nan_and_inf_are_found_even_where_a_mask_drops_them(
    dtype: torch.dtype, bad: float, whose: int
) -> None:
    for place in range(0, 40, 3):
        trio = [tensor.clone() for tensor in trio_of(40, dtype)]
        trio[whose][place] = bad
        for maker in (fused.compiled_pages, dare_ties.torch_pages):
            with pytest.raises(FloatingPointError):
                merged(maker, tuple(trio), replace(BLEND, density_a=0.1, density_b=0.1))


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16, torch.float32))
def test_a_child_too_large_for_its_dtype_is_found(dtype: torch.dtype) -> None:
    largest = torch.full((9,), torch.finfo(dtype).max, dtype=dtype)
    dense = replace(BLEND, ratio=1.0, density_a=1.0, density_b=1.0)
    trio = (torch.zeros_like(largest), torch.zeros_like(largest), largest)
    assert torch.equal(assert_same_bits(trio, dense), largest)
    for maker in (fused.compiled_pages, dare_ties.torch_pages):
        with pytest.raises(FloatingPointError):
            merged(maker, trio, replace(dense, lambda_=1.01))


def one() -> st.SearchStrategy[float]:
    return st.floats(0.0, 1.0, width=32)


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.tuples(*[st.floats(-2, 2, width=32)] * 3), min_size=1, max_size=40),
    one(),
    one(),
    st.floats(0.0, 2.0, width=32),
    st.sampled_from(DTYPES),
    st.booleans(),
)
def test_any_values_follow_the_definition_in_double_precision(
    rows: list[tuple[float, float, float]],
    ratio: float,
    weight: float,
    lambda_: float,
    dtype: torch.dtype,
    normalize: bool,
) -> None:
    trio = tuple(torch.tensor(rows, dtype=torch.float64).T.contiguous().to(dtype))
    blend = replace(
        BLEND,
        ratio=ratio,
        weight=weight,
        lambda_=lambda_,
        normalize=normalize,
        density_a=1.0,
        density_b=1.0,
    )
    child = assert_same_bits(trio, blend).double()
    base, father, mother = (tensor.double() for tensor in trio)
    shares = (1.0 - ratio, ratio)
    deltas = (father - base, mother - base)
    parts = [delta * share for delta, share in zip(deltas, shares, strict=True)]
    total = parts[0] + parts[1]
    sign = torch.where(total >= 0, 1.0, -1.0)
    agree = [part.sign() == sign for part in parts]
    elected = sum(torch.where(a, p, 0.0) for a, p in zip(agree, parts, strict=True))
    if normalize:
        taken = sum(a * s for a, s in zip(agree, shares, strict=True))
        elected = elected / torch.where(taken == 0, 1.0, taken)
    value = base + lambda_ * (weight * elected + (1.0 - weight) * total)
    # What rounds to a tie in float32 may elect the other sign: those are left out.
    clear = total.abs() > 1e-5
    room = 8 * torch.finfo(dtype).eps * (value.abs() + base.abs()) + 1e-5
    assert ((child - value).abs() <= room)[clear].all()


def test_the_machine_code_has_no_fused_multiply_add(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fresh = njit(nogil=True)(fused._merge_page.py_func)  # code from disk has no listing
    monkeypatch.setattr(fused, "_merge_page", fresh)
    for dtype in (torch.bfloat16, torch.float64):
        assert_same_bits(trio_of(16, dtype), replace(BLEND, weight=0.5))
    codes = list(fresh.inspect_asm().values())
    assert len(codes) == 2
    assert not any(re.search(r"\bv?fn?m(add|sub)", code) for code in codes)


def test_threads_and_order_do_not_show() -> None:
    trio = trio_of(5 * PAGE + 3, torch.bfloat16)
    before = torch.get_num_threads()
    try:
        children = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            children.append(merged(fused.compiled_pages, trio, BLEND))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(children[0], children[1])
    assert torch.equal(children[0], children[2])


def test_merging_gets_compiled_once_enough_was_merged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dare_ties, "WORK", Work(worth=250))
    tensor, scalars = torch.zeros(100), scalars_of(BLEND)
    chosen = [dare_ties.maker_for(tensor, scalars) for _ in range(4)]
    assert chosen == [dare_ties.torch_pages] * 2 + [fused.compiled_pages] * 2
    for other in (
        torch.zeros(9, device="meta"),
        torch.zeros(9, dtype=torch.float8_e4m3fn),
    ):
        assert dare_ties.maker_for(other, scalars) is dare_ties.torch_pages


def test_code_that_gives_other_bits_is_not_used(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def wrong(flat: list[torch.Tensor], scalars: Scalars) -> dare_ties.Merge:
        merge = fused.compiled_pages(flat, scalars)

        def off_by_one(here: slice, key: tuple[int, int]) -> bool:
            finite = merge(here, key)
            flat[3].view(torch.int32)[here][5] += 1
            return finite

        return off_by_one

    right = fused.compiled_pages
    assert dare_ties._gives_torchs_bits(right, torch.float32, False, False)
    assert not dare_ties._gives_torchs_bits(wrong, torch.float32, False, False)
    assert "differs from torch's bits" in caplog.text


@pytest.mark.parametrize("dtype", DTYPES[:3])
def test_patterns_are_counted_alike(dtype: torch.dtype) -> None:
    weights = patterns(3 * 70001, dtype, 1)
    found, expected = (torch.zeros(1 << 16, dtype=torch.int64) for _ in range(2))
    for piece in weights.split(70001):
        fused.add_counts(piece, found)
        profile.add_counts(piece, expected)
    assert torch.equal(found, expected)
    assert int(found.sum()) == weights.numel()


ALONE = """
import sys, logging
{setup}
import torch
logging.basicConfig(level=logging.INFO)
from mergekit_darwin.kernel import dare_ties, work
from mergekit_darwin.kernel.profile import profile_tensor
work.WORK.worth = 1
draw = torch.Generator().manual_seed(1)
trio = [torch.randn(999, generator=draw).bfloat16() for _ in range(3)]
blend = dare_ties.Blend(0.4, 0.9, 0.8, 0.7, 1.1, True, False, "seed", "tensor")
print(dare_ties.maker_for(trio[0], dare_ties.scalars_of(blend)).__name__)
print(dare_ties.merge_three(*trio, blend).view(torch.int16).sum().item())
print(profile_tensor(trio[0]).std)
"""


def told(setup: str, **environment: str) -> tuple[list[str], str]:
    """Run ALONE in a process of its own; return its words and its log."""
    run = subprocess.run(
        [sys.executable, "-c", ALONE.format(setup=setup)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=True,
    )
    return run.stdout.split(), run.stderr


def test_without_numba_or_a_place_for_its_cache_torch_gives_the_same_bits(
    tmp_path: Path,
) -> None:
    cache = tmp_path / "cache"
    (path, *bits), _ = told("", XDG_CACHE_HOME=str(cache), NUMBA_CACHE_DIR="")
    assert path == "compiled_pages"
    kept = {file.name.split("-")[0] for file in cache.rglob("mergekit-darwin/*/*.nbc")}
    assert kept == {"fused._merge_page", "fused._count"}

    (path, *same), said = told("sys.modules['numba'] = None")
    assert (path, same) == ("torch_pages", bits)
    assert "torch does numba's work (fused)" in said

    read_only = (
        "from numba.core.caching import _CacheLocator as locator\n"
        "def refuse(self): raise OSError('read-only')\n"
        "locator.ensure_cache_path = refuse\n"
    )
    (path, *same), said = told(read_only)
    assert (path, same) == ("torch_pages", bits)
    assert "no locator available" in said
