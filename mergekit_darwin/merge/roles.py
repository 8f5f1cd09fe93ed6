"""Who is who in a merge: one type for base, Father and Mother, and its one parser."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mergekit_darwin.errors import DarwinError

if TYPE_CHECKING:
    from mergekit.config import MergeConfiguration


@dataclass(frozen=True)
class Roles:
    """The models of a merge, by whatever names them (in mergekit a ModelReference).

    base is as configured: None, the Father, or a third model.
    """

    base: Hashable | None
    father: Hashable
    mother: Hashable

    @property
    def third(self) -> Hashable | None:
        """The base where it is a model of its own, else None."""
        return None if self.base == self.father else self.base

    def named(self) -> dict[str, Hashable]:
        """Return the different models by their role as in a sentence."""
        parents = {"Father": self.father, "Mother": self.mother}
        return parents if self.third is None else {**parents, "base": self.third}


def roles_of(models: Sequence[Hashable], base: Hashable | None) -> Roles:
    """Return the roles of models in the order of the YAML, the Father first.

    models may hold the base too (mergekit appends it). Raises DarwinError unless there
    are two parents and the base is absent, the Father, or a third model.
    """
    parents = [model for model in models if model != base]
    if len(parents) == 1 and len(models) == 2:
        if models[0] != base:
            raise DarwinError(
                "base_model must be the Father (the first model), a third model, or"
                f" absent; got the second, {base}, beside {parents[0]}. List both"
                " parents under models; to make the other one the Father, list it"
                " first."
            )
        parents = list(models)
    if len(parents) != 2 or parents[0] == parents[1]:
        raise DarwinError(
            "darwin_v6 merges exactly two parents, different ones, first the Father,"
            f" then the Mother; got {', '.join(map(str, parents)) or 'none'}."
        )
    return Roles(base, *parents)


def all_roles(config: MergeConfiguration) -> Iterator[Roles]:
    """Yield the roles of every list of models, as mergekit's planner will see them."""
    modules = (config.modules or {}).values()
    listed = [config.models, *(module.models for module in modules)]
    for models in filter(None, listed):
        found = [entry.model for entry in models]
        if config.base_model is not None and config.base_model not in found:
            found.append(config.base_model)
        yield roles_of(found, config.base_model)
    slices = [*(config.slices or [])]
    for module in modules:
        slices += module.slices or []
    for output in slices:
        base = output.base_model or config.base_model
        yield roles_of([source.model for source in output.sources], base)
