"""From a genome to a merge configuration: the YAML that mergekit runs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from mergekit_darwin.merge.settings import merge_hash
from mergekit_darwin.ratios.genome import DEFAULT_BLOCKS, Genome


@dataclass(frozen=True)
class Recipe:
    """What every merge of a run has in common: models, dtype, tokenizer, options.

    mds is the report's folder and mds_identity its Report.identity(); base is None
    where there is no base model. head holds top-level keys of mergekit's YAML.
    """

    father: str
    mother: str
    base: str | None = None
    mds: str | None = None
    mds_identity: str | None = None
    mri: str = "published"
    mask_seed: str = "genome"
    transplant_low: float = 0.15
    transplant_high: float = 0.85
    rescale: bool = True
    normalize: bool = False
    head: Mapping[str, Any] = field(default_factory=dict)


def genome_yaml(recipe: Recipe, genome: Genome) -> str:
    """Return the YAML of a darwin_v6 merge, its genes as scalars."""
    parameters: dict[str, Any] = {}
    if recipe.mds is not None:
        parameters["mds"] = os.fspath(recipe.mds)
        parameters["mri"] = recipe.mri
    if genome.blocks != DEFAULT_BLOCKS:
        parameters["blocks"] = genome.blocks
    seed = recipe.mask_seed
    parameters["mask_seed"] = seed if seed == "genome" else int(seed)
    parameters["transplant_low"] = recipe.transplant_low
    parameters["transplant_high"] = recipe.transplant_high
    parameters["rescale"] = recipe.rescale
    parameters["normalize"] = recipe.normalize
    parameters.update(genome.values)
    return _yaml(recipe, "darwin_v6", recipe.base, parameters)


def recipe_hash(recipe: Recipe, genome: Genome) -> str:
    """Return the genome_hash of the merge that genome_yaml describes."""
    return merge_hash(
        genome,
        mds_identity=recipe.mds_identity,
        mri=recipe.mri if recipe.mds is not None else "published",
        mask_seed=recipe.mask_seed,
        transplant_low=recipe.transplant_low,
        transplant_high=recipe.transplant_high,
        rescale=recipe.rescale,
        normalize=recipe.normalize,
    )


def uniform_yamls(recipe: Recipe) -> dict[str, str]:
    """Return what a child must beat: mergekit's own uniform merges, by name.

    dare_ties and task_arithmetic subtract the base; without a third model the Father is
    their base, so that only the Mother's task vector is left, and they are left out.
    """
    yamls = {
        "linear 0.5": _yaml(recipe, "linear", None, {}, (0.5, 0.5)),
        "slerp 0.5": _yaml(recipe, "slerp", recipe.father, {"t": 0.5}),
    }
    if recipe.base is not None and recipe.base != recipe.father:
        dare = _yaml(
            recipe, "dare_ties", recipe.base, {"density": 0.5}, weights=(0.5, 0.5)
        )
        whole = _yaml(recipe, "task_arithmetic", recipe.base, {}, weights=(1.0, 1.0))
        yamls |= {"dare_ties 0.5": dare, "task arithmetic 1+1": whole}
    return yamls


def _yaml(
    recipe: Recipe,
    method: str,
    base: str | None,
    parameters: Mapping[str, Any],
    weights: Sequence[float] | None = None,
) -> str:
    models: list[dict[str, Any]] = [{"model": recipe.father}, {"model": recipe.mother}]
    for model, weight in zip(models, weights or (), strict=False):
        model["parameters"] = {"weight": weight}
    content: dict[str, Any] = {"merge_method": method}
    if base is not None:
        content["base_model"] = base
    content["models"] = models
    if parameters:
        content["parameters"] = dict(parameters)
    content.update(recipe.head)
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
