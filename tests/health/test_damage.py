"""Damage that a check must name instead of stumbling over it, or past it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mergekit_darwin.health.report import Health
from mergekit_darwin.health.run import check
from mergekit_darwin.models.manifest import seal
from mergekit_darwin.scan.probes import Probe, ProbeItem
from tests import tiny

PROBES = [Probe("SUMS", (ProbeItem("1+1=", "2"), ProbeItem("7*8=", "56")), 1.0)]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two untied siblings with tokenizers: Father and Mother."""
    folder = tmp_path_factory.mktemp("pair")
    father, mother = folder / "father", folder / "mother"
    tiny.tiny_llama(father, seed=0)
    tiny.nudged(father, mother, seed=1)
    return father, mother


def child_of(pair: tuple[Path, Path], folder: Path, **changed: torch.Tensor) -> Path:
    """Write the mean of a pair, some tensors replaced, into a folder."""
    shutil.copytree(pair[0], folder)
    left, right = (load_file(place / "model.safetensors") for place in pair)
    mean = {name: (left[name] + right[name]) / 2 for name in left}
    for name, tensor in changed.items():
        mean[name] = tensor
    save_file(mean, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def look(child: Path, father: Path, mother: Path) -> Health:
    return check(str(child), father=str(father), mother=str(mother), probes=PROBES)


def errors(health: Health) -> set[str]:
    return {item.rule for item in health.findings if item.severity == "error"}


@pytest.mark.parametrize(("value", "rule"), [("nan", "nan"), ("inf", "inf")])
def test_a_head_that_is_not_finite_is_unhealthy(
    value: str, rule: str, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    head = load_file(pair[0] / "model.safetensors")["lm_head.weight"].clone()
    head[3, 4] = float(value)
    child = child_of(pair, tmp_path / "child", **{"lm_head.weight": head})
    health = look(child, *pair)
    assert health.verdict == "unhealthy"
    assert rule in errors(health)


def test_a_matrix_of_integers_is_no_weight(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    stored = load_file(pair[0] / "model.safetensors")[name]
    zeroed = torch.zeros(stored.shape, dtype=torch.int8)
    child = child_of(pair, tmp_path / "child", **{name: zeroed})
    health = look(child, *pair)
    assert health.verdict == "unhealthy"
    assert any(item.tensor == name for item in health.findings)


def test_a_father_of_another_architecture_is_no_father(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    stranger = tmp_path / "stranger"
    tiny.tiny_mamba2(stranger, seed=5)
    child = child_of(pair, tmp_path / "child")
    health = look(child, stranger, pair[1])
    assert health.verdict == "unhealthy"
    assert "no_parent" in errors(health)


def test_a_child_changed_since_it_was_sealed_is_unhealthy(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    child = child_of(pair, tmp_path / "child")
    seal(child)
    (child / "health.json").write_text("{}")  # files that come later are no damage
    assert "manifest" not in errors(look(child, *pair))
    tensors = load_file(child / "model.safetensors")
    tensors["model.norm.weight"][0] += 1e-3
    save_file(tensors, child / "model.safetensors", metadata={"format": "pt"})
    (found,) = (row for row in look(child, *pair).findings if row.rule == "manifest")
    assert "'model.norm.weight'" in str(found.found)


def test_the_mean_of_a_pair_is_healthy(pair: tuple[Path, Path], tmp_path: Path) -> None:
    assert look(child_of(pair, tmp_path / "child"), *pair).verdict == "healthy"
