"""What no public way of mergekit 0.1.5 brings: a run's configuration and its folder.

A merge method is told neither. While a parameter is checked, both stand in the frames
of the functions that are planning, so they are read there. Where this finds nothing
(another mergekit), merges go on with the same bytes, but typos among the parameters
pass, parents are not compared before the merge, and darwin_ratios.csv is not written:
tests/merge/test_frames.py.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

_REACH = 24  # how far up the planner may stand from a parameter's check


@dataclass(frozen=True)
class Planning:
    """A run that mergekit is planning.

    config is its MergeConfiguration (or that of mergekit-pytorch), out_path the folder
    it will write, None for a mere plan; planner is None for mergekit-pytorch.
    """

    config: Any
    out_path: str | None
    planner: Any = None


def planning() -> Planning | None:
    """Return what is being planned above the caller, None if nothing is."""
    for frame in _callers():
        owner: Any = frame.f_locals.get("self")
        if type(owner).__name__ == "MergePlanner":
            return Planning(owner.config, _out_path(frame), owner)
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


def _out_path(frame: FrameType | None) -> str | None:
    """Return the folder a run_merge in progress will write, None for a mere plan."""
    while frame is not None and frame.f_back is not None:
        caller = frame.f_back
        if frame.f_code.co_name == "plan_to_disk":
            running = caller.f_code.co_name == "run_merge"
            return frame.f_locals.get("out_path") if running else None
        frame = caller
    return None
