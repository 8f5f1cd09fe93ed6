"""DARE-TIES of one page as one compiled loop: the algorithm as it is defined.

    delta_p = p - base                           for Father and Mother
    kept_p  = keep_p(i) ? delta_p * share_p / kept_share_p : 0
    merged  = what agrees in sign with kept_f + kept_m, added
    merged  = w * merged + (1 - w) * (share_f * delta_f + share_m * delta_m)
    child   = base + lambda * merged

Every operation rounds by itself, in float32 (float64 for float64 weights): numba does
not fuse or reorder, and `dare_ties` does the same operations with torch, so that both
give the same bits. numba has no floats of 16 bits: bfloat16 comes as uint16, float16 as
int16. And it widens the result of every integer operation to 64 bits: `U` wraps it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numba import njit, types
from numba.extending import intrinsic, overload

from mergekit_darwin.kernel.blend import Scalars
from mergekit_darwin.kernel.masks import HALF, MULTIPLIER, scrambled_offsets
from mergekit_darwin.kernel.work import kept_on_disk

I, U, Half = np.int32, np.uint32, np.uint16  # noqa: E741
ZERO, NOTHING = np.float32(0.0), I(0)
WORDS = {
    torch.bfloat16: torch.uint16,
    torch.float16: torch.int16,
    torch.float32: torch.float32,
    torch.float64: torch.float64,
}
# The first bits, without sign, that are not finite: of a task vector, of the child
# before it is rounded to its own dtype.
_INFINITE = {
    torch.bfloat16: (I(0x7F800000), I(0x7F7F8000)),
    torch.float16: (I(0x7F800000), I(0x477FF000)),
    torch.float32: (I(0x7F800000), I(0x7F800000)),
    torch.float64: (np.int64(0x7FF0 << 48), np.int64(0x7FF0 << 48)),
}


def _reader(source, target):
    """Return a compiled function that reads the bits of one type as another's."""

    def generate(context, builder, signature, values):
        return builder.bitcast(values[0], context.get_value_type(target))

    return intrinsic(lambda typing, value: (target(source), generate))


_float_of = _reader(types.uint32, types.float32)
_bits_of = _reader(types.float32, types.uint32)
_long_bits_of = _reader(types.float64, types.uint64)


def _widened(weight):
    """Return a stored weight in the arithmetic's precision; exact."""


def _narrowed(value, like):
    """Return a value in the type of a stored weight, to the nearest, ties to even."""


def _size_bits(value):
    """Return the bits without the sign, as a signed integer: they order like sizes."""


@overload(_widened)
def _(weight):
    if weight == types.uint16:  # a bfloat16 is the upper half of a float32
        return lambda weight: _float_of(U(U(weight) << U(16)))
    return _from_half if weight == types.int16 else lambda weight: weight


@overload(_narrowed)
def _(value, like):
    kinds = {types.uint16: _to_bfloat, types.int16: _to_half}
    return kinds.get(like, lambda value, like: value)


@overload(_size_bits)
def _(value):
    if value == types.float32:
        return lambda value: I(U(_bits_of(value) & U(0x7FFFFFFF)))
    return lambda value: np.int64(_long_bits_of(value) & np.uint64(2**63 - 1))


def _to_bfloat(value, like):
    bits = _bits_of(value)
    odd = U(U(bits >> U(16)) & U(1))
    return Half(U(U(bits + U(0x7FFF)) + odd) >> U(16))


def _from_half(weight):
    bits = U(Half(weight))
    rest = U(U(bits & U(0x7FFF)) << U(13))
    size = U(rest + U(112 << 23))  # the exponents' biases differ by 112
    tiny = _bits_of(_float_of(U(rest + U(113 << 23))) - _float_of(U(113 << 23)))
    size = tiny if rest < U(1 << 23) else size
    size = U(rest | U(0x7F800000)) if rest >= U(0x0F800000) else size
    return _float_of(U(size | U(U(bits & U(0x8000)) << U(16))))


def _to_half(value, like):
    bits = _bits_of(value)
    size = U(bits & U(0x7FFFFFFF))
    odd = U(U(size >> U(13)) & U(1))
    half = U(U(U(U(size - U(112 << 23)) + U(0xFFF)) + odd) >> U(13))
    tiny = U(_bits_of(_float_of(size) + _float_of(U(126 << 23))) - U(126 << 23))
    half = tiny if size < U(113 << 23) else half
    return np.int16(U(half | U(U(bits >> U(16)) & U(0x8000))))


_inline = njit(inline="always")


@_inline
def _larger(x, y):
    return x if x > y else y


@_inline
def _smaller(x, y):
    return x if x < y else y


@_inline
def _hash(offset, key):
    """Return the 32-bit hash of a page's element, signed; `masks` says why so."""
    x = I(U(U(offset * key[0]) + key[1]))
    return I(I(x ^ I(x >> I(15))) * I(MULTIPLIER))


@_inline
def _elected_sum(left, right):
    """Return the sum of what agrees with the sign of left + right.

    If both agree, that is the total, the largest of the three in its direction; if
    not, it is the one that outweighed the other, larger than the total.
    """
    total = left + right
    top = _larger(_larger(left, right), total)
    bottom = _smaller(_smaller(left, right), total)
    return top if total >= ZERO else bottom


@_inline
def _elected_mean(left, right, alone):
    """Return the elected sum over the shares that took part; two shares add up to 1."""
    total = left + right
    plus = total >= ZERO
    from_left = left > ZERO if plus else left < ZERO
    from_right = right > ZERO if plus else right < ZERO
    mean = left * alone[0] if from_left else right * alone[1]
    mean = total if from_left and from_right else mean
    return mean if from_left or from_right else ZERO


@kept_on_disk
def _merge_page(weights, offsets, key, scalars, mix, alone, infinite):
    """Merge a page; return whether task vectors and child are finite throughout."""
    base, father, mother, child = weights
    kept, shares, grown, lambda_ = scalars
    worst_delta = worst_child = NOTHING
    for i in range(child.size):
        start = _widened(base[i])
        left = _widened(father[i]) - start
        right = _widened(mother[i]) - start

        word = _hash(offsets[i], key)
        keep_left = I(word >> I(16)) < kept[0]
        keep_right = I(I(word << I(16)) >> I(16)) < kept[1]
        kept_left = left * grown[0] if keep_left else ZERO
        kept_right = right * grown[1] if keep_right else ZERO

        if alone is None:  # decided when compiled, as is mix
            merged = _elected_sum(kept_left, kept_right)
        else:
            merged = _elected_mean(kept_left, kept_right, alone)
        if mix is not None:
            plain = left * shares[0] + right * shares[1]
            merged = merged * mix[0] + plain * mix[1]
        value = start + merged * lambda_

        worst_delta = _larger(worst_delta, _size_bits(left))
        worst_delta = _larger(worst_delta, _size_bits(right))
        worst_child = _larger(worst_child, _size_bits(value))
        child[i] = _narrowed(value, base[i])
    return worst_delta < infinite[0] and worst_child < infinite[1]


def compiled_pages(
    flat: list[torch.Tensor], scalars: Scalars
) -> Callable[[slice, tuple[int, int]], bool]:
    """Return what merges one page of base, Father and Mother into the child.

    flat are the four tensors as [numel], on the CPU. The result takes a page's place
    and keys, and returns whether both task vectors and the child are finite there.
    """
    dtype = flat[0].dtype
    arrays = [tensor.view(WORDS[dtype]).numpy() for tensor in flat]
    offsets = scrambled_offsets(flat[0].device).numpy().view(U)
    number = np.float64 if dtype == torch.float64 else np.float32

    def pair(values: tuple[float, float] | None) -> Any:
        return None if values is None else (number(values[0]), number(values[1]))

    numbers = (
        (I(scalars.steps[0] - HALF), I(scalars.steps[1] - HALF)),
        pair(scalars.shares),
        pair(scalars.grown),
        number(scalars.lambda_),
    )
    mix, alone, infinite = pair(scalars.mix), pair(scalars.alone), _INFINITE[dtype]

    def merge(here: slice, key: tuple[int, int]) -> bool:
        weights = tuple(array[here] for array in arrays)
        keys = (U(key[0] & 0xFFFFFFFF), U(key[1] & 0xFFFFFFFF))
        return bool(_merge_page(weights, offsets, keys, numbers, mix, alone, infinite))

    return merge


@kept_on_disk
def _count(words: Any, first: int, step: int, counts: Any) -> None:
    for i in range(first, words.size, step):
        counts[words[i]] += 1


def add_counts(flat: torch.Tensor, counts: torch.Tensor) -> None:
    """Add to counts, int64 [65536], the patterns of a contiguous tensor on the CPU.

    Of types wider than 16 bits the upper half counts (on a little-endian machine).
    """
    words, width = flat.view(torch.uint16).numpy(), flat.element_size() // 2
    _count(words, width - 1, width, counts.numpy())
