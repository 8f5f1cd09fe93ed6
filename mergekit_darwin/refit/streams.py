"""Texts on their way through the layers of a model, batch by batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mergekit_darwin.scan.decoder import Call, Decoder, apply_layer, finish, record
from mergekit_darwin.scan.layers import Batch, make_batch
from mergekit_darwin.scan.probes import ProbeItem, check_tokens, encode


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
        count = len(stream.batch.lengths)
        owner = stream.batch.owner.cpu()
        total = torch.zeros(count, dtype=torch.float64)
        total.index_add_(0, owner, losses.double().cpu())
        values += (total / torch.bincount(owner, minlength=count)).tolist()
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
