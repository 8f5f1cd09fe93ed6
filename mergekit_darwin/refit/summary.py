"""A pass over the layers, put into words and numbers."""

from __future__ import annotations

import time
from dataclasses import dataclass

from mergekit_darwin.refit.course import Course
from mergekit_darwin.refit.family import Family
from mergekit_darwin.refit.options import RefitOptions
from mergekit_darwin.refit.report import (
    Drift,
    Model,
    RefitReport,
    Used,
    verdict_of,
)
from mergekit_darwin.refit.streams import tokens_of
from mergekit_darwin.refit.texts import Texts
from mergekit_darwin.talk import versions

TOOLS = ("mergekit", "torch", "transformers")


@dataclass(frozen=True)
class Pass:
    """What one pass over the layers found: drift by layer, maps solved, names left."""

    drift: list[Drift]
    maps: int
    left: list[str]
    began: float  # by time.monotonic


def make_report(
    family: Family,
    texts: Texts,
    course: Course,
    options: RefitOptions,
    found: Pass,
) -> RefitReport:
    """Return the report of a pass over the layers."""
    losses = course.losses(family)
    groups = {group.name: group.tokens for group in course.groups}
    used = {
        "father": Used.of(groups["father"], texts.father),
        "mother": Used.of(groups["mother"], texts.mother),
        "general": Used.of(tokens_of(course.keep), texts.general),
    }
    return RefitReport(
        tool=versions(*TOOLS),
        settings=_settings(options),
        models={
            role: Model(
                model=decoder.source.name, digest=family.checkpoints[role].digest
            )
            for role, decoder in family.decoders.items()
        },
        texts=used,
        maps=found.maps,
        left=found.left,
        layers=found.drift,
        father_texts=losses["father"],
        mother_texts=losses["mother"],
        general=losses["general"],
        seconds=round(time.monotonic() - found.began, 3),
        verdict=verdict_of(losses["general"]),
    )


def _settings(options: RefitOptions) -> dict[str, str | int | float | bool | None]:
    return {
        "ridge": options.ridge,
        "keep_weight": options.keep_weight,
        "maps": options.maps,
        "rho": options.rho,
        "targets": options.targets,
        "sweeps": options.sweeps,
        "max_tokens": options.probing.max_tokens,
        "dtype": options.probing.dtype,
    }
