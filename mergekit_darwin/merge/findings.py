"""What the check of models knows of them, and the line it says of each finding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sized
from dataclasses import dataclass, field
from typing import Any, Literal

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.models.checkpoint import TensorHeader
from mergekit_darwin.models.names import site_of

Severity = Literal["ok", "note", "stops"]


@dataclass(frozen=True)
class Model:
    """One model by what its config and headers say; role as in a sentence."""

    role: str
    headers: Mapping[str, TensorHeader]
    config: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"the {self.role}"


@dataclass(frozen=True)
class Layout:
    """What mergekit will write: names, which of them must be there, who lacks which.

    lacks maps a role to the names it has under no name that mergekit accepts; read
    maps a role to the names in its file that are used.
    """

    names: tuple[str, ...]
    required: frozenset[str]
    lacks: Mapping[str, frozenset[str]]
    read: Mapping[str, frozenset[str]]

    def lacked_by(self, models: Iterable[Model]) -> frozenset[str]:
        """Return the names that at least one of the models lacks."""
        return frozenset().union(*(self.lacks[model.role] for model in models))


@dataclass(frozen=True)
class Setup:
    """What the configuration says beside the models.

    dtype is what all are read as; resizes whether vocabularies are aligned; config_of
    whose config the child gets, None where mergekit takes any model's; father_is_base
    whether there is one task vector only. lost names the child's tensors that the
    Father's files hold and mergekit's plan leaves out, which may_lose allows. counters
    says of every integer that is no matrix whether the models agree on it.
    """

    dtype: str | None = None
    resizes: bool = False
    config_of: str | None = "Father"
    father_is_base: bool = False
    lost: tuple[str, ...] = ()
    may_lose: bool = False
    counters: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class Finding:
    """One line of the check: ok, a note, or what stops the merge."""

    severity: Severity
    rule: str
    found: str
    effect: str = ""

    def line(self) -> str:
        """Return the finding as one line of text."""
        end = f" -> {self.effect}" if self.effect else ""
        return f"{self.severity:5} {self.rule}: {self.found}{end}"

    def heed(self) -> None:
        """Raise DarwinError if this stops the merge."""
        if self.severity == "stops":
            end = f"; {self.effect}" if self.effect else ""
            raise DarwinError(f"The models must fit; {self.rule}: {self.found}{end}.")


def even(names: Iterable[str], uneven: set[str]) -> list[str]:
    """Return the names outside the stacks of uneven depth, sorted."""
    return sorted(name for name in names if site_of(name).stack not in uneven)


def tensors(names: Sized) -> str:
    """Return "1 tensor", "2 tensors"."""
    return f"{len(names)} tensor{'' if len(names) == 1 else 's'}"


def places(names: list[str]) -> str:
    """Return " (vision_tower 27, embed_vision 1)" where names have common owners."""
    parts = [name.split(".") for name in names]
    owners = Counter(".".join(p[:2]) if len(p) > 3 else p[0] for p in parts)
    if len(names) < 3 or len(owners) > 4:
        return ""
    return f" ({', '.join(f'{owner} {count}' for owner, count in owners.items())})"
