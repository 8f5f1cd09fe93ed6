"""mergekit-darwin-ratios: the ratio of every tensor, before anything is merged."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mergekit_darwin.errors import printable
from mergekit_darwin.merge.filters import METHODS
from mergekit_darwin.talk import (
    LOADING,
    ProbeOptions,
    options_of,
    paged,
    setup_logging,
    verbosity,
)

if TYPE_CHECKING:
    from mergekit_darwin.merge.findings import Finding
    from mergekit_darwin.merge.preview import Preview

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
@click.option(
    "--allow-missing",
    is_flag=True,
    help="Go on where the merge would leave weights of the model out.",
)
@click.option("--step", help="Of a mergekit-multi file, this merge only.")
@click.option(
    "-I",
    "--intermediate-dir",
    type=click.Path(file_okay=False),
    help="Where mergekit-multi keeps the results of its steps.",
)
@options_of(ProbeOptions, *LOADING)
@verbosity
def main(config_file: str, verbose: int, **given: Any) -> None:
    """Say whether the parents of DARWIN.yml fit, and the ratio of every tensor.

    Nothing is merged. Headers and the MDS report are read, weights only if the
    configuration names no report. Exit 1 if the merge cannot work. Of a mergekit-multi
    file each darwin_v6 merge is looked at.
    """
    wish = _Wish(**{name: given.pop(name) for name in _Wish.__dataclass_fields__})
    if sum(choice is not None for choice in (wish.form, wish.explain, wish.method)) > 1:
        raise click.UsageError("--json, --csv, --explain and --as exclude each other.")
    for path in (wish.out, wish.plot, wish.page):
        if path is not None and path.resolve() == Path(config_file).resolve():
            raise click.UsageError(f"{path} is what is read; write to another file.")
    setup_logging(verbose, wish.quiet)
    from transformers import logging as transformers_logging

    from mergekit_darwin.api.merging import preview_merges

    if verbose == 0:
        transformers_logging.set_verbosity_error()  # it has a handler of its own
    merges = preview_merges(config_file, **given)
    if len(merges) > 1 and wish.single:
        raise click.UsageError(f"{config_file} has several merges; choose with --step.")
    texts = []
    for name, merge in merges.items():
        if len(merges) > 1:
            texts.append(f"step {name or 'final'}\n\n")
        texts.append(_look(merge, wish))
    _deliver("".join(texts), wish.out)


@dataclass(frozen=True)
class _Wish:
    """What is asked for, of each merge."""

    form: str | None
    explain: str | None
    method: Any
    out: Path | None
    plot: Path | None
    page: Path | None
    quiet: bool

    @property
    def single(self) -> bool:
        """Whether only one merge can be answered for."""
        return any((self.form, self.explain, self.method, self.plot, self.page))


def _deliver(text: str, out: Path | None) -> None:
    if out is None:
        click.echo(printable(text), nl=False)
        return
    from mergekit_darwin.files import write_whole

    write_whole(out, text)
    LOG.info("wrote %s", out)


def _look(merge: Preview, wish: _Wish) -> str:
    """Return what was asked for as text; prints the check, exits with 1 if it stops."""
    from mergekit_darwin.merge.preview import hints

    _print(merge.findings, wish.quiet)
    if any(finding.severity == "stops" for finding in merge.findings):
        raise SystemExit(1)
    _print(hints(merge.planned), wish.quiet)
    return _answer(merge, wish)


def _print(findings: list[Finding], quiet: bool) -> None:
    for finding in findings:
        if finding.severity == "stops" or not quiet:
            click.echo(printable(finding.line()), err=True)


def _answer(merge: Preview, wish: _Wish) -> str:
    """Return what was asked for as text; draws picture and page on the way."""
    from mergekit_darwin.merge.explain import explain
    from mergekit_darwin.merge.export import plain_yaml
    from mergekit_darwin.ratios.screen import ratio_screen
    from mergekit_darwin.ratios.table import table_csv, table_json

    if wish.explain is not None and wish.plot is None and wish.page is None:
        return explain(merge.planned, wish.explain)
    rows = merge.rows(quiet=wish.quiet)
    if wish.plot is not None:
        from mergekit_darwin.ratios.picture import plot_ratios

        plot_ratios(rows, wish.plot)
    if wish.page is not None:
        from mergekit_darwin.ratios.page import write_ratio_page

        write_ratio_page(rows, wish.page)
    if wish.explain is not None:
        return explain(merge.planned, wish.explain)
    if wish.method is not None:
        return plain_yaml(merge.config, merge.planned, rows, wish.method)
    writer = {"json": table_json, "csv": table_csv}.get(wish.form or "", ratio_screen)
    return writer(rows)
