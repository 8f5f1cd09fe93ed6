"""How much every layer matters to every probe."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.models.opened import OpenModel, open_model
from mergekit_darwin.scan.decoder import CannotDrive, Decoder, open_decoder
from mergekit_darwin.scan.layers import layer_stack
from mergekit_darwin.scan.probes import Encoded, Probe, check_tokens, encode
from mergekit_darwin.scan.report import Passes, ProbeLoss
from mergekit_darwin.scan.skipping import (
    Skipped,
    check_driving,
    cosine_distance,
    skip_layers,
)
from mergekit_darwin.scan.whole import Whole, open_whole, reading_of, run_whole
from mergekit_darwin.talk import ProbeOptions, Progress

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Importance:
    """What skipping each layer of one model does.

    stack is the layers' name prefix in mergekit's names, layers their number L;
    distances holds [L] numbers in [0, 2] for each probe: 1 - cos between the final
    hidden states (after the last norm) of the full model and of the model without the
    layer, mean over an item's tokens (prompt and completion, special tokens in front
    left out), then over items. loss is the completions' mean loss in nats a token,
    mean over an item's completion, then over items. passes says how it was measured:
    layer by layer, or in whole passes, each with one layer skipped.
    """

    stack: str
    layers: int
    distances: dict[str, list[float]]
    loss: dict[str, ProbeLoss]
    passes: Passes = field(default="layers")


def measure_importance(
    model: str,
    probes: Sequence[Probe],
    options: ProbeOptions,
    progress: Progress | None = None,
) -> Importance:
    """Return the importance of every layer of a model for every probe.

    Raises DarwinError if the model has no tokenizer or no LM head, or yields NaN.
    """
    return importance_of(open_model(model, options), probes, options, progress)


def importance_of(
    source: OpenModel,
    probes: Sequence[Probe],
    options: ProbeOptions,
    progress: Progress | None = None,
) -> Importance:
    """Return the same of a model that is open already."""
    items = [
        item
        for probe in probes
        for item in encode(source.tokenizer, probe.items, options.max_tokens)
    ]
    check_tokens(items, source.name, source.model)
    with torch.no_grad():
        way = open_way(source, min(items, key=lambda item: len(item.ids)))
        if isinstance(way, Decoder):
            results = skip_layers(way, items, options.batch_size, progress)
        else:
            results = _skip_whole(way, items, progress)
    passes: Passes = "layers" if isinstance(way, Decoder) else "whole"
    stack = layer_stack(source.name, way.path, way.depth, options)
    return _by_probe(stack, probes, results, passes)


def open_way(source: OpenModel, item: Encoded) -> Decoder | Whole:
    """Return an open model ready to have its layers skipped, one by one if it can.

    The item is one to try it on. Raises DarwinError if it has no layers or no head.
    """
    if reading_of(source.model) != "causal":
        return open_whole(source)
    try:
        decoder = open_decoder(source)
        if source.disk is None:
            check_driving(decoder, item)
        return decoder
    except CannotDrive as reason:
        LOG.info("%s It is run in whole passes.", reason)
    except DarwinError:
        raise
    except Exception as error:  # whatever a model's own code says to being taken apart
        LOG.info("%s is run in whole passes (%s).", source.name, error)
    return open_whole(source)


def _skip_whole(
    whole: Whole, items: Sequence[Encoded], progress: Progress | None
) -> list[Skipped]:
    """Return the results of all items by L + 1 whole passes each."""
    results = []
    for place, item in enumerate(items):
        full, loss = run_whole(whole, item, None)
        losses, distances = [_item_loss(whole, full, loss)], []
        for layer in range(whole.depth):
            state, loss = run_whole(whole, item, layer)
            losses.append(_item_loss(whole, state, loss))
            distances.append(float(cosine_distance(full, state).mean()))
        results.append(Skipped(tuple(distances), tuple(losses)))
        if progress is not None:
            progress(place + 1, len(items))
    return results


def _item_loss(whole: Whole, state: torch.Tensor, loss: torch.Tensor) -> float:
    if not bool(torch.isfinite(state).all()):
        raise DarwinError(
            f"{whole.source.name}: hidden states must stay finite; NaN or Inf comes"
            " out of its last layer. Check the weights, or scan in --dtype float32."
        )
    return float(loss.double().mean())


def _by_probe(
    stack: str, probes: Sequence[Probe], results: Sequence[Skipped], passes: Passes
) -> Importance:
    distances, loss, start = {}, {}, 0
    depth = len(results[0].distances)
    for probe in probes:
        rows = results[start : start + len(probe.items)]
        start += len(probe.items)
        distances[probe.name] = [
            _mean(row.distances[layer] for row in rows) for layer in range(depth)
        ]
        means = [_mean(row.losses[k] for row in rows) for k in range(depth + 1)]
        if not all(map(math.isfinite, (*means, *distances[probe.name]))):
            raise DarwinError(
                f"What a model computes must be finite; probe {probe.name} gives NaN or"
                " Inf after the last layer. Look at the final norm and the LM head."
            )
        loss[probe.name] = ProbeLoss(full=means[0], skipped=means[1:])
    return Importance(stack, depth, distances, loss, passes)


def _mean(values: Iterator[float]) -> float:
    listed = list(values)
    return math.fsum(listed) / len(listed)
