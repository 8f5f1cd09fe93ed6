"""Which texts a child is refitted on, held and judged by; their way through layers."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from torch import Tensor

from mergekit_darwin.errors import DarwinError, nearest
from mergekit_darwin.scan.decoder import Call, Decoder, apply_layer, finish, record
from mergekit_darwin.scan.layers import Batch, item_losses, make_batch
from mergekit_darwin.scan.probes import (
    Probe,
    ProbeItem,
    check_tokens,
    encode,
    read_probes,
)

LOG = logging.getLogger("mergekit_darwin")
_TRIED = 32  # items of a probe on which the parents compete for it
_WATCHED = 10  # of so many general texts one is not held but judged by


@dataclass
class Stream:
    """One batch in one model: what enters the next layer, [B, T, D], and its calls."""

    batch: Batch
    calls: list[Call]
    hidden: Tensor

    def rows(self, x: Tensor) -> Tensor:
        """Return the rows [n, D] of real tokens of x, [B, T, D] or [B * T, D]."""
        return x.reshape(-1, x.shape[-1])[self.batch.real.reshape(-1)]


@dataclass
class Group:
    """A parent's texts: its own streams, the child's, and their share in the fit."""

    name: str
    share: float
    teacher: Decoder
    taught: list[Stream]
    child: list[Stream]

    @property
    def tokens(self) -> int:
        """The number of tokens that are fitted."""
        return tokens_of(self.taught)


def tokens_of(streams: Sequence[Stream]) -> int:
    """Return the number of real tokens in streams."""
    return sum(int(stream.batch.real.sum()) for stream in streams)


def make_batches(
    decoder: Decoder, items: Sequence[ProbeItem], max_tokens: int, size: int
) -> list[Batch]:
    """Return items as batches, items of like length together."""
    encoded = encode(decoder.source.tokenizer, items, max_tokens)
    check_tokens(encoded, decoder.source.name, decoder.source.model)
    encoded.sort(key=lambda item: len(item.ids))  # stable
    return [
        make_batch(encoded[start : start + size], decoder.source.device)
        for start in range(0, len(encoded), size)
    ]


def start(decoder: Decoder, batches: Sequence[Batch]) -> list[Stream]:
    """Return streams that stand before the first layer of a model."""
    streams = []
    for batch in batches:
        hidden, calls = record(decoder, batch)
        streams.append(Stream(batch, calls, hidden))
    return streams


def step(decoder: Decoder, layer: int, streams: Sequence[Stream]) -> None:
    """Move streams through one layer."""
    for stream in streams:
        call = stream.calls[layer]
        stream.hidden = apply_layer(decoder, layer, stream.hidden, call)


def loss(decoder: Decoder, streams: Sequence[Stream]) -> float:
    """Return the completions' mean loss, nats a token, of streams past the last layer.

    The mean is over an item's tokens, then over items.
    """
    values = []
    for stream in streams:
        _, losses = finish(decoder, stream.batch, stream.hidden)
        values += item_losses(stream.batch, losses)
    return sum(values) / len(values)


def drift(ours: Sequence[Stream], theirs: Sequence[Stream]) -> float:
    """Return how far streams are from others of the same texts.

    Root of the mean over tokens of the squared distance relative to the others' square:
    0 is the same, 1 as far as nothing at all.
    """
    total, count = 0.0, 0
    for one, other in zip(ours, theirs, strict=True):
        x, y = one.rows(one.hidden).double(), other.rows(other.hidden).double()
        squares = y.square().sum(1).clamp_min(1e-300)
        total += float(((x - y).square().sum(1) / squares).sum())
        count += len(x)
    return (total / count) ** 0.5


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
    keep: str | Path | None = None
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
