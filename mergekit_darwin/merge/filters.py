"""One value a tensor, as mergekit's parameter filters can say it.

A filter is a substring of names, and the first that matches wins. So a name's own
filter may stand only behind those of the longer names that contain it: the longest
come first, as a proper substring is shorter than what it lies in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal, get_args

Method = Literal["slerp", "nuslerp", "linear", "ties", "dare_ties"]
METHODS: tuple[Method, ...] = get_args(Method)
Setting = float | list[dict[str, Any]]


def filtered(values: Mapping[str, float]) -> Setting:
    """Return the shortest setting that gives every name exactly its value.

    One number if all agree; else a list of filters, longest names first, closed by the
    commonest value. A name of that value keeps a filter of its own only if another's
    filter would catch it.
    """
    if not values:
        raise ValueError("no tensors to filter")
    (common, _), *rest = Counter(values.values()).most_common()
    if not rest:
        return common
    apart = [name for name, value in values.items() if value != common]
    caught = _containing(apart, values)
    listed = sorted({*apart, *caught}, key=lambda name: (-len(name), name))
    entries = [{"filter": name, "value": values[name]} for name in listed]
    return [*entries, {"value": common}]


def _containing(parts: list[str], names: Mapping[str, float]) -> set[str]:
    """Return the names that contain one of the parts and are not that part."""
    text = "\n".join(names)
    inside = [part for part in parts if text.count(part) > 1]
    return {name for part in inside for name in names if part in name and part != name}
