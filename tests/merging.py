"""Run real merges in this process and read what they wrote."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from safetensors.torch import load_file

PUBLISHED = {
    "global_ratio": 0.5147,
    "attn_ratio": 0.3169,
    "ffn_ratio": 0.9316,
    "embed_ratio": 0.7748,
    "density_a": 0.8997,
    "density_b": 0.9539,
    "block_0_ratio": 0.6628,
    "block_1_ratio": 0.6431,
    "block_2_ratio": 0.5146,
    "block_3_ratio": 0.5971,
    "block_4_ratio": 0.6339,
    "block_5_ratio": 0.8583,
    "mri_trust": 0.3631,
    "merge_method_weight": 0.6897,
}


def darwin(
    models: Mapping[str, str], base: str | None = "base", **parameters: Any
) -> dict[str, Any]:
    """Return a darwin_v6 configuration of Father and Mother; base names a model."""
    config: dict[str, Any] = {
        "merge_method": "darwin_v6",
        "models": [{"model": models["father"]}, {"model": models["mother"]}],
        "parameters": parameters,
        "dtype": "bfloat16",
    }
    if base is not None:
        config["base_model"] = models[base]
    return config


def merge(
    config: Mapping[str, Any], out: Path, **options: Any
) -> dict[str, torch.Tensor]:
    """Run mergekit on a configuration and return the tensors it wrote."""
    source = yaml.safe_dump(dict(config))
    run_merge(
        MergeConfiguration.model_validate(yaml.safe_load(source)),
        str(out),
        MergeOptions(quiet=True, **options),
        config_source=source,
    )
    return tensors(out)


def tensors(folder: str | Path) -> dict[str, torch.Tensor]:
    """Return all tensors of a checkpoint."""
    found: dict[str, torch.Tensor] = {}
    for file in sorted(Path(folder).glob("*.safetensors")):
        found.update(load_file(file))
    return found


def record(folder: str | Path) -> dict[str, dict[str, str]]:
    """Return the rows of a merge's own record of ratios, by tensor name."""
    text = (Path(folder) / "darwin_ratios.csv").read_text(encoding="utf-8")
    return {row["name"]: row for row in csv.DictReader(text.splitlines())}


def differing(
    left: Mapping[str, torch.Tensor], right: Mapping[str, torch.Tensor]
) -> set[str]:
    """Return the names of tensors that are not the same bits in both."""
    names = set(left) | set(right)
    return {
        name
        for name in names
        if name not in left
        or name not in right
        or left[name].dtype != right[name].dtype
        or not torch.equal(left[name], right[name])
    }
