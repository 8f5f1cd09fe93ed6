"""mergekit-darwin-refit: a merged child whose layers do what its parents' layers do."""

from __future__ import annotations

import sys
from typing import Any

import click

from mergekit_darwin import talk
from mergekit_darwin.refit.options import BATCH, RefitOptions

LOST = 3  # the exit code of a child that has lost general text


@click.command()
@click.argument("child")
@click.option("--father", required=True, help="First parent.")
@click.option("--mother", required=True, help="Second parent.")
@click.option("--base", help="Common ancestor; for --rho.")
@click.option(
    "--out",
    required=True,
    type=click.Path(file_okay=False),
    help="New folder for the refitted model, its card, refit.json and refit.png.",
)
@click.option(
    "--probes",
    type=click.Path(exists=True, file_okay=False),
    help="Folder of .jsonl or .txt files, texts of one skill each; default: ours, which"
    " are few.",
)
@click.option(
    "--father-probes",
    metavar="NAMES",
    default="",
    help="Probes of the Father, by comma; default: those on which his loss is lower.",
)
@click.option(
    "--mother-probes", metavar="NAMES", default="", help="The same for the Mother."
)
@click.option("--items", type=click.IntRange(1), help="At most so many of a probe.")
@click.option(
    "--keep",
    "keep_texts",
    type=click.Path(exists=True, file_okay=False),
    help="Folder of general texts on which the child stays as it is; default: ours.",
)
@talk.options_of(RefitOptions)
@talk.options_of(talk.ProbeOptions, batch_size=BATCH)
@click.option("--json", "as_json", is_flag=True, help="Write the report to stdout.")
@talk.verbosity
def main(
    child: str,
    as_json: bool,
    father_probes: str,
    mother_probes: str,
    verbose: int,
    quiet: bool,
    **options: Any,
) -> None:
    """Refit CHILD, a merge of FATHER and MOTHER by any tool, into the folder OUT.

    Exit code 0: done; 3: done, but the child's loss on general text is more than 5 %
    above the worse parent's.
    """
    talk.setup_logging(verbose, quiet)
    from mergekit_darwin.api.breeding import refit_child
    from mergekit_darwin.refit.report import refit_text

    report = refit_child(
        child,
        father_probes=[n for n in father_probes.split(",") if n],
        mother_probes=[n for n in mother_probes.split(",") if n],
        progress=not quiet,
        **options,
    )
    click.echo(report.model_dump_json(indent=1) if as_json else refit_text(report))
    sys.exit(LOST if report.verdict != "sound" else 0)


if __name__ == "__main__":
    main()
