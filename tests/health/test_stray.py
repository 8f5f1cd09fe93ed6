"""How far a tensor lies from what its parents span: values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from mergekit_darwin.health.facts import distinct
from mergekit_darwin.health.stray import Stray, measure_stray

SIZE = (64, 128)


def normal(seed: int, scale: float = 1.0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return scale * torch.randn(SIZE, generator=draw)


BASE = normal(0)
FATHER, MOTHER = BASE + normal(1, 0.1), BASE + normal(2, 0.1)


def stray(child: torch.Tensor, based: bool = True) -> Stray:
    found = measure_stray(child, FATHER, MOTHER, BASE if based else None)
    assert found is not None
    return found


@pytest.mark.parametrize("weights", [(0.5, 0.5), (1.0, 1.0), (2.0, 2.0), (-1.0, 0.3)])
def test_any_sum_of_task_vectors_lies_on_the_plane(
    weights: tuple[float, float],
) -> None:
    child = BASE + weights[0] * (FATHER - BASE) + weights[1] * (MOTHER - BASE)
    assert stray(child).distance < 1e-3


def test_distance_is_measured_in_task_vectors() -> None:
    noise = normal(3, 0.3)
    child = (FATHER + MOTHER) / 2 + noise
    changes = math.hypot(float((FATHER - BASE).norm()), float((MOTHER - BASE).norm()))
    found = stray(child)
    assert found.distance == pytest.approx(float(noise.norm()) / changes, rel=0.01)
    assert found.calm == pytest.approx(1.0, abs=0.1)


def test_without_base_the_parents_difference_is_the_unit() -> None:
    noise = normal(3, 0.3)
    found = stray((FATHER + MOTHER) / 2 + noise, based=False)
    unit = float((MOTHER - FATHER).norm())
    assert found.distance == pytest.approx(float(noise.norm()) / unit, rel=0.01)
    assert not found.based


def test_masked_task_vectors_leave_quiet_elements_quiet() -> None:
    keep = normal(4) > 0.8  # about a fifth
    delta = (FATHER - BASE) * keep / 0.2
    found = stray(BASE + delta)
    assert found.distance > 0.5
    assert found.calm < 0.2


def test_a_row_permutation_is_turned_and_a_merge_is_not() -> None:
    child = (FATHER + MOTHER) / 2
    order = torch.randperm(SIZE[0], generator=torch.Generator().manual_seed(1))
    assert stray(child).turned < 0.02
    assert stray(child[order]).turned > 0.9
    assert stray(-child).turned == pytest.approx(2.0, abs=0.02)


def test_rows_and_columns_that_lie_off_are_counted() -> None:
    child = (FATHER + MOTHER) / 2
    assert (stray(child).rows, stray(child).columns) == (0, 0)
    zeroed, turned, swapped = child.clone(), child.clone(), child.clone()
    zeroed[3:5] = 0.0
    turned[:, 7] *= -1.0
    swapped[[8, 9]] = child[[9, 8]]
    found = [stray(row) for row in (zeroed, turned)]
    assert [(row.rows, row.columns) for row in found] == [(2, 0), (0, 1)]
    assert stray(swapped).rows == 2
    assert stray(zeroed, based=False).rows == 2


def test_masks_of_whole_task_vectors_put_no_row_off() -> None:
    keep = (normal(4) > 1.0) / 0.16
    child = BASE + keep * (FATHER - BASE) + keep * (MOTHER - BASE)
    assert (stray(child).rows, stray(child).columns) == (0, 0)


def test_rounding_to_the_stored_type_is_no_distance() -> None:
    small = [BASE, BASE + normal(1, 1e-4), BASE + normal(2, 1e-4)]
    base, father, mother = (row.bfloat16() for row in small)
    child = ((small[1] + small[2]) / 2).bfloat16()
    found = measure_stray(child, father, mother, base)
    assert found is not None and found.distance == 0.0


def test_chunks_do_not_change_the_distance() -> None:
    shape = (3, 700_001)
    draw = torch.Generator().manual_seed(7)
    rows = [torch.randn(shape, generator=draw) for _ in range(4)]
    found = measure_stray(*rows)
    assert found is not None
    x, d, e = ((rows[i] - rows[1]).double().reshape(-1) for i in (0, 2, 3))
    plane = torch.stack([d, e], dim=1)
    rest = x - plane @ torch.linalg.lstsq(plane, x.unsqueeze(1)).solution[:, 0]
    rest_norm = float(rest.norm()) - torch.finfo(torch.float32).eps * float(
        rows[0].norm()
    )
    unit = math.hypot(float(e.norm()), float((d - e).norm()))
    assert found.distance == pytest.approx(rest_norm / unit, rel=1e-4)


def test_identical_parents_and_child_have_no_distance() -> None:
    found = measure_stray(BASE, BASE, BASE, BASE)
    assert found == Stray(0.0, 0.0, found.calm, found.turned, found.apart, True)  # type: ignore[union-attr]
    assert found.turned == pytest.approx(0.0, abs=1e-6)  # type: ignore[union-attr]


@pytest.mark.parametrize("shape", [(256, 512), (4, 64, 64)])
def test_four_bits_a_group_leave_few_distinct_values(shape: tuple[int, ...]) -> None:
    draw = torch.Generator().manual_seed(5)
    plain = torch.randn(shape, generator=draw).bfloat16()
    groups = plain.float().reshape(-1, 64)
    step = groups.abs().amax(1, keepdim=True) / 7
    coarse = ((groups / step).round() * step).reshape(shape).bfloat16()
    assert distinct(plain) > 0.7
    assert distinct(coarse) < 0.35
    masked = plain * (torch.rand(shape, generator=draw) > 0.5)
    assert distinct(masked) > 0.7  # zeros do not count
    assert distinct(plain[..., 0].reshape(-1)) == 1.0


def test_other_shapes_and_few_elements_are_not_compared() -> None:
    assert measure_stray(BASE[:3], FATHER, MOTHER) is None
    few = torch.ones(15)
    assert measure_stray(few, few, few) is None
