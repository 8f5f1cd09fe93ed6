"""Every layer skipped once, in one pass over the layers.

Besides the full model's hidden states, layer i is applied to those of the i variants
that skipped an earlier layer, and its own input becomes the variant that skips it. So
L layers cost (L + 1) / 2 forward passes of arithmetic, and each weight is read once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.scan.decoder import (
    Call,
    CannotDrive,
    Decoder,
    apply_layer,
    finish,
    record,
)
from mergekit_darwin.scan.layers import Batch, item_losses, make_batch
from mergekit_darwin.scan.probes import Encoded
from mergekit_darwin.talk import Progress

_MOST_STREAMS = 1 << 30  # elements of hidden states held at once, 4 GiB in float32


@dataclass(frozen=True)
class Skipped:
    """One item's results: [L] distances in [0, 2] and [1 + L] losses, full first."""

    distances: tuple[float, ...]
    losses: tuple[float, ...]


def check_driving(decoder: Decoder, item: Encoded) -> None:
    """Compare layers driven by us with the model's own forward on one item.

    The item stands in a padded batch for us and alone for the model, so that a model
    that is not causal is found out as well. Raises DarwinError if they differ by more
    than rounding, which dozens of layers can make a thousand times larger.
    """
    longer = Encoded((*item.ids, *item.ids), item.special, len(item.ids))
    batch = make_batch([item, longer], decoder.source.device)
    hidden, calls = record(decoder, batch)
    for layer in range(decoder.depth):
        hidden = _applied(decoder, layer, hidden, batch, calls[layer])
    ours = finish(decoder, batch, hidden)[0][0, : len(item.ids)].double()
    alone = make_batch([item], decoder.source.device)
    theirs = finish(decoder, alone, None)[0][0].double()
    error = float((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1e-30))
    if not error <= (0.05 if hidden.dtype.itemsize >= 4 else 0.25):
        raise CannotDrive(
            f"{decoder.source.name} cannot be run layer by layer: its hidden states"
            f" then differ from its own by {error:.3g}."
        )


def _applied(
    decoder: Decoder, layer: int, hidden: Tensor, batch: Batch, call: Call
) -> Tensor:
    """Apply a layer and refuse NaN and Inf among real tokens."""
    output = apply_layer(decoder, layer, hidden, call)
    if not bool(torch.isfinite(output[batch.real]).all()):
        raise DarwinError(
            f"{decoder.source.name}: hidden states must stay finite; NaN or Inf comes"
            f" out of layer {layer}. Check the weights, or scan in --dtype float32."
        )
    return output


def skip_layers(
    decoder: Decoder,
    items: Sequence[Encoded],
    batch_size: int,
    progress: Progress | None,
) -> list[Skipped]:
    """Return the results of all items, in their order.

    Items run in groups whose hidden states fit a fixed budget; the weights are read
    once a group, which for probes of usual size means once.
    """
    groups = _groups(decoder, items, batch_size)
    results: dict[int, Skipped] = {}
    for place, group in enumerate(groups):
        batches = [
            make_batch([items[i] for i in rows], decoder.source.device)
            for rows in group
        ]
        start, total = place * decoder.depth, len(groups) * decoder.depth
        finals = _run_layers(decoder, batches, progress, start, total)
        for rows, batch, variants in zip(group, batches, finals, strict=True):
            found = _results(decoder, batch, variants)
            results.update(zip(rows, found, strict=True))
    return [results[i] for i in range(len(items))]


def _groups(
    decoder: Decoder, items: Sequence[Encoded], size: int
) -> list[list[list[int]]]:
    """Return groups of batches of item numbers, items of like length together."""
    order = sorted(range(len(items)), key=lambda i: (len(items[i].ids), i))
    batches = [order[i : i + size] for i in range(0, len(order), size)]
    width = decoder.source.model.get_input_embeddings().weight.shape[-1]  # type: ignore[operator]
    groups: list[list[list[int]]] = [[]]
    held = 0
    for rows in batches:
        tokens = len(rows) * max(len(items[i].ids) for i in rows)
        need = tokens * width * (decoder.depth + 1)
        if groups[-1] and held + need > _MOST_STREAMS:
            groups.append([])
            held = 0
        groups[-1].append(rows)
        held += need
    return groups


def _run_layers(
    decoder: Decoder,
    batches: Sequence[Batch],
    progress: Progress | None,
    done: int,
    total: int,
) -> list[list[Tensor]]:
    """Return, for each batch, what the last layer gives: [1 + L] of [B, T, D].

    The first is the full model, the others skip one layer each, in their order.
    """
    entries = [record(decoder, batch) for batch in batches]
    variants = [[hidden] for hidden, _ in entries]
    for layer in range(decoder.depth):
        with decoder.source.loaded(f"{decoder.path}.{layer}"):
            for batch, (_, calls), streams in zip(
                batches, entries, variants, strict=True
            ):
                skipped = streams[0].clone()
                for place, hidden in enumerate(streams):
                    streams[place] = _applied(
                        decoder, layer, hidden, batch, calls[layer]
                    )
                streams.append(skipped)
        if progress is not None:
            progress(done + layer + 1, total)
    return variants


def _results(
    decoder: Decoder, batch: Batch, variants: Sequence[Tensor]
) -> list[Skipped]:
    """Return each item's distances and losses from the last layer's outputs."""
    full, loss = finish(decoder, batch, variants[0])
    losses = [item_losses(batch, loss)]
    distances = []
    for hidden in variants[1:]:
        state, loss = finish(decoder, batch, hidden)
        losses.append(item_losses(batch, loss))
        distances.append(_item_distances(batch, full, state))
    return [
        Skipped(tuple(row[i] for row in distances), tuple(row[i] for row in losses))
        for i in range(len(batch.lengths))
    ]


def _item_distances(batch: Batch, full: Tensor, state: Tensor) -> list[float]:
    """Return each item's mean cosine distance over its real tokens, in [0, 2]."""
    return [
        float(cosine_distance(a[real], b[real]).mean())
        for a, b, real in zip(full, state, batch.real, strict=True)
    ]


def cosine_distance(first: Tensor, second: Tensor) -> Tensor:
    """Return 1 - cos of the rows of two tensors [T, D], float64 [T], on the CPU.

    It is half the squared distance of the unit vectors, which keeps small distances
    exact; two zero rows are at 0, a zero row and another at 1/2.
    """
    unit_first, unit_second = (
        torch.nn.functional.normalize(x.detach().cpu().double(), dim=-1, eps=1e-300)
        for x in (first, second)
    )
    return 0.5 * (unit_first - unit_second).square().sum(dim=-1)
