"""The health of a merged model: what to look at, where the lines are, the verdict.

Importing this package loads neither torch nor transformers; `check` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mergekit_darwin.health.report import Finding, Health, read_health, verdict_of
from mergekit_darwin.health.thresholds import RULES, Thresholds

if TYPE_CHECKING:
    from mergekit_darwin.health.run import check

__all__ = [
    "RULES",
    "Finding",
    "Health",
    "Thresholds",
    "check",
    "read_health",
    "verdict_of",
]


def __getattr__(name: str) -> Any:
    if name == "check":
        from mergekit_darwin.health.run import check

        return check
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
