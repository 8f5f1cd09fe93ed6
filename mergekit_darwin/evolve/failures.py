"""Whose fault a failed measurement is: the genome's, or the world's."""

from __future__ import annotations

from collections.abc import Iterator

from mergekit_darwin.errors import DarwinError

# Of exceptions that carry no type of their own: torch's, CUDA's, file systems'.
_WORDS = (
    "out of memory",
    "can't allocate",
    "cuda",
    "cudnn",
    "nccl",
    "hip error",
    "no space left",
    "disk quota",
    "too many open files",
    "failed writing file",
    "tokenizer",
)
_UNCHANGED = "a merge must change something"  # darwin_v6 of a genome that moved nothing


def not_the_genome(error: BaseException) -> bool:
    """Return whether an error came from the machine or the files, whatever the genome.

    Disk, memory, devices, missing packages, unreadable files, and all that this package
    refuses in a sentence of its own. What is left (a score that is not a number, a
    method that cannot do with these models) is the candidate's.
    """
    from safetensors import SafetensorError

    outside = (DarwinError, OSError, MemoryError, ImportError, EOFError)
    for found in _chain(error):
        said = f"{type(found).__name__} {found}".lower()
        if _UNCHANGED in said:
            return False
        if isinstance(found, (*outside, SafetensorError)):
            return True
        if any(word in said for word in _WORDS):
            return True
    return False


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it was raised from."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        hidden = seen.__suppress_context__
        seen = seen.__cause__ or (None if hidden else seen.__context__)
