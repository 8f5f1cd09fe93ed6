"""Masks as a function, not a stream: keep(element) from (seed, tensor name, index).

Element i of a tensor lies on page i // PAGE at offset j = i % PAGE. A page has two
32-bit keys a (odd) and b from BLAKE2b over seed, name and page; the element's hash is

    x = scramble(j) * a + b;  x ^= x >> 15;  h = x * MULTIPLIER   (mod 2**32)

in torch int32 arithmetic, `>>` with sign. Its upper 16 bits decide for the Father,
its lower 16 for the Mother: kept if below round(density * 65536). Every operation is
exact, so the bits are the same on every device, in any chunking and order.
Source: our choice; the scramble is the 32-bit finaliser of MurmurHash3.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np
import torch

PAGE = 1 << 18
STEPS = 65536
MULTIPLIER = 0x2C1B3C6D
HALF = 1 << 15


@lru_cache(maxsize=8)
def scrambled_offsets(device: torch.device) -> torch.Tensor:
    """Return the scrambled offsets of a page, int32 [PAGE], on a device."""
    x = np.arange(PAGE, dtype=np.uint32) + np.uint32(0x9E3779B9)
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x85EBCA6B)
    x ^= x >> np.uint32(13)
    x *= np.uint32(0xC2B2AE35)
    x ^= x >> np.uint32(16)
    return torch.from_numpy(x.view(np.int32)).to(device)


def page_keys(seed: str, name: str, first: int, count: int) -> list[tuple[int, int]]:
    """Return the keys (a, b) of count pages of a tensor, as signed 32-bit integers."""
    stem = hashlib.blake2b(f"{seed}\0{name}\0".encode(), digest_size=8)
    keys = []
    for page in range(first, first + count):
        digest = stem.copy()
        digest.update(page.to_bytes(8, "little"))
        word = digest.digest()
        a = int.from_bytes(word[:4], "little", signed=True) | 1
        keys.append((a, int.from_bytes(word[4:], "little", signed=True)))
    return keys


def _key(word: int, device: torch.device) -> torch.Tensor:
    return torch.tensor(word, dtype=torch.int32, device=device)


def hash_page(keys: tuple[int, int], out: torch.Tensor, scratch: torch.Tensor) -> None:
    """Write the hashes of one page's first elements into out, int32 [n], n <= PAGE.

    scratch is int32 [n] and is overwritten.
    """
    offsets = scrambled_offsets(out.device)[: out.shape[-1]]
    torch.add(_key(keys[1], out.device), offsets, alpha=keys[0], out=out)
    torch.bitwise_right_shift(out, 15, out=scratch)
    out.bitwise_xor_(scratch).mul_(MULTIPLIER)


def threshold(density: float) -> int:
    """Return round(density * 65536), the exact kept share in steps of 1/65536."""
    return round(density * STEPS)


def keep_father(hashes: torch.Tensor, steps: int, out: torch.Tensor) -> None:
    """Write -1 (all bits) where the Father's entry is kept, else 0; out is int32 [n].

    The upper 16 bits, read as signed and offset, are below steps exactly where the
    whole word is below (steps - 32768) * 65536. steps is in [1, 65535].
    """
    torch.ge(hashes, (steps - HALF) << 16, out=out)
    out.sub_(1)


def keep_mother(hashes: torch.Tensor, steps: int, out: torch.Tensor) -> None:
    """Write -1 where the Mother's entry is kept, else 0 (the lower 16 bits)."""
    torch.bitwise_left_shift(hashes, 16, out=out)
    torch.ge(out, (steps - HALF) << 16, out=out)
    out.sub_(1)


def apply_mask(values: torch.Tensor, kept: torch.Tensor) -> None:
    """Zero values in place where kept is 0; where it is -1 they stay as they are."""
    if values.dtype == torch.float32:
        values.view(torch.int32).bitwise_and_(kept)
    else:
        values.view(torch.int64).bitwise_and_(kept.to(torch.int64))


def drop(
    deltas: tuple[torch.Tensor, torch.Tensor],
    keys: tuple[int, int],
    steps: tuple[int, int],
    scratch: tuple[torch.Tensor, torch.Tensor],
) -> None:
    """Zero what the masks of a page drop from the Father's and the Mother's delta [n].

    steps are kept of 65536; scratch is two of int32 [n], overwritten.
    """
    hashes, kept = scratch
    hash_page(keys, hashes, kept)
    keeps = (keep_father, keep_mother)
    for delta, keep, count in zip(deltas, keeps, steps, strict=True):
        if count < STEPS:
            keep(hashes, count, kept)
            apply_mask(delta, kept)
