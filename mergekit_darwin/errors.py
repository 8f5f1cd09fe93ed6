"""The one exception a user can repair, and how its sentence is made."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

import click


class DarwinError(click.ClickException):
    """A fault the user can repair: what must hold, where, what was found, what to do.

    It is a click exception, so that every click program, the unmodified
    mergekit-yaml among them, prints it as one line and exits with 1.
    """

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[type[DarwinError], tuple[str]]:
        """Survive pickling between processes."""
        return (type(self), (self.message,))


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a hint such as " Did you mean 'attn_ratio'?", or "" if nothing is near."""
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" Did you mean {matches[0]!r}?" if matches else ""


def some(names: Iterable[str], most: int = 5) -> str:
    """Return the first names as one phrase, with the count of those left out."""
    listed = list(names)
    head = ", ".join(repr(name) for name in listed[:most])
    rest = len(listed) - most
    return f"{head} and {rest} more" if rest > 0 else head


def reason(error: BaseException, most: int = 400) -> str:
    """Return what a foreign error says as one line of at most `most` characters."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= most else f"{words[: most - 3]}..."
