"""The exact static profile."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.kernel.profile import Profile, profile_tensor

TYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64]


def plain(tensor: torch.Tensor) -> dict[str, float]:
    """Return entropy, std and norm in the plain way, in float64."""
    values = tensor.double().numpy().ravel()
    highest = np.abs(values).max()
    bins, _ = np.histogram(values, bins=256, range=(-highest, highest))
    shares = bins[bins > 0] / values.size
    return {
        "entropy": float(-(shares * np.log(shares)).sum() / math.log(256)),
        "std": float(values.std()),
        "norm": float(np.sqrt((values**2).sum())),
        "max_abs": float(highest),
    }


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bit_profiles_equal_the_plain_definitions(dtype: torch.dtype) -> None:
    tensor = (0.02 * torch.randn(300, 70, generator=_draw())).to(dtype)
    profile = profile_tensor(tensor)
    for name, value in plain(tensor).items():
        assert getattr(profile, name) == pytest.approx(value, rel=1e-9)


def test_wider_types_are_profiled_by_their_upper_half() -> None:
    tensor = torch.randn(1000, generator=_draw())
    upper = (tensor.view(torch.int32) & -65536).view(torch.float32)
    assert profile_tensor(tensor) == profile_tensor(upper.to(torch.bfloat16))


def test_hand_computed_profile_of_four_numbers() -> None:
    profile = profile_tensor(torch.tensor([1.0, -1.0, 0.0, 0.0]))
    assert profile.zeros == 2 and profile.numel == 4 and profile.max_abs == 1.0
    assert profile.std == pytest.approx(math.sqrt(0.5))
    assert profile.norm == pytest.approx(math.sqrt(2.0))
    entropy = (0.25 * math.log(4) * 2 + 0.5 * math.log(2)) / math.log(256)
    assert profile.entropy == pytest.approx(entropy)
    static = 0.3 * entropy + 0.2 * math.sqrt(0.5) + 0.002 * math.sqrt(2.0)
    assert profile.static == pytest.approx(static)


def test_static_score_caps_the_norm_at_a_hundred() -> None:
    assert Profile(0.0, 0.0, 1e6, 1.0, 0, 1).static == pytest.approx(0.2)


def test_the_profile_depends_on_the_bytes_alone() -> None:
    tensor = torch.randn(700, 901, generator=_draw()).bfloat16()
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = profile_tensor(tensor)
        torch.set_num_threads(2)
        assert profile_tensor(tensor) == one
    finally:
        torch.set_num_threads(before)
    shuffled = tensor.flatten()[torch.randperm(tensor.numel(), generator=_draw())]
    assert profile_tensor(shuffled) == one
    assert profile_tensor(tensor.t()) == one
    assert profile_tensor(shuffled) == one


@pytest.mark.parametrize("dtype", TYPES)
def test_nan_and_inf_are_counted_and_kept_out(dtype: torch.dtype) -> None:
    tensor = torch.tensor([1.0, math.nan, math.inf, -math.inf, -1.0]).to(dtype)
    profile = profile_tensor(tensor)
    assert (profile.nan, profile.inf, profile.numel) == (1, 2, 5)
    assert profile.std == 1.0


@pytest.mark.parametrize("tensor", [torch.zeros(8), torch.empty(0)])
def test_nothing_gives_zeros_not_nan(tensor: torch.Tensor) -> None:
    profile = profile_tensor(tensor)
    assert (profile.entropy, profile.std, profile.norm) == (0.0, 0.0, 0.0)
    assert profile.numel == tensor.numel()


def test_a_scalar_and_a_sliced_tensor_have_profiles() -> None:
    assert profile_tensor(torch.tensor(2.0)).max_abs == 2.0
    assert profile_tensor(torch.arange(10.0)[::3]).numel == 4


def test_eight_bit_floats_are_refused() -> None:
    with pytest.raises(DarwinError, match="float8"):
        profile_tensor(torch.zeros(4).to(torch.float8_e4m3fn))


def _draw() -> torch.Generator:
    return torch.Generator().manual_seed(7)
