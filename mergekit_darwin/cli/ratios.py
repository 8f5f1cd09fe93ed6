"""mergekit-darwin-ratios: the ratio of every tensor, before anything is merged."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.merge.filters import METHODS
from mergekit_darwin.talk import loading, paged, setup_logging, verbosity

if TYPE_CHECKING:
    from mergekit.options import MergeOptions

LOG = logging.getLogger("mergekit_darwin")


@click.command("mergekit-darwin-ratios")
@click.argument("config_file", metavar="DARWIN.yml", type=click.Path(dir_okay=False))
@click.option("--json", "form", flag_value="json", help="The table as JSON.")
@click.option(
    "--csv",
    "form",
    flag_value="csv",
    help="The table as CSV; edited by hand it can be given back as `ratios:`.",
)
@click.option(
    "--explain",
    metavar="TENSOR",
    help="One tensor's ratio in numbers, from its statistics to its route; a part of"
    " the name will do where it is the only one.",
)
@click.option(
    "--as",
    "method",
    type=click.Choice(METHODS),
    help="A plain mergekit YAML that gives another method the same ratios.",
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write what would be printed into a file.",
)
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also draw the ratios, layers by components, into FILE.png.",
)
@paged
@click.option("--allow-crimes", is_flag=True, help="Allow mixing architectures.")
@loading
@verbosity
def main(
    config_file: str,
    form: str | None,
    explain: str | None,
    method: str | None,
    out: Path | None,
    plot: Path | None,
    page: Path | None,
    verbose: int,
    quiet: bool,
    **merge_options: Any,
) -> None:
    """Say whether the parents of DARWIN.yml fit, and the ratio of every tensor.

    Nothing is merged. Headers and the MDS report are read, weights only if the
    configuration names no report. Exit 1 if the merge cannot work.
    """
    if sum(choice is not None for choice in (form, explain, method)) > 1:
        raise click.UsageError("--json, --csv, --explain and --as exclude each other.")
    setup_logging(verbose, quiet)
    from mergekit.options import MergeOptions
    from transformers import logging as transformers_logging

    if verbose == 0:
        transformers_logging.set_verbosity_error()  # it has a handler of its own
    options = MergeOptions(**merge_options)
    check(config_file, options, quiet=quiet)
    try:
        text = _answer(config_file, options, form, explain, method, (plot, page), quiet)
        _deliver(text, out)
    except OSError as error:
        raise DarwinError(f"Cannot read or write a file ({error}).") from error


def _deliver(text: str, out: Path | None) -> None:
    if out is None:
        click.echo(text, nl=False)
        return
    from mergekit_darwin.files import write_whole

    write_whole(out, text)
    LOG.info("wrote %s", out)


def check(config_file: str, options: MergeOptions, *, quiet: bool) -> None:
    """Print the header-only check to stderr; leave with 1 if the merge cannot work."""
    from mergekit_darwin.merge.headers import fit_of
    from mergekit_darwin.merge.preview import read_config

    findings = fit_of(read_config(config_file), options)
    for finding in findings:
        if finding.severity == "stops" or not quiet:
            click.echo(finding.line(), err=True)
    if any(finding.severity == "stops" for finding in findings):
        raise SystemExit(1)


def _answer(
    config_file: str,
    options: MergeOptions,
    form: str | None,
    explain: str | None,
    method: Any,
    drawn: tuple[Path | None, Path | None],
    quiet: bool,
) -> str:
    """Return what was asked for as text; draws picture and page on the way."""
    from mergekit_darwin.merge.explain import explain as explain_tensor
    from mergekit_darwin.merge.export import plain_yaml
    from mergekit_darwin.merge.preview import plan_run, ratio_rows, read_config
    from mergekit_darwin.ratios.screen import ratio_screen
    from mergekit_darwin.ratios.table import table_csv, table_json

    planned = plan_run(read_config(config_file), options)
    plot, page = drawn
    if explain is not None and plot is None and page is None:
        return explain_tensor(planned, explain)
    rows = ratio_rows(planned, quiet=quiet)
    if plot is not None:
        from mergekit_darwin.ratios.picture import plot_ratios

        plot_ratios(rows, plot)
    if page is not None:
        from mergekit_darwin.ratios.page import write_ratio_page

        write_ratio_page(rows, page)
    if explain is not None:
        return explain_tensor(planned, explain)
    if method is not None:
        return plain_yaml(read_config(config_file), planned, rows, method)
    writer = {"json": table_json, "csv": table_csv}.get(form or "", ratio_screen)
    return writer(rows)
