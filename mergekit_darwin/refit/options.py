"""How a child is refitted: the few numbers that a user may set."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

import click

from mergekit_darwin.errors import DarwinError, refuse_unknown
from mergekit_darwin.talk import ProbeOptions, asked

Maps = Literal["last", "writers", "all"]
Targets = Literal["residual", "output"]
BATCH = 32  # texts run together, unless told


@dataclass(frozen=True)
class RefitOptions:
    """How a child is refitted.

    The ridge is in units of an input's own mean square. By residual targets each layer
    repairs what is left of the errors below it. Each sweep starts from the last one's
    child. The defaults are the best of docs/measured.md, "Refit".
    """

    keep_weight: float = asked(
        10.0, "Weight of general text beside 1 for each parent; 0 leaves it out."
    )
    maps: Maps = asked(
        "last",
        "Which maps are solved: each layer's last and its experts, those that write"
        " the residual stream, or all.",
        type=click.Choice(get_args(Maps)),
    )
    ridge: float = asked(1e-4, "Against change of the weights.")
    rho: float = asked(1.0, "Start from base + RHO (child - base); needs --base.")
    targets: Targets = asked(
        "residual",
        "What maps that write the residual stream aim at: the parent's stream after"
        " them, or the parent's own output.",
        type=click.Choice(get_args(Targets)),
    )
    sweeps: int = asked(1, "Passes over the layers.", type=click.IntRange(1))
    probing: ProbeOptions = field(
        default_factory=lambda: ProbeOptions(batch_size=BATCH)
    )

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

    Raises DarwinError for a name that is neither, or a device that is not there.
    """
    from mergekit_darwin.models.opened import check_device

    ours = {line.name for line in fields(RefitOptions)} - {"probing"}
    theirs = {line.name for line in fields(ProbeOptions)}
    refuse_unknown(given, sorted(ours | theirs))
    check_device(given.get("device", "cpu"))
    running = {"batch_size": BATCH, **{n: v for n, v in given.items() if n in theirs}}
    return RefitOptions(
        **{n: v for n, v in given.items() if n in ours},
        probing=ProbeOptions(**running),
    )
