"""How a child is refitted: the few numbers that a user may set."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from mergekit_darwin.errors import DarwinError, refuse_unknown
from mergekit_darwin.models.opened import ProbeOptions
from mergekit_darwin.refit.layer import Maps


@dataclass(frozen=True)
class RefitOptions:
    """How a child is refitted.

    ridge: against change, in units of an input's own mean square. keep_weight: of
    general text beside 1 for each parent; 0 leaves it out. maps: last, each layer's
    last one and its experts; writers, all that write the residual stream; all. rho:
    with a base, maps start from base + rho (child - base). targets: residual, maps that
    write the stream aim at the parent's stream after them, so that each layer repairs
    what is left of the errors below; output, they aim at what the parent's map gives.
    sweeps: passes, each from the last one's child. The defaults are the best of
    docs/measured.md, "Refit".
    """

    ridge: float = 1e-4
    keep_weight: float = 10.0
    maps: Maps = "last"
    rho: float = 1.0
    targets: Literal["residual", "output"] = "residual"
    sweeps: int = 1
    probing: ProbeOptions = field(default_factory=lambda: ProbeOptions(batch_size=32))

    def __post_init__(self) -> None:
        if not math.isfinite(self.rho):
            raise DarwinError(f"rho must be a finite number; got {self.rho}.")
        for name, least in (("ridge", 0.0), ("keep_weight", 0.0), ("sweeps", 1.0)):
            value = getattr(self, name)
            if not least <= value < float("inf"):
                raise DarwinError(
                    f"{name} must be a number from {least:g} up; got {value}."
                )


def refit_options(given: Mapping[str, Any]) -> RefitOptions:
    """Return the options of a flat mapping: ours, and those of how models run.

    Raises DarwinError for a name that is neither.
    """
    ours = {line.name for line in fields(RefitOptions)} - {"probing"}
    theirs = {line.name for line in fields(ProbeOptions)}
    refuse_unknown(given, sorted(ours | theirs))
    running = {"batch_size": 32, **{n: v for n, v in given.items() if n in theirs}}
    return RefitOptions(
        **{n: v for n, v in given.items() if n in ours},
        probing=ProbeOptions(**running),
    )
