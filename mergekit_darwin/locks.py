"""One process at a time: in a folder, or at a place where something is being written.

The locks are the kernel's: a killed process holds none. Where a file system has none,
nobody else is known of.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from weakref import WeakValueDictionary

from mergekit_darwin.errors import DarwinError, about


@contextmanager
def locked(folder: Path, option: str) -> Iterator[None]:
    """Hold a folder for this process; option is what another folder is named by.

    Its file `lock` says who. Raises DarwinError if another process has it.
    """
    with regular(folder / "lock").open("a+") as stream:
        if not _alone(stream.fileno()):
            stream.seek(0)
            holder = stream.read().strip() or "unknown"
            raise DarwinError(
                f"{folder} is in use by another run (process {holder}). Wait for it,"
                f" or choose another {option}."
            )
        stream.seek(0)
        stream.truncate()
        stream.write(str(os.getpid()))
        stream.flush()
        yield


def regular(path: Path) -> Path:
    """Return a path at which a regular file or nothing is. Raises DarwinError."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise DarwinError(
            f"{path} must be a regular file, as a run writes it; take away what is"
            " there."
        )
    return path


_OURS: WeakValueDictionary[str, Hold] = WeakValueDictionary()


class Hold:
    """A folder held without a file in it, until it is let go or forgotten.

    Within a process a later one takes it over: an earlier one can only be left of
    what failed.
    """

    def __init__(self, folder: Path, option: str) -> None:
        """Make the folder if need be; option is what another one is named by.

        Raises DarwinError if another process has it.
        """
        self._handle: int | None = None
        self._folder, self._made = folder.resolve(), not folder.exists()
        earlier = _OURS.get(str(self._folder))
        if earlier is not None:
            earlier.let_go()
        with about(f"{folder} must be a folder that can be written"):
            folder.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(folder, os.O_DIRECTORY)
        if not _alone(self._handle):
            raise DarwinError(
                f"{folder} is in use by another run. Wait for it, or choose another"
                f" {option}."
            )
        _OURS[str(self._folder)] = self

    def let_go(self) -> None:
        """Let others have it, a folder made in vain gone; harmless when repeated."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
            if self._made:
                with suppress(OSError):  # it is not empty
                    self._folder.rmdir()

    close = __del__ = let_go


@contextmanager
def beside(path: Path, *, folder: bool = False) -> Iterator[Path]:
    """Give a file, or a folder, `.NAME.part` beside path, for this process alone.

    It is gone afterwards, unless it was renamed. What a killed process left there is
    taken over: nobody holds it. Raises DarwinError while another process writes path.
    """
    aside = path.with_name(f".{path.name}.part")
    if folder:
        aside.mkdir(exist_ok=True)
    kind = os.O_DIRECTORY if folder else os.O_CREAT | os.O_RDWR
    handle = os.open(aside, kind | os.O_NOFOLLOW, 0o666)
    try:
        if not _alone(handle) or not _stands(handle, aside):
            raise DarwinError(
                f"{path} is in use: another process is writing it. Wait for it, or name"
                " another place."
            )
        _empty(aside)
        try:
            yield aside
        finally:
            if _stands(handle, aside):
                _empty(aside)
                aside.rmdir() if folder else aside.unlink()
    finally:
        os.close(handle)


def _alone(handle: int) -> bool:
    """Return whether no other process holds an open file; this one holds it then."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # no locks on this file system
        return True
    return True


def _stands(handle: int, path: Path) -> bool:
    """Return whether an open file is what stands at a path, not renamed since."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(handle), os.stat(path))
    return False


def _empty(place: Path) -> None:
    """Take away what is in a folder or a file."""
    if not place.is_dir():
        os.truncate(place, 0)
        return
    for inside in place.iterdir():
        if inside.is_dir() and not inside.is_symlink():
            shutil.rmtree(inside)
        else:
            inside.unlink()
