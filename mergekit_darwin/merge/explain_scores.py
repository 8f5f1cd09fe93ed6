"""The diagnosis' part of an explanation: statistics, probes, mri_ratio, in numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator

from mergekit_darwin.kernel.profile import Profile, profile_tensor
from mergekit_darwin.merge.method import needs_weights
from mergekit_darwin.merge.preview import Planned, load_groups
from mergekit_darwin.models.names import site_of
from mergekit_darwin.ratios.rules import (
    PROBE_SHARE,
    STATIC_SHARE,
    Prescription,
    combined,
    over,
    relative_scales,
)
from mergekit_darwin.scan.report import Report

Pair = tuple[Profile, Profile]


def statistics_lines(tensor: Planned, row: Prescription) -> Iterator[str]:
    """Yield both parents' statistics and the static scores they make."""
    pair = _profiles(tensor)
    if pair is None:
        return
    yield from heading("static score", "0.3 entropy + 0.2 std + 0.002 min(norm, 100)")
    yield f"  {'':10}{'Father':>18}{'Mother':>18}"
    for label in ("entropy", "std", "norm", "max_abs", "zeros", "numel"):
        left, right = (getattr(profile, label) for profile in pair)
        yield f"  {label:10}{left:>18.9g}{right:>18.9g}"
    for whose, p in zip(("Father", "Mother"), pair, strict=True):
        yield (
            f"  {whose}: 0.3 * {p.entropy:.6f} + 0.2 * {p.std:.6f}"
            f" + 0.002 * {min(p.norm, 100.0):.6f} = {p.static:.8f}"
        )


def _profiles(tensor: Planned) -> Pair | None:
    """Return both profiles: from the report, or measured where there is none."""
    report = tensor.settings.report
    if needs_weights(tensor.name, tensor.settings):
        for _, group in load_groups([tensor]):
            _, father, mother = tensor.roles
            found = {entry.id: entry.tensor for entry in group.entries}
            if father in found and mother in found:
                return profile_tensor(found[father]), profile_tensor(found[mother])
        return None
    if report is None:
        return None
    left = report.report.father.tensors.get(tensor.name)
    right = report.report.mother.tensors.get(tensor.name)
    return (left.profile(), right.profile()) if left and right else None


def probe_lines(tensor: Planned, row: Prescription) -> Iterator[str]:
    """Yield the probe distances of the tensor's layer, with their weights."""
    if row.probe_father is None or row.layer is None or not tensor.settings.report:
        return
    report = tensor.settings.report.report
    yield from heading("probe score", "sum over probes of weight * cosine distance")
    yield f"  {'':12}{'weight':>8}{'Father':>14}{'Mother':>14}"
    for name in report.father.probes:
        left = report.father.probes[name][row.layer]
        right = report.mother.probes[name][row.layer]
        weight = report.settings.probes[name].weight
        yield f"  {name:12}{weight:>8.4g}{left:>14.8f}{right:>14.8f}"
    yield f"  {'sum':12}{'':8}{row.probe_father:>14.8f}{row.probe_mother:>14.8f}"


def mri_lines(tensor: Planned, row: Prescription) -> Iterator[str]:
    """Yield how the scores become mri_ratio, under the reading in use."""
    if row.mri_ratio is None:
        return
    reading = tensor.settings.mri
    if reading == "published":
        yield from _published(row)
    elif reading == "relative":
        yield from _relative(tensor, row)
    else:
        yield from _attribution(tensor, row)


def _published(row: Prescription) -> Iterator[str]:
    sides = (
        ("Father", row.static_father or 0.0, row.probe_father),
        ("Mother", row.static_mother or 0.0, row.probe_mother),
    )
    both = []
    yield from heading(
        "combined", "0.4 static + 0.6 probe; static alone without probes"
    )
    for whose, static, probe in sides:
        both.append(combined(static, probe))
        terms = f"{static:.8f}"
        if probe is not None:
            terms = f"{STATIC_SHARE} * {static:.8f} + {PROBE_SHARE} * {probe:.8f}"
        yield f"  {whose}: {terms} = {both[-1]:.8f}"
    yield from heading("mri_ratio (published)", "Mother / (Father + Mother)")
    yield (
        f"  {both[1]:.8f} / ({both[0]:.8f} + {both[1]:.8f}) = {number(row.mri_ratio)}"
    )


def _relative(tensor: Planned, row: Prescription) -> Iterator[str]:
    report = tensor.settings.report
    scales = relative_scales(report.scores("published") if report else {})
    scale = scales.static[site_of(row.name).component]
    static = (row.static_mother or 0.0) - (row.static_father or 0.0)
    z = over(static, scale)
    yield from heading("mri_ratio (relative)", "Phi(z), z = 0.4 z_static + 0.6 z_probe")
    yield (
        f"  z_static = (Mother - Father) / rms over {row.component} tensors"
        f" = {static:.8f} / {scale:.8f} = {z:.6f}"
    )
    if row.probe_father is not None:
        probe = (row.probe_mother or 0.0) - row.probe_father
        second = over(probe, scales.probe)
        yield (
            f"  z_probe = (Mother - Father) / rms over layers"
            f" = {probe:.8f} / {scales.probe:.8f} = {second:.6f}"
        )
        first, z = z, STATIC_SHARE * z + PROBE_SHARE * second
        yield (
            f"  z = {STATIC_SHARE} * {first:.6f} + {PROBE_SHARE} * {second:.6f}"
            f" = {z:.6f}"
        )
    yield f"  Phi({z:.6f}) = {number(row.mri_ratio)}"


def _attribution(tensor: Planned, row: Prescription) -> Iterator[str]:
    loaded = tensor.settings.report
    if loaded is None:
        return
    report: Report = loaded.report
    yield from heading(
        "mri_ratio (attribution)", "Mother / (Father + Mother) of the positive gains"
    )
    yield f"  {'':12}{'weight':>8}{'Father':>16}{'Mother':>16}"
    sums = [0.0, 0.0]
    for name in sorted(report.father.gain):
        weight = report.settings.probes[name].weight
        gains = [
            model.gain.get(name, {}).get(row.name, 0.0)
            for model in (report.father, report.mother)
        ]
        yield f"  {name:12}{weight:>8.4g}{gains[0]:>16.6g}{gains[1]:>16.6g}"
        sums = [
            math.fsum((total, weight * max(gain, 0.0)))
            for total, gain in zip(sums, gains, strict=True)
        ]
    yield f"  {'positive':12}{'':8}{sums[0]:>16.6g}{sums[1]:>16.6g}"
    yield (
        f"  {sums[1]:.6g} / ({sums[0]:.6g} + {sums[1]:.6g}) = {number(row.mri_ratio)}"
    )


def heading(title: str, formula: str) -> Iterator[str]:
    """Yield an empty line and a title with its formula."""
    yield ""
    yield f"{title} = {formula}"


def number(value: float | None) -> str:
    """Return six digits after the point, a dash for None."""
    return "-" if value is None else f"{value:.6f}"
