"""What all pictures share: one palette, one kind of figure, one way to the disk."""

from __future__ import annotations

import warnings
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.text import Text

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.files import whole

FATHER, MOTHER, CHILD, OTHER = "#1f5fa8", "#b8322a", "#222222", "#8a8a8a"
ROLES = {"father": FATHER, "mother": MOTHER, "child": CHILD}
NOTE, WARNING, ERROR, SOUND = "#999999", "#e69f00", "#cc0033", "#007a5a"
PARENTS = (FATHER, "#8fb5d9", "#f4f3ee", "#e8a48a", MOTHER)  # by way of neither
PARENTS_MAP: Colormap = LinearSegmentedColormap.from_list("parents", PARENTS)
_DPI = 130


def figure(width: float, height: float) -> Figure:
    """Return an empty figure of this size in inches, laid out by constraints."""
    made = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(made)
    return made


def check_picture(path: Path) -> str:
    """Return the format that a picture's name asks for.

    Raises DarwinError if matplotlib cannot write it.
    """
    known = Figure().canvas.get_supported_filetypes()
    kind = path.suffix.removeprefix(".").lower()
    if kind not in known:
        raise DarwinError(
            f"A picture's name must end in one of .{', .'.join(sorted(known))};"
            f" got {path.name!r}."
        )
    return kind


def save(made: Figure, path: Path) -> None:
    """Write a figure whole or not at all, in the format its name asks for.

    The same figure gives the same bytes; words are shown as they are, no mathematics
    in them. Raises DarwinError for an unknown format.
    """
    kind = check_picture(path)
    unsigned = {"png": "Software", "svg": "Date", "pdf": "CreationDate"}
    metadata = {unsigned[kind]: None} if kind in unsigned else None
    for words in made.findobj(Text):
        words.set_parse_math(False)
    with whole(path) as aside, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
        made.savefig(aside, dpi=_DPI, format=kind, metadata=metadata)


def plain(text: str) -> str:
    """Return text that matplotlib shows: without odd bytes."""
    return text.encode("utf-8", "replace").decode("utf-8")
