"""All texts on their way through the family's layers, and what is measured of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from mergekit_darwin.refit.family import Family
from mergekit_darwin.refit.options import RefitOptions
from mergekit_darwin.refit.report import (
    Drift,
    Losses,
    Model,
    RefitReport,
    Used,
    verdict_of,
)
from mergekit_darwin.refit.texts import (
    Group,
    Stream,
    Texts,
    drift,
    loss,
    make_batches,
    start,
    step,
    tokens_of,
)
from mergekit_darwin.scan.decoder import Decoder
from mergekit_darwin.scan.probes import ProbeItem
from mergekit_darwin.talk import versions

TOOLS = ("mergekit", "torch", "transformers")
_JUDGED = 64  # of a parent's items, those on which drift and loss are measured
_SIDES = ("father", "mother", "general")


@dataclass(frozen=True)
class Course:
    """Streams of all texts.

    groups are fitted. keep is general text at the child as it was. judged holds, for
    father's, mother's and general texts, streams by model: father, mother, before
    (the child as it was) and after.
    """

    groups: tuple[Group, ...]
    keep: list[Stream]
    judged: dict[str, dict[str, list[Stream]]]

    def measure(self, family: Family, layer: int) -> None:
        """Move the judged texts through a layer of the parents and the child before."""
        for streams in self.judged.values():
            for role, decoder in family.parents.items():
                step(decoder, layer, streams[role])
            step(family.child, layer, streams["before"])

    def compare(self, family: Family, layer: int) -> Drift:
        """Move them through the refitted layer and return how far the child is."""
        for streams in self.judged.values():
            step(family.child, layer, streams["after"])
        found = {
            f"{role}_{when}": drift(self.judged[role][when], self.judged[role][role])
            for role in ("father", "mother")
            for when in ("before", "after")
        }
        return Drift(**found)

    def losses(self, family: Family) -> dict[str, Losses]:
        """Return the losses past the last layer by text: father, mother, general."""
        heads = {**family.parents, "before": family.child, "after": family.child}
        return {
            side: Losses(**{role: loss(heads[role], streams[role]) for role in heads})
            for side, streams in self.judged.items()
        }


def start_course(
    family: Family, texts: Texts, *, keep: bool, max_tokens: int, size: int
) -> Course:
    """Return all streams, standing before the first layer."""
    child = family.child

    def streams(decoder: Decoder, items: Sequence[ProbeItem]) -> list[Stream]:
        return start(decoder, make_batches(child, items, max_tokens, size))

    def four(items: Sequence[ProbeItem]) -> dict[str, list[Stream]]:
        roles = {**family.parents, "before": child, "after": child}
        return {role: streams(decoder, items) for role, decoder in roles.items()}

    chosen = {
        role: [item for probe in probes for item in probe.items]
        for role, probes in (("father", texts.father), ("mother", texts.mother))
    }
    groups = tuple(
        Group(role, 1.0, decoder, streams(decoder, items), streams(child, items))
        for role, decoder in family.parents.items()
        for items in [chosen[role]]
    )
    judged = {role: four(_spread(items)) for role, items in chosen.items()}
    judged["general"] = four(texts.watch)
    return Course(groups, streams(child, texts.keep) if keep else [], judged)


def _spread(items: Sequence[ProbeItem]) -> list[ProbeItem]:
    """Return at most 64 items, taken at even distances."""
    stride = -(-len(items) // _JUDGED)
    return list(items[::stride])


@dataclass(frozen=True)
class Pass:
    """What one pass over the layers found: drift by layer, maps solved, and names.

    fitted and left as the report has them.
    """

    drift: list[Drift]
    maps: int
    fitted: list[str]
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
        fitted=found.fitted,
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
