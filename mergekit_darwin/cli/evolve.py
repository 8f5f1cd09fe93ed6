"""mergekit-darwin-evolve: breed a child of two models, from a YAML, resumable."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import click

from mergekit_darwin.evolve.options import RunOptions
from mergekit_darwin.talk import INTERRUPTED, options_of, setup_logging, verbosity

_BAD_HEALTH = 3
_OURS = (  # what is not an option of the run itself
    *("storage_path", "check", "init", "base", "items", "out"),
)


@click.command("mergekit-darwin-evolve")
@click.argument("words", metavar="EVOLVE.yml", nargs=-1)
@click.option(
    "--storage-path",
    type=click.Path(file_okay=False),
    help="Folder of the run: log, report, final model. Given again, the run goes on.",
)
@click.option(
    "--check",
    is_flag=True,
    help="Only try the config: check all, score the Father, say how long it will take.",
)
@click.option(
    "--init",
    is_flag=True,
    help="Write an EVOLVE.yml for two models: --init FATHER MOTHER [--base B].",
)
@click.option("--base", help="With --init: the parents' common ancestor.")
@click.option(
    "--items",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False),
    help="With --init: a JSONL of prompt and completion, or question, choices and"
    " answer; one task each.",
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False),
    default="EVOLVE.yml",
    show_default=True,
    help="With --init: the file to write; task files go beside it.",
)
@options_of(RunOptions)
@verbosity
def main(words: tuple[str, ...], verbose: int, quiet: bool, **options: Any) -> None:
    """Breed a child of two models: scan, search, merge, check, and compare.

    EVOLVE.yml names the parents, their base and the lm-evaluation-harness tasks. What
    is found lies in the storage path: report.md, best.yml, final_model/ and the log of
    every evaluation. Started again with the same arguments, a run that was stopped
    goes on where it was. Exit code 3: finished, but the child is unhealthy.
    """
    _speak(verbose, quiet)
    given = {name: options.pop(name) for name in _OURS}
    options["quiet"] = quiet
    if given["init"]:
        sys.exit(_init(words, given))
    if len(words) != 1:
        raise click.UsageError("One EVOLVE.yml is needed; --init writes one.")
    if not Path(words[0]).exists():
        raise click.UsageError(f"There is no {words[0]}; --init writes one.")
    if not given["check"] and not given["storage_path"]:
        raise click.UsageError("--storage-path is needed; --check goes without.")
    sys.exit(_run(words[0], given, options))


def _init(words: tuple[str, ...], given: dict[str, Any]) -> int:
    from mergekit_darwin.api.breeding import start_breeding

    if len(words) != 2:
        raise click.UsageError("--init takes two models: --init FATHER MOTHER.")
    written = start_breeding(given["out"], *words, given["base"], given["items"])
    for path in written:
        click.echo(path.as_posix())
    return 0


def _speak(verbose: int, quiet: bool) -> None:
    """Set up logging; the console keeps its level while log.txt gets everything."""
    import logging

    setup_logging(verbose, quiet)
    level = logging.getLogger("mergekit_darwin").level
    for handler in logging.getLogger().handlers:
        handler.setLevel(level)


def _run(path: str, given: dict[str, Any], options: dict[str, Any]) -> int:
    from mergekit_darwin.api.breeding import breed, check_breeding
    from mergekit_darwin.evolve.record import Interrupted

    if given["check"]:
        for line in check_breeding(path, **options):
            click.echo(line)
        return 0
    try:
        finished = breed(path, given["storage_path"], **options)
    except (Interrupted, KeyboardInterrupt):
        command = shlex.join(["mergekit-darwin-evolve", *sys.argv[1:]])
        click.echo(
            f"Stopped; everything measured is written down. Go on with:\n  {command}",
            err=True,
        )
        return INTERRUPTED
    click.echo((finished.folder / "report.md").as_posix())
    bad = finished.health is not None and finished.health.verdict == "unhealthy"
    return _BAD_HEALTH if bad else 0


if __name__ == "__main__":
    main()
