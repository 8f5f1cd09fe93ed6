"""Which mergekit we are a guest of."""

from __future__ import annotations

import re
from importlib.metadata import version

from mergekit_darwin.errors import DarwinError

SUPPORTED = ((0, 1, 5), (0, 2))  # from, up to but not including


def check_mergekit() -> None:
    """Refuse a mergekit of another version than we support. Raises DarwinError."""
    found = version("mergekit")
    numbers = tuple(int(part) for part in re.findall(r"\d+", found)[:3])
    if not SUPPORTED[0] <= numbers < SUPPORTED[1]:
        raise DarwinError(
            f"mergekit-darwin needs mergekit >=0.1.5,<0.2; found {found}."
            " Install a supported version: pip install 'mergekit>=0.1.5,<0.2'."
        )
