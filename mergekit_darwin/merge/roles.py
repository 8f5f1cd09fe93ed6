"""Who is who in a merge: one type for base, Father and Mother, and its one parser."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from mergekit_darwin.errors import DarwinError


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
