"""What all commands share: -v and --quiet."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def verbosity(command: Command) -> Command:
    """Add -v/--verbose (may be repeated) and --quiet to a command.

    They arrive as `verbose: int` and `quiet: bool`, for setup_logging.
    """
    command = click.option(
        "--quiet", is_flag=True, help="Only errors; no progress bar."
    )(command)
    return click.option(
        "-v", "--verbose", count=True, help="Say more; twice for debugging."
    )(command)


def setup_logging(verbose: int, quiet: bool) -> None:
    """Send log messages to stderr: warnings, with -v information, with -vv all.

    Other libraries' messages show from -vv on, and their warnings from -v on.
    """
    levels = (logging.WARNING, logging.INFO, logging.DEBUG)
    ours = logging.ERROR if quiet else levels[min(verbose, 2)]
    theirs = (logging.ERROR, logging.WARNING, logging.DEBUG)[min(verbose, 2)]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logging.basicConfig(level=theirs, handlers=[handler], force=True)
    logging.getLogger("mergekit_darwin").setLevel(ours)
    logging.getLogger("mergekit").setLevel(theirs)
