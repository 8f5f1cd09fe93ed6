"""DARE-TIES for one tensor, in cache-sized pages: knows tensors, no names, no files.

Sources: DARE, Yu et al., arXiv 2311.03099, section 3; TIES, Yadav et al., arXiv
2306.01708, section 3.2; the mixture with the plain sum is our choice. Where the two
papers leave a choice: kept entries are divided by the exact kept share (DARE's
rescale, not mergekit's L1 norm); a sum of exactly zero elects plus, as in mergekit;
agreeing deltas are added, not averaged, unless `normalize`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from mergekit_darwin.kernel.masks import (
    PAGE,
    STEPS,
    apply_mask,
    hash_page,
    keep_father,
    keep_mother,
    page_keys,
    threshold,
)
from mergekit_darwin.kernel.pages import over_pages

_SIGN = -(1 << 31)  # the sign bit of a float32, as a signed integer


@dataclass(frozen=True)
class Blend:
    """How one tensor is blended; ratio, densities and weight as the genes of a genome.

    seed and name choose the mask; masked False keeps every entry.
    """

    ratio: float
    density_a: float
    density_b: float
    weight: float
    lambda_: float
    rescale: bool
    normalize: bool
    seed: str
    name: str
    masked: bool = True


@dataclass(frozen=True)
class _Factors:
    """Scalars of a blend, decided once: kept steps, weights after rescaling."""

    steps_a: int
    steps_b: int
    father: float
    mother: float

    @property
    def hashed(self) -> bool:
        return self.steps_a < STEPS or self.steps_b < STEPS


def _factors(blend: Blend) -> _Factors:
    steps_a = threshold(blend.density_a) if blend.masked else STEPS
    steps_b = threshold(blend.density_b) if blend.masked else STEPS
    grow_a = STEPS / steps_a if blend.rescale else 1.0
    grow_b = STEPS / steps_b if blend.rescale else 1.0
    return _Factors(
        steps_a, steps_b, (1.0 - blend.ratio) * grow_a, blend.ratio * grow_b
    )


def merge_three(
    base: torch.Tensor, father: torch.Tensor, mother: torch.Tensor, blend: Blend
) -> torch.Tensor:
    """Return base + lambda * (w * DARE-TIES + (1 - w) * plain weighted sum).

    Tensors are of one shape [*weight_shape], floating dtype and device, borrowed and
    never changed. Arithmetic is float32 (float64 for float64), with one cast to the
    inputs' dtype at the end. The result is a new tensor. Raises FloatingPointError
    where an input or the merge of a page on the CPU has NaN or Inf.
    """
    factors = _factors(blend)
    flat = [t.detach().reshape(-1) for t in (base, father, mother)]
    out = torch.empty_like(flat[0], memory_format=torch.contiguous_format)
    keys = _keys(blend, out.numel()) if factors.hashed else []

    def work(pages: Iterator[int]) -> None:
        space = _Workspace(min(out.numel(), PAGE), out)
        for page in pages:
            here = slice(page * PAGE, min((page + 1) * PAGE, out.numel()))
            start, delta_a, delta_b = space.load(*(t[here] for t in flat))
            key = keys[page] if keys else None
            merged = _merge_deltas(delta_a, delta_b, blend, factors, key, space)
            torch.add(start, merged, alpha=blend.lambda_, out=merged)
            _store(merged, out[here])

    _over(out, work)
    return out.reshape(base.shape)


def _keys(blend: Blend, count: int) -> list[tuple[int, int]]:
    return page_keys(blend.seed, blend.name, 0, -(-count // PAGE))


def _over(out: torch.Tensor, work: Callable[[Iterator[int]], None]) -> None:
    """Run work over the pages of out: on torch's threads, or in order on a device."""
    pages = -(-out.numel() // PAGE)
    if out.device.type == "cpu":
        over_pages(pages, work)
    else:
        work(iter(range(pages)))


def merge_two(father: torch.Tensor, mother: torch.Tensor, blend: Blend) -> torch.Tensor:
    """Return the merge whose base is the Father: one task vector, no election.

    Equal to merge_three(father, father, mother, blend); inputs, arithmetic and result
    are as there. density_a has nothing to act on.
    """
    factors = _factors(blend)
    flat = [t.detach().reshape(-1) for t in (father, mother)]
    out = torch.empty_like(flat[0], memory_format=torch.contiguous_format)
    hashed = factors.steps_b < STEPS
    keys = _keys(blend, out.numel()) if hashed else []
    taken = blend.lambda_ * factors.mother
    if blend.normalize and blend.ratio > 0.0:
        taken /= blend.ratio
    taken *= blend.weight
    plain = blend.lambda_ * (1.0 - blend.weight) * blend.ratio

    def work(pages: Iterator[int]) -> None:
        space = _Workspace(min(out.numel(), PAGE), out)
        for page in pages:
            here = slice(page * PAGE, min((page + 1) * PAGE, out.numel()))
            start, delta = space.load(flat[0][here], flat[1][here])
            if hashed:
                kept = space.mask_mother(keys[page], factors.steps_b, delta.numel())
                _add_masked(start, delta, kept, taken, plain)
                delta = start
            else:
                torch.add(start, delta, alpha=taken + plain, out=delta)
            _store(delta, out[here])

    _over(out, work)
    return out.reshape(father.shape)


def _store(page: torch.Tensor, out: torch.Tensor) -> None:
    """Cast a finished page into its place. Raises FloatingPointError if not finite."""
    out.copy_(page)
    _refuse_unsound(page)


def _refuse_unsound(page: torch.Tensor) -> None:
    """Raise FloatingPointError for NaN or Inf in a page.

    One sum in cache finds both; on a device it would have to wait for every page, so
    there the caller looks at whole tensors.
    """
    if page.device.type == "cpu" and not math.isfinite(page.sum().item()):
        raise FloatingPointError("a page is not finite")


def _add_masked(
    start: torch.Tensor,
    delta: torch.Tensor,
    kept: torch.Tensor,
    taken: float,
    plain: float,
) -> None:
    """Add plain * delta to start, then taken * what the mask keeps of delta."""
    if plain != 0.0:
        start.add_(delta, alpha=plain)
    apply_mask(delta, kept)
    start.add_(delta, alpha=taken)


def _merge_deltas(
    delta_a: torch.Tensor,
    delta_b: torch.Tensor,
    blend: Blend,
    factors: _Factors,
    key: tuple[int, int] | None,
    work: _Workspace,
) -> torch.Tensor:
    """Return w * DARE-TIES + (1 - w) * plain sum of two deltas; all are overwritten."""
    size = delta_a.numel()
    plain = None
    if blend.weight < 1.0:
        plain = torch.mul(delta_a, 1.0 - blend.ratio, out=work.floats(3, size))
        plain.add_(delta_b, alpha=blend.ratio)
    if key is not None:
        work.drop(delta_a, delta_b, key, factors)
    delta_a.mul_(factors.father)
    delta_b.mul_(factors.mother)
    if blend.normalize:
        merged = _elect_mean(delta_a, delta_b, blend.ratio)
    else:
        merged = _elect_sum(delta_a, delta_b, work.floats(4, size))
    if plain is None:
        return merged
    merged.mul_(blend.weight)
    return torch.add(merged, plain, alpha=1.0 - blend.weight, out=merged)


def _elect_sum(
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


def _elect_mean(left: torch.Tensor, right: torch.Tensor, ratio: float) -> torch.Tensor:
    """Return the elected sum over the weights (1 - ratio, ratio) that took part."""
    total = left + right
    elected = torch.where(total >= 0, 1.0, -1.0)
    from_left = (left.sign() == elected).to(left.dtype)
    from_right = (right.sign() == elected).to(left.dtype)
    weights = from_left * (1.0 - ratio) + from_right * ratio
    weights[weights == 0] = 1.0
    return (left * from_left + right * from_right) / weights


class _Workspace:
    """Page-sized buffers, reused over the pages of one tensor; work dtype floats."""

    def __init__(self, size: int, like: torch.Tensor):
        double = like.dtype == torch.float64
        self.dtype = torch.float64 if double else torch.float32
        self._float = [
            torch.empty(size, dtype=self.dtype, device=like.device) for _ in range(5)
        ]
        self._int = [
            torch.empty(size, dtype=torch.int32, device=like.device) for _ in range(2)
        ]

    def floats(self, index: int, size: int) -> torch.Tensor:
        return self._float[index][:size]

    def load(self, *pieces: torch.Tensor) -> list[torch.Tensor]:
        """Return [start, delta, ...]: the first piece, the others minus it.

        The deltas must be finite: a mask could drop, and so hide, what is not.
        """
        size = pieces[0].numel()
        loaded = [self.floats(i, size).copy_(piece) for i, piece in enumerate(pieces)]
        for delta in loaded[1:]:
            _refuse_unsound(delta.sub_(loaded[0]))
        return loaded

    def drop(
        self,
        delta_a: torch.Tensor,
        delta_b: torch.Tensor,
        key: tuple[int, int],
        factors: _Factors,
    ) -> None:
        """Zero what the masks of a page drop from both deltas."""
        hashes, kept = self._hashed(key, delta_a.numel())
        if factors.steps_a < STEPS:
            keep_father(hashes, factors.steps_a, kept)
            apply_mask(delta_a, kept)
        if factors.steps_b < STEPS:
            keep_mother(hashes, factors.steps_b, kept)
            apply_mask(delta_b, kept)

    def mask_mother(self, key: tuple[int, int], steps: int, size: int) -> torch.Tensor:
        """Return the Mother's mask of a page, -1 kept and 0 dropped, int32."""
        hashes, kept = self._hashed(key, size)
        keep_mother(hashes, steps, kept)
        return kept

    def _hashed(
        self, key: tuple[int, int], size: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the hashes of a page and a buffer for a mask, int32 [size]."""
        hashes, scratch = self._int[0][:size], self._int[1][:size]
        hash_page(key, hashes, scratch)
        return hashes, scratch
