"""What all commands say and ask alike: options, log, progress, other tools' voices."""

from __future__ import annotations

import errno
import functools
import io
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar, cast

import click
from tqdm import tqdm

from mergekit_darwin.errors import DarwinError, reason

Command = TypeVar("Command", bound=Callable[..., Any])
Progress = Callable[[int, int], None]  # called with (done, total)
DTYPES = ("float32", "bfloat16", "float16", "float64")
INTERRUPTED = 130  # what shells give for a process that Ctrl-C ended
_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
_EXTRAS = {"lm_eval": "evolve", "plotly": "page", "ray": "ray", "wandb": "wandb"}
_ROOM = (errno.ENOSPC, errno.EDQUOT)


def verbosity(command: Command) -> Command:
    """Add -v/--verbose (may be repeated) and --quiet to a command, and plain errors.

    They arrive as `verbose: int` and `quiet: bool`, for setup_logging. Whatever the
    command raises ends as one line and exit code 1, Ctrl-C as a word and 130; with -v
    the traceback stands above the line.
    """
    command = _in_one_line(command)
    command = click.option(
        "--quiet", is_flag=True, help="Only errors; no progress bar."
    )(command)
    return click.option(
        "-v", "--verbose", count=True, help="Say more; twice for debugging."
    )(command)


def _in_one_line(command: Command) -> Command:
    @functools.wraps(command)
    def run(*args: Any, verbose: int, **rest: Any) -> Any:
        try:
            return command(*args, verbose=verbose, **rest)
        except KeyboardInterrupt:
            click.echo("Stopped by Ctrl-C; what was finished is kept.", err=True)
            raise SystemExit(INTERRUPTED) from None
        except click.exceptions.Exit:
            raise
        except Exception as error:
            if verbose:
                traceback.print_exc()
            if isinstance(error, click.ClickException) or _closed_pipe(error):
                raise
            raise DarwinError(_last_word(error)) from error

    return cast(Command, run)


def _closed_pipe(error: Exception) -> bool:
    """Return whether stdout's reader went away, which click ends without a word."""
    return isinstance(error, OSError) and error.errno == errno.EPIPE


def _last_word(error: Exception) -> str:
    """Return the line of an error that no border before could say more about."""
    if isinstance(error, OSError) and error.errno in _ROOM:
        return (
            f"There must be room to write ({reason(error)}). Free some and run the same"
            " command again."
        )
    if isinstance(error, ModuleNotFoundError):
        package = str(error.name).partition(".")[0]
        if package in _EXTRAS:
            extra = f"mergekit-darwin[{_EXTRAS[package]}]"
            return f"This needs {package}; install it: pip install '{extra}'."
    if isinstance(error, (OSError, MemoryError, RecursionError)):
        return f"This could not be finished ({reason(error)})."
    kind, words = type(error).__name__, reason(error)
    said = words if words.startswith(kind) else f"{kind}: {words}"
    return f"This could not be finished ({said}). Run it again with -v to see where."


def asked(default: Any, help: str, **given: Any) -> Any:
    """Return a dataclass's field that commands ask for too; given is click.option's.

    A switch given `off` can be switched off as well.
    """
    return field(default=default, metadata={"help": help, **given})


def options_of(kind: Any, *names: str, **defaults: Any) -> Callable[[Command], Command]:
    """Add what a dataclass declares by `asked` as options, all of it or these names.

    defaults stand in place of the class's own.
    """

    def add(command: Command) -> Command:
        for row in reversed(fields(kind)):
            if row.metadata and (not names or row.name in names):
                given = {"default": defaults.get(row.name, row.default), **row.metadata}
                words = row.name.replace("_", "-")
                off = f"/--no-{words}" if given.pop("off", False) else ""
                if isinstance(row.default, bool) and not off:
                    given["is_flag"] = True
                command = click.option(f"--{words}{off}", show_default=True, **given)(
                    command
                )
        return command

    return add


@dataclass(frozen=True)
class ProbeOptions:
    """How models are opened and run.

    max_tokens bounds one text, batch_size counts texts. stream holds one layer's
    weights at a time (and embedding and head). LOADING are mergekit's of these names.
    """

    device: str = asked("cpu", "Where models run.")
    dtype: str = asked(
        "float32", "Precision in which models run.", type=click.Choice(DTYPES)
    )
    stream: bool = asked(False, "Hold one layer at a time, from disk.")
    max_tokens: int = asked(
        256, "Most tokens taken of one text.", type=click.IntRange(2)
    )
    batch_size: int = asked(8, "Texts run together.", type=click.IntRange(1))
    trust_remote_code: bool = asked(False, "Run code of the models.")
    transformers_cache: str | None = asked(None, "Where downloaded models are kept.")
    lora_merge_cache: str | None = asked(None, "Where merged LoRA models are kept.")


LOADING = ("trust_remote_code", "transformers_cache", "lora_merge_cache")


paged = click.option(
    "--page",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.html",
    help="Also write one HTML file to look at, with the numbers in it.",
)


def chosen_probes(command: Command) -> Command:
    """Add --probes and --no-probes; they arrive as `probes`, () for none of them."""

    @click.option(
        "--probes",
        type=click.Path(exists=True, file_okay=False),
        help="Folder of .jsonl or .txt files, one a probe, instead of ours.",
    )
    @click.option(
        "--no-probes", is_flag=True, help="Weights and files only; runs no model."
    )
    @functools.wraps(command)
    def run(*args: Any, probes: str | None, no_probes: bool, **rest: Any) -> Any:
        return command(*args, probes=() if no_probes else probes, **rest)

    return cast(Command, run)


def setup_logging(verbose: int, quiet: bool) -> None:
    """Send log messages to stderr: warnings, with -v information, with -vv all.

    Other libraries' messages show from -vv on, and their warnings from -v on.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # no character stops a command
        sys.stdout.reconfigure(errors="backslashreplace")
    levels = (logging.WARNING, logging.INFO, logging.DEBUG)
    ours = logging.ERROR if quiet else levels[min(verbose, 2)]
    theirs = (logging.ERROR, logging.WARNING, logging.DEBUG)[min(verbose, 2)]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logging.basicConfig(level=theirs, handlers=[handler], force=True)
    logging.getLogger("mergekit_darwin").setLevel(ours)
    logging.getLogger("mergekit").setLevel(theirs)
    logging.getLogger("mergekit_darwin").info(
        "Threads that wait for others: %s.", _let_threads_sleep()
    )


def _let_threads_sleep() -> str:
    """Have OpenMP's threads sleep while they wait, unless the user chose; say which.

    By default they spin, which beside another process on the same cores multiplies
    every small operation's time. It counts only where torch is not loaded yet.
    """
    chosen = next((name for name in _WAITING if name in os.environ), None)
    if chosen is None and "torch" not in sys.modules:
        chosen = _WAITING[0]
        os.environ[chosen] = "passive"
    return f"{chosen}={os.environ[chosen]}" if chosen else "as OpenMP has it"


@contextmanager
def bar(words: str, shown: bool) -> Iterator[Progress]:
    """Show progress on stderr; give what is to be called with (done, total)."""
    with tqdm(desc=words, disable=not shown, leave=False) as line:

        def advance(done: int, total: int) -> None:
            line.total = total
            line.update(done - line.n)

        yield advance


@contextmanager
def silent(*loggers: str) -> Iterator[None]:
    """Let these loggers say nothing but errors for a moment; transformers draw no bars.

    For what another library tells its own users, at a place where ours asked nothing.
    """
    before = {name: logging.getLogger(name).level for name in loggers}
    theirs = sys.modules.get("transformers.utils.logging")
    shown = theirs is not None and theirs.is_progress_bar_enabled()
    for name in loggers:
        logging.getLogger(name).setLevel(logging.ERROR)
    if theirs is not None:
        theirs.disable_progress_bar()
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
        if theirs is not None and shown:
            theirs.enable_progress_bar()


def versions(*tools: str) -> dict[str, str]:
    """Return the installed versions of ours and of these distributions."""
    found = {}
    for tool in ("mergekit-darwin", *tools):
        with suppress(metadata.PackageNotFoundError):
            found[tool] = metadata.version(tool)
    return found
