"""mergekit-darwin-health: is this merged model sound, and if not, where."""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from mergekit_darwin import talk
from mergekit_darwin.errors import printable
from mergekit_darwin.health.thresholds import Thresholds

UNHEALTHY = 3  # the exit code of a verdict that is bad
_LINES = "\n".join(
    f"  {line.name} {line.default:g}: {line.metadata['meaning']}"
    for line in fields(Thresholds)
)


def read_lines(given: tuple[str, ...]) -> dict[str, float]:
    """Return the thresholds of NAME=VALUE words; raises a usage error for others."""
    lines = {}
    for words in given:
        name, _, value = words.partition("=")
        try:
            lines[name.strip().replace("-", "_")] = float(value)
        except ValueError:
            raise click.BadParameter(
                f"{words!r} must be NAME=VALUE, VALUE a number.",
                param_hint="--threshold",
            ) from None
    return lines


@click.command(epilog=f"\b\nThresholds:\n{_LINES}")
@click.argument("child")
@click.option("--father", help="First parent; default: from the child's YAML.")
@click.option("--mother", help="Second parent; default: from the child's YAML.")
@click.option("--base", help="Common ancestor; makes the checks of weights sharper.")
@click.option(
    "--mds",
    type=click.Path(exists=True),
    help="Report of mergekit-darwin-scan: the parents are not probed again.",
)
@click.option("--out", help="Folder for health.json and health.png; default: CHILD.")
@click.option(
    "--verify",
    type=click.Choice(["sample", "all", "none"]),
    default="sample",
    show_default=True,
    help="Which tensors of a darwin_v6 child are merged again and compared.",
)
@talk.chosen_probes
@talk.options_of(talk.ProbeOptions, "device", "dtype", "stream", *talk.LOADING)
@click.option(
    "--threshold",
    "thresholds",
    metavar="NAME=VALUE",
    multiple=True,
    help="Move a line of the verdict; may be repeated. The names are below.",
)
@talk.paged
@click.option("--json", "as_json", is_flag=True, help="Write the report to stdout.")
@talk.verbosity
def main(
    child: str,
    out: str | None,
    thresholds: tuple[str, ...],
    as_json: bool,
    page: Path | None,
    verbose: int,
    quiet: bool,
    **options: Any,
) -> None:
    """Check CHILD, a merged model, against its parents, layer by layer.

    CHILD and parents are folders or names on the hub. Exit code 0: healthy or with
    warnings; 3: unhealthy. Without --out nothing is written where CHILD is no folder.
    """
    lines = read_lines(thresholds)
    talk.setup_logging(verbose, quiet)
    from mergekit_darwin.api.merging import check_health
    from mergekit_darwin.health.report import health_json, health_text

    if out is None and Path(child).is_dir():
        out = child
    health = check_health(
        child,
        out=out,
        thresholds=lines,
        progress=not quiet,
        **options,
    )
    if page is not None:
        from mergekit_darwin.health.page import write_health_page

        write_health_page(health, page)
    text = health_json(health) if as_json else printable(health_text(health))
    click.echo(text, nl=False)
    sys.exit(UNHEALTHY if health.verdict == "unhealthy" else 0)


if __name__ == "__main__":
    main()
