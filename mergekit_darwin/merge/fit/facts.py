"""What the fit check knows of models, and the line it says of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mergekit_darwin.models.names import site_of

Severity = Literal["ok", "note", "stops"]


@dataclass(frozen=True)
class Header:
    """One tensor as its file declares it; dtype by torch's name."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Model:
    """One model by what its config and headers say; role as in a sentence."""

    role: str
    name: str
    headers: Mapping[str, Header]
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


@dataclass(frozen=True)
class Run:
    """What the configuration says beside the models; config_of is whose config the
    child gets, None where mergekit takes any model's."""

    dtype: str | None = None
    resizes: bool = False
    config_of: str | None = "Father"


@dataclass(frozen=True)
class Finding:
    """One line of the check: ok, a note, or what stops the merge."""

    severity: Severity
    subject: str
    found: str
    effect: str = ""

    def line(self) -> str:
        """Return the finding as one line of text."""
        end = f" -> {self.effect}" if self.effect else ""
        return f"{self.severity:5} {self.subject}: {self.found}{end}"


def inside(name: str, stacks: set[str]) -> bool:
    """Return whether a tensor lies in one of these stacks."""
    return site_of(name).stack in stacks


def even(names: Iterable[str], uneven: set[str]) -> list[str]:
    """Return the names outside the stacks of uneven depth, sorted."""
    return sorted(name for name in names if not inside(name, uneven))


def tensors(count: int) -> str:
    """Return "1 tensor", "2 tensors"."""
    return f"{count} tensor{'' if count == 1 else 's'}"


def places(names: list[str]) -> str:
    """Return " (vision_tower 27, embed_vision 1)" where names have common owners."""
    owners = Counter(_owner(name) for name in names)
    if len(names) < 3 or len(owners) > 4:
        return ""
    return f" ({', '.join(f'{owner} {count}' for owner, count in owners.items())})"


def _owner(name: str) -> str:
    parts = name.split(".")
    return ".".join(parts[:2]) if len(parts) > 3 else parts[0]
