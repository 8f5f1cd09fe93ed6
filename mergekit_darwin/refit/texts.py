"""Which texts a child is refitted on, held by, and judged by."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from mergekit_darwin.errors import DarwinError, nearest
from mergekit_darwin.refit.streams import loss, make_batches, start, step
from mergekit_darwin.scan.decoder import Decoder
from mergekit_darwin.scan.probes import Probe, ProbeItem, read_probes

LOG = logging.getLogger("mergekit_darwin")
_TRIED = 32  # items of a probe on which the parents compete for it
_WATCHED = 10  # of so many general texts one is not held but judged by


@dataclass(frozen=True)
class Texts:
    """A parent's probes each, general text that holds, and general text that judges."""

    father: tuple[Probe, ...]
    mother: tuple[Probe, ...]
    general: tuple[Probe, ...]
    keep: tuple[ProbeItem, ...]
    watch: tuple[ProbeItem, ...]


@dataclass(frozen=True)
class TextChoice:
    """What texts the user wants.

    probes: a parent's or a skill's texts; named: names of those of one parent, by
    parent. keep: folder of general texts, None for those of the package. items: at most
    so many of a probe.
    """

    probes: tuple[Probe, ...]
    named: Mapping[str, Sequence[str]] = field(default_factory=dict)
    keep: Path | None = None
    items: int | None = None


def choose_texts(
    choice: TextChoice, parents: Mapping[str, Decoder], max_tokens: int
) -> Texts:
    """Return the texts of a refit. Raises DarwinError where a group stays empty."""
    probes = [Probe(p.name, p.items[: choice.items], p.weight) for p in choice.probes]
    shared = share_out(probes, choice.named, parents, max_tokens)
    general = keep_probes(choice.keep)
    keep, watch = split_keep(general)
    return Texts(
        shared["father"], shared["mother"], tuple(general), tuple(keep), tuple(watch)
    )


def keep_probes(folder: str | Path | None) -> list[Probe]:
    """Return the general texts of a folder; by default those of the package."""
    place = folder or resources.files("mergekit_darwin") / "data" / "keep"
    return read_probes(str(place))


def split_keep(probes: Sequence[Probe]) -> tuple[list[ProbeItem], list[ProbeItem]]:
    """Return texts that hold and texts that judge: of every probe each tenth judges.

    Raises DarwinError where there are too few to judge by.
    """
    hold = [x for p in probes for i, x in enumerate(p.items) if (i + 1) % _WATCHED]
    watch = [x for p in probes for i, x in enumerate(p.items) if not (i + 1) % _WATCHED]
    if not watch:
        raise DarwinError(
            f"General texts must be at least {_WATCHED} in one file, as one in"
            f" {_WATCHED} judges the child; got {len(hold)}. Give --keep more of them."
        )
    return hold, watch


def share_out(
    probes: Sequence[Probe],
    named: Mapping[str, Sequence[str]],
    parents: Mapping[str, Decoder],
    max_tokens: int,
) -> dict[str, tuple[Probe, ...]]:
    """Return the probes of father and of mother.

    named gives names by parent; any other probe is the parent's whose loss on its
    completions is lower (by the first 32 items), both parents' where it is equal.
    Raises DarwinError for an unknown name and for a parent without a probe.
    """
    known = [probe.name for probe in probes]
    given = {role: [name.upper() for name in named.get(role, ())] for role in parents}
    for role, names in given.items():
        for name in names:
            if name not in known:
                raise DarwinError(
                    f"--{role}-probes must name probes; there is no {name}."
                    f"{nearest(name, known)} Known: {', '.join(known)}."
                )
    open_ones = [p for p in probes if all(p.name not in n for n in given.values())]
    losses = _losses(open_ones, parents, max_tokens)
    found = {}
    for role, other in (("father", "mother"), ("mother", "father")):
        won = {n for n, row in losses.items() if row[role] <= row[other]}
        wanted = {*given[role], *won}
        found[role] = tuple(probe for probe in probes if probe.name in wanted)
        if not found[role]:
            raise DarwinError(
                f"The {role} must have a probe to be refitted to; on all of"
                f" {', '.join(known)} the {other}'s loss is lower. Give texts of its"
                f" skill in --probes, or name one with --{role}-probes."
            )
    return found


def _losses(
    probes: Sequence[Probe], parents: Mapping[str, Decoder], max_tokens: int
) -> dict[str, dict[str, float]]:
    """Return each parent's loss on each probe, from one pass over its layers."""
    rows: dict[str, dict[str, float]] = {probe.name: {} for probe in probes}
    for role, decoder in parents.items() if probes else ():
        streams = {
            probe.name: start(
                decoder, make_batches(decoder, probe.items[:_TRIED], max_tokens, _TRIED)
            )
            for probe in probes
        }
        for layer in range(decoder.depth):
            with decoder.source.loaded(f"{decoder.path}.{layer}"):
                for chosen in streams.values():
                    step(decoder, layer, chosen)
        for name, chosen in streams.items():
            rows[name][role] = loss(decoder, chosen)
            LOG.info("%s: loss %.4f on %s", role, rows[name][role], name)
    return rows
