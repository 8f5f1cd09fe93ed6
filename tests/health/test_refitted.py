"""A refitted child is no mix of its parents, and no damage for that."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mergekit_darwin.api.breeding import refit_child
from mergekit_darwin.health.report import Health
from mergekit_darwin.health.run import check
from mergekit_darwin.health.thresholds import RANKS, Thresholds
from tests.refit.test_refit import general, pair, probe

__all__ = ["general", "pair"]  # fixtures

MAP = "model.layers.0.mlp.down_proj.weight"


@pytest.fixture(scope="module")
def child(
    pair: dict[str, str], general: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return the mean refitted to outputs that the parents' weights do not span."""
    out = tmp_path_factory.mktemp("refitted") / "child"
    refit_child(
        pair["mean"],
        pair["father"],
        pair["mother"],
        out=out,
        probes=[probe("ONE", 1), probe("TWO", 2)],
        father_probes=["ONE"],
        mother_probes=["TWO"],
        keep_texts=general,
        keep_weight=0.0,
        ridge=1e-6,
    )
    return out


def rules(folder: Path, pair: dict[str, str], **roles: str) -> dict[str, str]:
    """Return the worst severity of the findings on weights by rule."""
    named = {role: pair[role] for role in ("father", "mother", "base")}
    models = {**named, **roles}
    strict = Thresholds(stray=0.02)  # toys are refitted by less than real models
    health: Health = check(str(folder), **models, probes=[], thresholds=strict)
    rows = sorted(health.findings, key=lambda row: RANKS[row.severity])
    return {row.rule: row.severity for row in rows}


def changed(child: Path, folder: Path, damage: object) -> Path:
    """Return a copy of the child with one map changed, and no manifest to tell."""
    shutil.copytree(child, folder)
    (folder / "manifest.json").unlink(missing_ok=True)
    weights = load_file(folder / "model.safetensors")
    weights[MAP] = damage(weights[MAP]).contiguous()  # type: ignore[operator]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_refitted_maps_are_noted_and_not_taken_for_strays(child, pair, tmp_path):
    assert json.loads((child / "refit.json").read_text())["fitted"] == [
        "model.layers.*.mlp.down_proj.weight"
    ]
    found = rules(child, pair)
    assert found.get("refitted") == "note" and "stray" not in found
    bare = tmp_path / "bare"
    shutil.copytree(child, bare)
    (bare / "refit.json").unlink()
    assert rules(bare, pair).get("stray") == "error"  # what the report excuses


def test_a_report_excuses_no_child_of_other_parents(child, pair):
    found = rules(child, pair, father=pair["base"])
    assert "refitted" not in found and found.get("stray") == "error"


@pytest.mark.parametrize("name", ["columns", "noise"])
def test_damage_of_a_refitted_map_is_seen(child, pair, tmp_path, name):
    draw = torch.Generator().manual_seed(4)
    damages = {
        "columns": lambda weight: weight.roll(1, dims=1),
        "noise": lambda weight: (
            weight + 2 * weight.std() * torch.randn(weight.shape, generator=draw)
        ),
    }
    broken = changed(child, tmp_path / name, damages[name])
    assert rules(broken, pair)["refitted"] == "error"


def test_damage_of_a_map_that_was_not_refitted_is_seen(child, pair, tmp_path):
    folder = tmp_path / "other"
    shutil.copytree(child, folder)
    weights = load_file(folder / "model.safetensors")
    name = MAP.replace("down", "up")
    weights[name] = weights[name].roll(1, dims=0).contiguous()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert {"stray", "turned"} & rules(folder, pair).keys()
