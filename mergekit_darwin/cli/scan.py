"""mergekit-darwin-scan: diagnose two parents before they are merged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mergekit_darwin import talk
from mergekit_darwin.errors import printable


@click.command()
@click.argument("father")
@click.argument("mother")
@click.option("--base", help="Common ancestor; adds task vectors and gains.")
@click.option("--out", required=True, help="Folder for mds.json and its pictures.")
@talk.chosen_probes
@talk.options_of(talk.ProbeOptions)
@talk.paged
@click.option("--json", "as_json", is_flag=True, help="Write the report to stdout.")
@talk.verbosity
def main(
    father: str,
    mother: str,
    as_json: bool,
    page: Path | None,
    verbose: int,
    quiet: bool,
    **options: Any,
) -> None:
    """Measure what every tensor and layer of FATHER and MOTHER is for.

    FATHER and MOTHER are folders or names on the hub, as in a merge configuration.
    Stopped and started again with the same words, the scan goes on where it was.
    """
    talk.setup_logging(verbose, quiet)
    from mergekit_darwin.api.merging import scan_parents
    from mergekit_darwin.ratios.report_screen import screen

    report = scan_parents(father, mother, progress=not quiet, **options)
    if page is not None:
        from mergekit_darwin.ratios.page import write_scan_page

        write_scan_page(report, page)
    if as_json:
        click.echo(report.model_dump_json(indent=1))
    elif not quiet:
        click.echo(printable(screen(report)))
