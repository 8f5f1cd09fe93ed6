"""What no public way of mergekit 0.1.5 brings: a run's configuration and its folder.

A merge method is told neither. While a parameter is checked, both stand in the frames
of the functions that are planning, so they are read there. Where this finds nothing
(another mergekit), merges go on with the same bytes, but typos among the parameters
pass, parents are not compared before the merge, and darwin_ratios.csv is not written:
tests/merge/test_frames.py.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any

_REACH = 24  # how far up the planner may stand from a parameter's check


@dataclass(frozen=True)
class Planning:
    """A run that mergekit is planning.

    config is its MergeConfiguration (or that of mergekit-pytorch), out_path the folder
    it will write, None for a mere plan; planner is None for mergekit-pytorch; source is
    the YAML as it was written, where mergekit was given it.
    """

    config: Any
    out_path: str | None
    planner: Any = None
    source: str | None = None


def planning() -> Planning | None:
    """Return what is being planned above the caller, None if nothing is."""
    for frame in _callers():
        owner: Any = frame.f_locals.get("self")
        if type(owner).__name__ == "MergePlanner":
            run = _running(frame)
            out_path, source = run.get("out_path"), run.get("config_source")
            return Planning(owner.config, out_path, owner, source)
        if frame.f_code.co_name == "plan_flat_merge":
            return Planning(frame.f_locals["config"], frame.f_locals["out_path"])
    return None


def _callers() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(2)
    for _ in range(_REACH):
        if frame is None:
            return
        yield frame
        frame = frame.f_back


def _running(frame: FrameType | None) -> Mapping[str, Any]:
    """Return the locals of a run_merge in progress, none of them for a mere plan."""
    while frame is not None and frame.f_back is not None:
        caller = frame.f_back
        if frame.f_code.co_name == "plan_to_disk":
            return caller.f_locals if caller.f_code.co_name == "run_merge" else {}
        frame = caller
    return {}
