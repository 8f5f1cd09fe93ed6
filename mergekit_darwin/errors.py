"""The one exception a user can repair, how its sentence is made, and foreign errors.

Whatever another library raises becomes one line at the border that knows which file or
option it came from (`about`), or at the latest around a command (talk.verbosity).
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click


class DarwinError(click.ClickException):
    """A fault the user can repair: what must hold, where, what was found, what to do.

    It is a click exception, so that every click program, the unmodified
    mergekit-yaml among them, prints it as one line and exits with 1.
    """

    def __init__(self, message: str) -> None:
        super().__init__(plain(message))

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[type[DarwinError], tuple[str, ...]]:
        """Survive pickling between processes."""
        return (type(self), (self.message,))


class Unchanged(DarwinError):
    """A merge that gave one of its parents back, bit for bit: "father" or "mother"."""

    def __init__(self, message: str, parent: str = "") -> None:
        super().__init__(message)
        self.parent = parent

    def __reduce__(self) -> tuple[type[DarwinError], tuple[str, ...]]:
        """Survive pickling between processes."""
        return (type(self), (self.message, self.parent))


def nearest(word: str, known: Iterable[str], cutoff: float = 0.5) -> str:
    """Return a hint such as " Did you mean 'attn_ratio'?", or "" if nothing is near."""
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)
    return f" Did you mean {matches[0]!r}?" if matches else ""


def refuse_unknown(
    given: Iterable[str], known: Iterable[str], lack: str = "There is no option"
) -> None:
    """Refuse the first name that is not a known one: lack, and the name.

    Raises DarwinError.
    """
    names = list(known)
    for name in given:
        if name not in names:
            raise DarwinError(
                f"{lack} {name!r}.{nearest(name, names)} Known: {', '.join(names)}."
            )


def some(names: Iterable[str], most: int = 5) -> str:
    """Return the first names as one phrase, with the count of those left out."""
    listed = list(names)
    head = ", ".join(repr(name) for name in listed[:most])
    rest = len(listed) - most
    return f"{head} and {rest} more" if rest > 0 else head


def plain(text: str) -> str:
    """Return text as one line that any terminal shows: no controls, no odd bytes."""
    line = " ".join(text.split())
    return "".join(sign if sign.isprintable() else "?" for sign in line)


def printable(text: str) -> str:
    """Return text of several lines that any terminal shows and none obeys."""
    return "".join(sign if sign.isprintable() or sign == "\n" else "?" for sign in text)


_MARKS = {ord(mark): to for mark, to in zip("`<>[]|*$", "'‹›()/∗＄", strict=True)}


def quoted(words: object, most: int = 80) -> str:
    """Return foreign words as one short line without marks that a page would obey."""
    text = "".join(c if c.isprintable() else " " for c in str(words))
    text = " ".join(text.translate(_MARKS).replace("://", ": //").split())
    return text if len(text) <= most else text[: most - 3] + "..."


def shown(model: str) -> str:
    """Return a model as a card should name it: a path by its last two parts."""
    if not os.path.isabs(model):
        return model
    return "/".join(Path(model).parts[-2:])


def reason(error: BaseException, most: int = 300) -> str:
    """Return what an error says as a phrase of one line, at most `most` characters.

    The kinds that say too little or too much by themselves are put into words: the
    system's (with the file), JSON, YAML, pydantic, recursion, memory, keys.
    """
    words = plain(_words(error)).rstrip(".")
    return words if len(words) <= most else f"{words[: most - 3]}..."


def _words(error: BaseException) -> str:
    kinds = {kind.__name__ for kind in type(error).__mro__}
    name, text = type(error).__name__, str(error)
    if isinstance(error, click.ClickException):
        return error.message
    if isinstance(error, OSError) and error.strerror:
        place = f": {error.filename}" if error.filename is not None else ""
        return f"{error.strerror}{place}"
    if isinstance(error, json.JSONDecodeError):
        return f"no JSON: {error.msg} in line {error.lineno}, column {error.colno}"
    if isinstance(error, UnicodeError):
        return f"no UTF-8 text: {text}"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, MemoryError) or "OutOfMemoryError" in kinds:
        return f"out of memory {text}"
    if isinstance(error, KeyError):
        return f"the key {text} is missing"
    if "YAMLError" in kinds:
        return f"no YAML: {text}"
    if "ValidationError" in kinds and hasattr(error, "errors"):  # pydantic's
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        return f"{place}: {first['msg'].removeprefix('Value error, ')}"
    if isinstance(error, (ValueError, RuntimeError, OSError)) and text:
        return text  # raised to be read
    return f"{name}: {text}" if text else name


@contextmanager
def about(what: str, advice: str = "") -> Iterator[None]:
    """Turn any foreign error into `what` could not be done, its reason, the advice.

    Raises DarwinError; our own errors and those of the command line pass as they are.
    """
    try:
        yield
    except click.ClickException:
        raise
    except Exception as error:
        hint = f" {advice}" if advice else ""
        raise DarwinError(f"{what} ({reason(error)}).{hint}") from error
