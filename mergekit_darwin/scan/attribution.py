"""What each parent's task vector gains, tensor by tensor, and how far that reaches.

gain = -g . delta, where g is the gradient of a probe's mean completion loss at the
base and delta = parent - base: the fall of the loss, in nats a token, that a small step
along the task vector promises per unit of step. curvature is the mean over items of the
item's own squared gain (the empirical Fisher matrix along the task vector): a whole
step promises gain - curvature / 2. Source: our choice (a Taylor expansion).

The backward pass runs layer by layer from stored layer inputs, item by item, so that
one layer's gradients are held at a time, and with --stream one layer's weights. A model
that cannot be run so has an ordinary backward pass for each item.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from mergekit_darwin.models.opened import open_model
from mergekit_darwin.scan.backward import check_loss, gain_groups, reads_more, run_group
from mergekit_darwin.scan.decoder import Decoder
from mergekit_darwin.scan.importance import open_way
from mergekit_darwin.scan.probes import Encoded, Probe, check_tokens, encode
from mergekit_darwin.scan.report import Passes
from mergekit_darwin.scan.tally import Gains, Tally, floating, following
from mergekit_darwin.scan.whole import Whole, open_whole, run_whole
from mergekit_darwin.talk import ProbeOptions, Progress

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Attribution:
    """One parent's gains and curvatures: probe -> tensor -> nats a token (squared)."""

    gain: Gains
    curvature: Gains
    passes: Passes  # how the base was run


def measure_gains(
    base: str,
    father: str,
    mother: str,
    probes: Sequence[Probe],
    options: ProbeOptions,
    progress: Progress | None = None,
) -> tuple[Attribution, Attribution]:
    """Return what Father and Mother gain over the base.

    Names are those of model_loads. Every tensor that base and a parent have in one
    shape is there; those the loss does not depend on (a vision tower) have 0.
    A probe's loss is the mean over items of the mean over a completion's tokens.
    Raises DarwinError if the base cannot be run.
    """
    source = open_model(base, options)
    items = [
        (probe.name, item)
        for probe in probes
        for item in encode(source.tokenizer, probe.items, options.max_tokens)
    ]
    check_tokens((item for _, item in items), source.name, source.model)
    shortest = min((item for _, item in items), key=lambda item: len(item.ids))
    with torch.no_grad():
        way = open_way(source, shortest)
    if isinstance(way, Decoder) and reads_more(way, shortest):
        LOG.info("%s: layers read more than hidden states; whole passes.", base)
        way = open_whole(source)
    tally = Tally.of(source.model, (base, father, mother), options, len(items))
    if isinstance(way, Decoder):
        step = _counter(progress, 2 * way.depth * len(items))
        for group in gain_groups(way, items):
            run_group(way, group, tally, step)
    else:
        _whole(way, items, tally, progress)
    passes: Passes = "layers" if isinstance(way, Decoder) else "whole"
    rows = [probe for probe, _ in items]
    left, right = (_folded(side, rows, passes) for side in tally.sides)
    return left, right


def _counter(progress: Progress | None, total: int) -> Callable[[int], None]:
    """Return what adds up the layers that items have passed, there and back."""
    done = 0

    def step(more: int) -> None:
        nonlocal done
        done += more
        if progress is not None:
            progress(done, total)

    return step


def _whole(
    whole: Whole,
    items: Sequence[tuple[str, Encoded]],
    tally: Tally,
    progress: Progress | None,
) -> None:
    tensors = floating(whole.source.model, lambda name: True)
    with following(tensors):
        for place, (probe, item) in enumerate(items):
            with torch.enable_grad():
                loss = run_whole(whole, item, None)[1].mean()
            check_loss(whole.source.name, probe, loss)
            loss.backward()
            tally.add(place, tensors)
            if progress is not None:
                progress(place + 1, len(items))


def _folded(
    side: Mapping[str, list[float]], rows: Sequence[str], passes: Passes
) -> Attribution:
    """Return means over each probe's items of the items' gains and their squares."""
    gain: Gains = {}
    curvature: Gains = {}
    for probe in dict.fromkeys(rows):
        own = [place for place, name in enumerate(rows) if name == probe]
        gain[probe], curvature[probe] = {}, {}
        for tensor, values in side.items():
            chosen = [values[place] for place in own]
            gain[probe][tensor] = math.fsum(chosen) / len(own)
            curvature[probe][tensor] = math.fsum(v * v for v in chosen) / len(own)
    return Attribution(gain, curvature, passes)
