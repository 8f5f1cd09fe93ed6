"""Run one row of the matrix in this process, within bounds of time, and judge it."""

from __future__ import annotations

import importlib
import re
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import Any

from click.testing import CliRunner, Result

from tests.trust import stage
from tests.trust.matrix import RESULTS, Row


class TooLong(BaseException):
    """The command did not end in time."""


def play(row: Row, folder: Path) -> list[str]:
    """Return what is wrong with the way a row ends on a fresh stage; [] if nothing."""
    row.harm(folder)
    before = stage.state(folder)
    words = [word.format(S=folder) for word in row.command.split()]
    try:
        with _limit(row.seconds):
            done = invoke(words)
    except TooLong:
        return [f"it did not end within {row.seconds} s"]
    return [*judged(row, done), *_touched(row, before, stage.state(folder))]


def invoke(words: list[str]) -> Result:
    """Return how a command ended that was given these words."""
    command = _main(words[0])
    before = list(sys.argv)
    sys.argv[:] = words
    try:
        return CliRunner().invoke(command, words[1:], prog_name=words[0])
    finally:
        sys.argv[:] = before


def _main(name: str) -> Any:
    """Return the click command of a console script of ours, or of mergekit's."""
    if name.startswith("mergekit-darwin-"):
        module = importlib.import_module(
            f"mergekit_darwin.cli.{name.removeprefix('mergekit-darwin-')}"
        )
        return module.main
    (found,) = metadata.entry_points(group="console_scripts", name=name)
    return found.load()


@contextmanager
def _limit(seconds: int) -> Iterator[None]:
    def over(number: int, frame: FrameType | None) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, over)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def judged(row: Row, done: Result) -> list[str]:
    """Return how a result differs from what its row says."""
    error = done.exception
    if error is not None and not isinstance(error, SystemExit):
        return _traceback(row, error)
    if done.exit_code != row.code:
        return [f"exit code {done.exit_code}, not {row.code}: {done.stderr[-300:]}"]
    if row.code in (0, 3):
        return []
    lines = done.stderr.strip().splitlines()
    wrong = []
    if row.code == 1 and not re.match(r"Error: |stops ", lines[-1] if lines else ""):
        wrong.append(f"the last line is no error: {lines[-3:]}")
    if sum(line.startswith("Error: ") for line in lines) > 1:
        wrong.append(f"more than one line: {lines}")
    said = " ".join(lines[-1:] if row.code == 1 else lines)
    missing = [word for word in row.words if word not in said]
    if missing:
        wrong.append(f"it does not say {missing}: {said}")
    return wrong


def _traceback(row: Row, error: BaseException) -> list[str]:
    """Return a traceback's end, unless it is mergekit's own, through none of ours."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/mergekit_darwin/" in frame.filename]
    if row.command.startswith("mergekit-yaml") and not ours:
        return []
    place = ours[-1] if ours else frames[-1]
    where = "/".join(Path(place.filename).parts[-2:])
    said = str(error)[:200]
    return [f"traceback: {type(error).__name__} at {where}:{place.lineno}: {said}"]


def _touched(row: Row, before: dict[str, str], now: dict[str, str]) -> list[str]:
    """Return what was on the disk and is not any more, and results of a refusal."""
    wrong = [
        f"{name} was {'changed' if name in now else 'removed'}"
        for name, content in before.items()
        if now.get(name) != content
    ]
    new = [name for name in now if name not in before]
    if row.code in (1, 2):
        wrong += [f"{name} appeared" for name in new if name.endswith(RESULTS)]
    return wrong + [f"{name} was executed" for name in new if "EXECUTED" in name]
