"""From a genome to a merge configuration: the YAML that mergekit runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from mergekit_darwin.merge.roles import Roles
from mergekit_darwin.merge.settings import MergeSettings
from mergekit_darwin.ratios.genome import Genome


@dataclass(frozen=True)
class Common:
    """What all merges of a search have in common.

    roles names the models as in the YAML; settings lacks only the genome; head holds
    top-level keys of mergekit's YAML, such as dtype and tokenizer.
    """

    roles: Roles
    settings: MergeSettings = field(default_factory=MergeSettings)
    head: Mapping[str, Any] = field(default_factory=dict)

    def settings_of(self, genome: Genome) -> MergeSettings:
        """Return the settings with this genome; `hash` is the merge's genome_hash."""
        return self.settings.model_copy(update={"genome": genome})


def genome_yaml(common: Common, genome: Genome) -> str:
    """Return the YAML of a darwin_v6 merge, its genes as scalars."""
    lines = common.settings_of(genome).lines()
    return _yaml(common, "darwin_v6", common.roles.base, lines)


def uniform_yamls(common: Common) -> dict[str, str]:
    """Return what a child must beat: mergekit's own uniform merges, by name.

    dare_ties and task_arithmetic subtract the base; without a third model the Father is
    their base, so that only the Mother's task vector is left, and they are left out.
    """
    roles = common.roles
    yamls = {
        "linear 0.5": _yaml(common, "linear", None, {}, (0.5, 0.5)),
        "slerp 0.5": _yaml(common, "slerp", roles.father, {"t": 0.5}),
    }
    if roles.third is not None:
        dare = _yaml(common, "dare_ties", roles.third, {"density": 0.5}, (0.5, 0.5))
        whole = _yaml(common, "task_arithmetic", roles.third, {}, (1.0, 1.0))
        yamls |= {"dare_ties 0.5": dare, "task arithmetic 1+1": whole}
    return yamls


def _yaml(
    common: Common,
    method: str,
    base: Any,
    parameters: Mapping[str, Any],
    weights: Sequence[float] | None = None,
) -> str:
    models: list[dict[str, Any]] = [
        {"model": model} for model in (common.roles.father, common.roles.mother)
    ]
    for model, weight in zip(models, weights or (), strict=False):
        model["parameters"] = {"weight": weight}
    content: dict[str, Any] = {"merge_method": method}
    if base is not None:
        content["base_model"] = base
    content["models"] = models
    if parameters:
        content["parameters"] = dict(parameters)
    content.update(common.head)
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
