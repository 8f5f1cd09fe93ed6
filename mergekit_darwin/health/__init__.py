"""The health of a merged model: what to look at, where the lines are, the verdict.

Importing this package loads nothing else, for the command's help has to be quick: its
names are found when they are first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mergekit_darwin.health.report import Finding as Finding
    from mergekit_darwin.health.report import Health as Health
    from mergekit_darwin.health.report import read_health as read_health
    from mergekit_darwin.health.report import verdict_of as verdict_of
    from mergekit_darwin.health.run import check as check
    from mergekit_darwin.health.thresholds import RULES as RULES
    from mergekit_darwin.health.thresholds import Thresholds as Thresholds

_HOMES = {
    "RULES": "thresholds",
    "Finding": "report",
    "Health": "report",
    "Thresholds": "thresholds",
    "check": "run",
    "read_health": "report",
    "verdict_of": "report",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
