"""Masks are a function of (seed, name, index), and good enough to be called random."""

from __future__ import annotations

import math

import pytest
import torch

from mergekit_darwin.kernel.masks import (
    PAGE,
    apply_mask,
    hash_page,
    keep_father,
    keep_mother,
    page_keys,
    threshold,
)


def hashes(seed: str, name: str, page: int, size: int = PAGE) -> torch.Tensor:
    out = torch.empty(size, dtype=torch.int32)
    hash_page(page_keys(seed, name, page, 1)[0], out, torch.empty_like(out))
    return out


def masks(words: torch.Tensor, density: float) -> tuple[torch.Tensor, torch.Tensor]:
    father, mother = torch.empty_like(words), torch.empty_like(words)
    keep_father(words, threshold(density), father)
    keep_mother(words, threshold(density), mother)
    ones = torch.ones(2, words.numel())
    apply_mask(ones[0], father)
    apply_mask(ones[1], mother)
    return ones[0], ones[1]


def correlation(left: torch.Tensor, right: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack([left.double(), right.double()]))[0, 1])


def test_the_first_hashes_equal_plain_integer_arithmetic() -> None:
    def scramble(x: int) -> int:
        x = (x + 0x9E3779B9) % 2**32
        x ^= x >> 16
        x = x * 0x85EBCA6B % 2**32
        x ^= x >> 13
        x = x * 0xC2B2AE35 % 2**32
        return x ^ (x >> 16)

    a, b = page_keys("seed", "name", 3, 1)[0]
    expected = []
    for j in range(200):
        x = (scramble(j) * a + b) % 2**32
        signed = x - 2**32 if x >= 2**31 else x
        x = (signed ^ (signed >> 15)) * 0x2C1B3C6D % 2**32
        expected.append(x - 2**32 if x >= 2**31 else x)
    assert hashes("seed", "name", 3)[:200].tolist() == expected


def test_kept_entries_are_those_whose_lane_is_below_the_threshold() -> None:
    words = hashes("s", "n", 0, 5000)
    father, mother = masks(words, 0.37)
    upper = (words >> 16) + 32768  # the lane, read as signed and offset
    lower = ((words << 16) >> 16) + 32768
    steps = threshold(0.37)
    assert torch.equal(father.bool(), upper < steps)
    assert torch.equal(mother.bool(), lower < steps)


@pytest.mark.parametrize("density", [0.02, 0.5, 0.9, 0.9539])
def test_kept_share_is_within_five_sigma(density: float) -> None:
    count = 16 * PAGE
    words = torch.cat([hashes("seed", "tensor", page) for page in range(16)])
    share = threshold(density) / 65536
    sigma = math.sqrt(share * (1 - share) / count)
    for mask in masks(words, density):
        assert abs(float(mask.double().mean()) - share) < 5 * sigma


def test_lanes_neighbours_tensors_seeds_and_pages_do_not_correlate() -> None:
    words = hashes("seed", "a", 0)
    father, mother = masks(words, 0.5)
    others = [
        masks(hashes("seed", "b", 0), 0.5)[0],
        masks(hashes("other", "a", 0), 0.5)[0],
        masks(hashes("seed", "a", 1), 0.5)[0],
        mother,
        *(father.roll(step) for step in (1, 2, 64, 256, 4096)),
    ]
    bound = 5 / math.sqrt(PAGE)
    for other in others:
        assert abs(correlation(father, other)) < bound


def test_many_keys_give_masks_that_do_not_correlate() -> None:
    rows = torch.stack([masks(hashes("s", "t", p, 8192), 0.5)[0] for p in range(150)])
    table = torch.corrcoef(rows.double())
    table.fill_diagonal_(0.0)
    pairs = 150 * 149 / 2
    # the largest of 11,175 normal draws stays below 6 sigma but for 2 in 100,000 cases
    assert float(table.abs().max()) < 6 / math.sqrt(8192)
    spread = float((table**2).sum() / 2 / pairs) * 8192
    assert spread == pytest.approx(1.0, abs=5 * math.sqrt(2 / pairs))


def test_every_lane_value_is_as_frequent_as_any_other() -> None:
    words = torch.cat([hashes("seed", "chi", page) for page in range(32)])
    for lane in (words >> 16, (words << 16) >> 16):
        found = torch.bincount((lane >> 8) + 128, minlength=256).double()
        expected = words.numel() / 256
        chi = float(((found - expected) ** 2 / expected).sum())
        assert abs(chi - 255) < 5 * math.sqrt(2 * 255)
