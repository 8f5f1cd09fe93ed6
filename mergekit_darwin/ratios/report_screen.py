"""What a report says, on one screen for a person."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from mergekit_darwin.models.names import site_of
from mergekit_darwin.ratios.rules import spread_of
from mergekit_darwin.ratios.scores import report_scores
from mergekit_darwin.scan.report import ModelReport, Report

_TOP = 3


def layer_ratios(report: Report) -> list[float]:
    """Return the mean published mri_ratio of each probed layer's tensors, [L]."""
    scores = report_scores(report, "published")
    depth = min(report.father.layers, report.mother.layers)
    values: list[list[float]] = [[] for _ in range(depth)]
    for name, row in scores.items():
        site = site_of(name)
        if site.stack == report.father.stack and site.layer is not None:
            if site.layer < depth:
                values[site.layer].append(row.mri_ratio)
    return [math.fsum(row) / len(row) if row else 0.5 for row in values]


def layer_gains(
    model: ModelReport, probes: Sequence[str], depth: int
) -> list[list[float]]:
    """Return first-order gains, [depth + 1][probes], nats a token.

    The last row holds the tensors outside the probed layers.
    """
    cells: dict[tuple[int, str], list[float]] = defaultdict(list)
    for name in probes:
        for tensor, gain in model.gain.get(name, {}).items():
            site = site_of(tensor)
            inside = site.layer is not None and site.stack == model.stack
            cells[site.layer if inside else depth, name].append(gain)  # type: ignore[index]
    return [
        [math.fsum(cells[row, name]) for name in probes] for row in range(depth + 1)
    ]


def screen(report: Report) -> str:
    """Return the summary of a report: models, top layers, spread of mri_ratio."""
    lines = [_model_line(role, model) for role, model in report.models.items()]
    if report.father.probes:
        lines += ["", *_probe_lines(report)]
    lines += ["", *_ratio_lines(report)]
    if report.father.gain:
        lines += ["", *_gain_lines(report)]
    return "\n".join(lines)


def _model_line(role: str, model: ModelReport) -> str:
    numel = sum(row.numel for row in model.tensors.values())
    depth = f", {model.layers} layers probed" if model.layers else ""
    if model.passes == "whole":
        depth += ", run in whole passes"
    return (
        f"{role + ':':8}{model.model}  ({len(model.tensors)} tensors,"
        f" {_short(numel)} parameters{depth})"
    )


def _short(count: int) -> str:
    for unit, size in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.1f}{unit}"
    return str(count)


def _probe_lines(report: Report) -> list[str]:
    lines = ["Layers that matter most (distance of the output without them)"]
    for name in report.settings.probes:
        left, right = report.father.probes[name], report.mother.probes[name]
        lines.append(f"  {name:<12} Father {_top(left):<34} Mother {_top(right)}")
    return lines


def _top(distances: list[float]) -> str:
    order = sorted(range(len(distances)), key=lambda layer: -distances[layer])
    return ", ".join(f"{layer}: {distances[layer]:.3f}" for layer in order[:_TOP])


def _ratio_lines(report: Report) -> list[str]:
    found = spread_of(report_scores(report, "published").values())
    if found is None:
        return ["mri_ratio: the parents have no tensor in common"]
    line = f"mri_ratio: {found.least:.4f} to {found.most:.4f}, mean {found.mean:.4f}"
    if found.warning:
        return [line, found.warning]
    ratios = layer_ratios(report)
    order = sorted(range(len(ratios)), key=lambda layer: -abs(ratios[layer] - 0.5))
    told = ", ".join(
        f"{layer} ({'Mother' if ratios[layer] > 0.5 else 'Father'},"
        f" {ratios[layer]:.3f})"
        for layer in order[:5]
    )
    if not told:
        return [line]
    return [line, f"The parents differ most at layers {told}."]


def _gain_lines(report: Report) -> list[str]:
    lines = [
        "First-order gain over the base, nats a token (positive: the task vector helps)"
    ]
    for name in report.settings.probes:
        left = math.fsum(report.father.gain.get(name, {}).values())
        right = math.fsum(report.mother.gain.get(name, {}).values())
        better = "Father" if left > right else "Mother"
        lines.append(
            f"  {name:<12} Father {left:+.4f}   Mother {right:+.4f}   {better}"
        )
    return lines
