"""DARE-TIES for one tensor: knows tensors, no names, no files.

Sources: DARE, Yu et al., arXiv 2311.03099, section 3; TIES, Yadav et al., arXiv
2306.01708, section 3.2; the mixture with the plain sum is our choice. Where the two
papers leave a choice: kept entries are divided by the exact kept share (DARE's
rescale, not mergekit's L1 norm); a sum of exactly zero elects plus, as in mergekit;
agreeing deltas are added, not averaged, unless `normalize`.

The formula stands in `fused`, as one compiled loop. Here are the same operations, one
after the other, with torch: for other devices, and where numba is not to be had. Each
is rounded by itself (never `add(alpha=...)`, which may fuse), so the bits are the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import lru_cache

import torch

from mergekit_darwin.kernel.blend import Blend, Scalars, scalars_of
from mergekit_darwin.kernel.masks import PAGE, drop, page_keys
from mergekit_darwin.kernel.work import LOG, WORK, new_like, over_pages

_SIGN = -(1 << 31)  # the sign bit of a float32, as a signed integer

Key = tuple[int, int]
Merge = Callable[[slice, Key], bool]
Maker = Callable[[list[torch.Tensor], Scalars], Merge]


def merge_three(
    base: torch.Tensor, father: torch.Tensor, mother: torch.Tensor, blend: Blend
) -> torch.Tensor:
    """Return base + lambda * (w * DARE-TIES + (1 - w) * plain weighted sum).

    Tensors are of one shape [*weight_shape], floating dtype and device, borrowed and
    never changed; the base may be the Father. Arithmetic is float32 (float64 for
    float64), with one cast to the inputs' dtype at the end. The result is a new
    tensor. Raises FloatingPointError where, on the CPU, a task vector or the result
    has NaN or Inf.
    """
    scalars = scalars_of(blend)
    maker = maker_for(base, scalars)
    return _merge(maker, (base, father, mother), blend, scalars)


def _merge(
    maker: Maker, inputs: tuple[torch.Tensor, ...], blend: Blend, scalars: Scalars
) -> torch.Tensor:
    """Return the child, made page by page by what maker gives."""
    child = new_like(inputs[0])
    flat = [tensor.detach().reshape(-1) for tensor in (*inputs, child)]
    count = child.numel()
    keys = page_keys(blend.seed, blend.name, 0, -(-count // PAGE))

    def work(pages: Iterator[int]) -> None:
        merge = maker(flat, scalars)
        for page in pages:
            here = slice(page * PAGE, min((page + 1) * PAGE, count))
            if not merge(here, keys[page]):
                raise FloatingPointError("a page is not finite")

    if child.device.type == "cpu":
        over_pages(len(keys), work)
    else:
        work(iter(range(len(keys))))
    return child


def maker_for(tensor: torch.Tensor, scalars: Scalars) -> Maker:
    """Return what will merge a tensor's pages, compiled or torch's: the same bits."""
    fused = WORK.module("fused", tensor.numel())
    if fused is None or tensor.dtype not in fused.WORDS or tensor.device.type != "cpu":
        return torch_pages
    mixed, normalized = scalars.mix is not None, scalars.alone is not None
    good = _gives_torchs_bits(fused.compiled_pages, tensor.dtype, mixed, normalized)
    return fused.compiled_pages if good else torch_pages


@lru_cache(maxsize=64)
def _gives_torchs_bits(
    maker: Maker, dtype: torch.dtype, mixed: bool, normalized: bool
) -> bool:
    """Return whether a compiled path gives torch's bits on a short sample.

    So the bits hold whatever numba, LLVM, the processor or a file in its cache do.
    """
    weight = 0.7 if mixed else 1.0
    blend = Blend(0.4, 0.9, 0.8, weight, 1.1, True, normalized, "seed", "sample")
    inputs, scalars = _sample(dtype), scalars_of(blend)
    expected = _merge(torch_pages, inputs, blend, scalars)
    try:
        found = _merge(maker, inputs, blend, scalars)
    except Exception as error:  # whatever a compiler may meet
        LOG.warning(
            "numba cannot compile the merge of %s (%s); torch merges.",
            dtype,
            str(error).partition("\n")[0],
        )
        return False
    if torch.equal(found.view(torch.uint8), expected.view(torch.uint8)):
        return True
    LOG.warning(
        "What numba makes of the merge of %s differs from torch's bits on this"
        " machine, so torch merges. Empty numba's cache folder, or report this.",
        dtype,
    )
    return False


def _sample(dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """Return base, Father and Mother with weights of all sizes, zeros and signs."""
    info = torch.finfo(dtype)
    odd = [0.0, -0.0, info.tiny, -info.tiny, info.smallest_normal / 4, 1.0, -1.0]
    plain = torch.linspace(-0.1, 0.1, 500, dtype=torch.float64)
    values = torch.cat([torch.tensor(odd, dtype=torch.float64), plain]).to(dtype)
    return values, values.roll(3), values.flip(0).roll(-4)


def torch_pages(flat: list[torch.Tensor], scalars: Scalars) -> Merge:
    """Return what merges one page of base, Father and Mother into the child.

    flat are the four tensors as [numel]. The result takes a page's place and keys, and
    returns whether both task vectors and the child are finite there (on a device it
    does not look: each answer would have to wait).
    """
    *inputs, child = flat
    space = _Workspace(min(child.numel(), PAGE), child)
    looks = child.device.type == "cpu"

    def merge(here: slice, key: Key) -> bool:
        start, left, right = space.load([tensor[here] for tensor in inputs])
        if looks and not (_finite(left) and _finite(right)):
            return False
        merged = _merged(left, right, scalars, key, space)
        child[here] = merged.mul_(scalars.lambda_).add_(start)
        return not looks or _finite(child[here])

    return merge


def _finite(values: torch.Tensor) -> bool:
    """Return whether all is finite; a finite sum says so at once."""
    return math.isfinite(values.sum().item()) or bool(torch.isfinite(values).all())


def _merged(
    left: torch.Tensor,
    right: torch.Tensor,
    scalars: Scalars,
    key: Key,
    space: _Workspace,
) -> torch.Tensor:
    """Return w * DARE-TIES + (1 - w) * plain sum of two deltas; all are overwritten."""
    if scalars.mix is not None:
        plain = torch.mul(left, scalars.shares[0], out=space.floats(3, left.numel()))
        plain += torch.mul(right, scalars.shares[1], out=space.floats(4, left.numel()))
    if scalars.masked:
        drop((left, right), key, scalars.steps, space.integers(left.numel()))
    left.mul_(scalars.grown[0])
    right.mul_(scalars.grown[1])
    if scalars.alone is None:
        merged = _elected_sum(left, right, space.floats(4, left.numel()))
    else:
        merged = _elected_mean(left, right, scalars.alone)
    if scalars.mix is None:
        return merged
    return merged.mul_(scalars.mix[0]).add_(plain.mul_(scalars.mix[1]))


def _elected_sum(
    left: torch.Tensor, right: torch.Tensor, total: torch.Tensor
) -> torch.Tensor:
    """Return the sum of what agrees with the sign of left + right; left is overwritten.

    For two values that is copysign(max(|l|, |r|, |l + r|), l + r): if they agree,
    |l + r| is the largest; if not, the larger of the two outweighs the sum.
    """
    torch.add(left, right, out=total)
    left.abs_()
    right.abs_()
    torch.maximum(left, right, out=left)
    torch.abs(total, out=right)
    torch.maximum(left, right, out=left)
    return _with_sign_of(left, total)


def _with_sign_of(size: torch.Tensor, sign: torch.Tensor) -> torch.Tensor:
    """Return non-negative size with the sign of another tensor; both are overwritten.

    For float32 on the bits, which runs three times as fast as torch's copysign.
    """
    if size.dtype != torch.float32:
        return size.copysign_(sign)
    bits = sign.view(torch.int32).bitwise_and_(_SIGN)
    size.view(torch.int32).bitwise_or_(bits)
    return size


def _elected_mean(
    left: torch.Tensor, right: torch.Tensor, alone: tuple[float, float]
) -> torch.Tensor:
    """Return the elected sum over the shares that took part; two shares add up to 1."""
    total = left + right
    plus = total >= 0
    from_left = torch.where(plus, left > 0, left < 0)
    from_right = torch.where(plus, right > 0, right < 0)
    mean = torch.where(from_left, left * alone[0], right * alone[1])
    mean = torch.where(from_left & from_right, total, mean)
    return torch.where(from_left | from_right, mean, 0.0)


class _Workspace:
    """Page-sized buffers, reused over the pages of one tensor; work dtype floats."""

    def __init__(self, size: int, like: torch.Tensor):
        double = like.dtype == torch.float64
        dtype = torch.float64 if double else torch.float32
        place = like.device
        self._float = [torch.empty(size, dtype=dtype, device=place) for _ in range(5)]
        self._int = [
            torch.empty(size, dtype=torch.int32, device=place) for _ in range(2)
        ]

    def floats(self, index: int, size: int) -> torch.Tensor:
        return self._float[index][:size]

    def integers(self, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self._int[0][:size], self._int[1][:size]

    def load(self, pieces: list[torch.Tensor]) -> list[torch.Tensor]:
        """Return [start, delta, ...]: the first piece, the others minus it."""
        size = pieces[0].numel()
        loaded = [self.floats(i, size).copy_(piece) for i, piece in enumerate(pieces)]
        for delta in loaded[1:]:
            delta.sub_(loaded[0])
        return loaded
