"""The tensor-wise parameter provider: from a tensor's name to its Prescription.

The merge, mergekit-darwin-ratios, the export for other methods and every operator ask
here, and nowhere else, what a tensor's ratio and route are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mergekit_darwin.kernel.profile import Profile
from mergekit_darwin.merge.settings import MergeSettings
from mergekit_darwin.models.names import site_of
from mergekit_darwin.ratios.rules import Prescription, Route, prescribe
from mergekit_darwin.ratios.scores import published_scores

Profiles = Callable[[], tuple[Profile, Profile]]  # the Father's, the Mother's


def prescription(
    name: str,
    settings: MergeSettings,
    depths: Mapping[str, int],
    profiles: Profiles,
) -> Prescription:
    """Return what the merge does with a tensor that both parents have.

    settings are the tensor's own, after mergekit's filters; depths has the number of
    layers of the run's stacks. profiles is called where needs_weights says so.
    """
    scores = None
    if needs_weights(name, settings):
        scores = published_scores(*profiles())
    elif settings.mds is not None:
        scores = settings.mds.scores(settings.mri).get(name)
    return prescribe(
        site_of(name),
        settings.genome,
        depth=depth_of(name, settings, depths),
        scores=scores,
        explicit=explicit_ratio(name, settings),
        routing=settings.routing,
    )


def lone_prescription(name: str, *, mother: bool) -> Prescription:
    """Return what the merge does with a tensor that one parent lacks: the other's."""
    route: Route = "mother" if mother else "father"
    return Prescription(site_of(name), None, None, None, float(mother), route)


def needs_weights(name: str, settings: MergeSettings) -> bool:
    """Return whether a tensor's ratio rests on its weights, no report knowing it."""
    given = explicit_ratio(name, settings) is not None
    if given or settings.genome["mri_trust"] == 0.0:
        return False
    return settings.mds is None or name not in settings.mds.scores(settings.mri)


def explicit_ratio(name: str, settings: MergeSettings) -> float | None:
    """Return the ratio that the user gave a tensor: `ratio`, else that in `ratios`."""
    if settings.ratio is None and settings.ratios is not None:
        return settings.ratios.ratios.get(name)
    return settings.ratio


def depth_of(
    name: str, settings: MergeSettings, depths: Mapping[str, int]
) -> int | None:
    """Return the number of layers of a tensor's stack, None outside or if unknown."""
    stack = site_of(name).stack
    if stack is None:
        return None
    if settings.layers is not None:
        return settings.layers
    if stack in depths:
        return depths[stack]
    return settings.mds.depths.get(stack) if settings.mds else None
