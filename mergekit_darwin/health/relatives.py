"""The models of one check: child, parents, base; what is not given, from its YAML."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mergekit.options import MergeOptions
from transformers import PretrainedConfig

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.health.again import (
    Provenance,
    Verify,
    check_places,
    looks_local,
    read_provenance,
)
from mergekit_darwin.health.facts import forget
from mergekit_darwin.models.checkpoint import Checkpoint, open_checkpoint, parse_model
from mergekit_darwin.models.opened import read_config


@dataclass(frozen=True)
class Relatives:
    """The models of one check: names and opened checkpoints by role, configs."""

    names: dict[str, str]
    checkpoints: dict[str, Checkpoint]
    configs: dict[str, PretrainedConfig]
    recipe: Provenance | None

    @property
    def parents(self) -> list[Checkpoint]:
        """Father and Mother."""
        return [self.checkpoints["father"], self.checkpoints["mother"]]

    @property
    def same_depth(self) -> bool:
        """Whether child and parents have equally many layers."""
        depths = {
            getattr(config.get_text_config(), "num_hidden_layers", None)
            for config in self.configs.values()
        }
        return len(depths) == 1


def open_relatives(
    child: str,
    father: str | None,
    mother: str | None,
    base: str | None,
    verify: Verify,
    options: MergeOptions,
) -> Relatives:
    """Return the opened models of a check.

    Raises DarwinError if one cannot be opened, or the parents are not known.
    """
    forget({"child": parse_model(child)})
    opened = open_checkpoint(child, options)
    recipe = read_provenance(opened.path)
    if recipe is not None and (
        father is None or mother is None or (recipe.ours and verify != "none")
    ):
        check_places(recipe)
    names = _names(child, father, mother, base, recipe)
    forget({role: parse_model(name) for role, name in names.items()})
    checkpoints = {role: open_checkpoint(name, options) for role, name in names.items()}
    configs = {
        role: read_config(
            names[role], checkpoints[role].path, options.trust_remote_code
        )
        for role in ("child", "father", "mother")
    }
    return Relatives(names, checkpoints, configs, recipe)


def _names(
    child: str,
    father: str | None,
    mother: str | None,
    base: str | None,
    recipe: Provenance | None,
) -> dict[str, str]:
    """Return the models by role, what is not given taken from the recipe."""
    given = father is not None and mother is not None
    father = father or (recipe.father if recipe else None)
    mother = mother or (recipe.mother if recipe else None)
    if father is None or mother is None:
        lacks = "names no two parents" if recipe else "is not there"
        raise DarwinError(
            "The child's parents must be known; --father and --mother are not both"
            f" given, and mergekit_config.yml in {child} {lacks}."
            " Give --father and --mother."
        )
    if base is None and recipe is not None:
        base = recipe.base or (recipe.father if recipe.ours else None)
        if given and base and not (recipe.ours and not looks_local(base)):
            base = base if Path(base).is_dir() else None
    names = {"child": child, "father": father, "mother": mother}
    return {**names, "base": base} if base else names
