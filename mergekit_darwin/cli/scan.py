"""mergekit-darwin-scan: diagnose two parents before they are merged."""

from __future__ import annotations

from typing import Any

import click

from mergekit_darwin.talk import setup_logging, verbosity


@click.command()
@click.argument("father")
@click.argument("mother")
@click.option("--base", help="Common ancestor; adds task vectors and gains.")
@click.option("--out", required=True, help="Folder for mds.json and its pictures.")
@click.option(
    "--probes",
    type=click.Path(exists=True, file_okay=False),
    help="Folder of .jsonl or .txt files, one a probe, instead of ours.",
)
@click.option("--no-probes", is_flag=True, help="Static profiles only; runs no model.")
@click.option("--device", default="cpu", show_default=True, help="Where probes run.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "float16", "float64"]),
    default="float32",
    show_default=True,
    help="Precision in which probes run.",
)
@click.option(
    "--max-tokens",
    type=click.IntRange(2),
    default=256,
    show_default=True,
    help="Most tokens taken of one probe item.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(1),
    default=8,
    show_default=True,
    help="Probe items run together.",
)
@click.option("--stream", is_flag=True, help="Hold one layer at a time, from disk.")
@click.option("--trust-remote-code", is_flag=True, help="Run code of the models.")
@click.option("--transformers-cache", help="Where downloaded models are kept.")
@click.option("--lora-merge-cache", help="Where merged LoRA models are kept.")
@click.option("--json", "as_json", is_flag=True, help="Write the report to stdout.")
@verbosity
def main(
    father: str,
    mother: str,
    base: str | None,
    out: str,
    probes: str | None,
    no_probes: bool,
    as_json: bool,
    verbose: int,
    quiet: bool,
    **options: Any,
) -> None:
    """Measure what every tensor and layer of FATHER and MOTHER is for.

    FATHER and MOTHER are folders or names on the hub, as in a merge configuration.
    Stopped and started again with the same words, the scan goes on where it was.
    """
    from mergekit_darwin.ratios.report_picture import draw
    from mergekit_darwin.ratios.report_screen import screen
    from mergekit_darwin.scan.probes import read_probes, standard_probes
    from mergekit_darwin.scan.run import ProbeOptions, scan

    setup_logging(verbose, quiet)
    chosen = read_probes(probes) if probes else standard_probes()
    report = scan(
        father,
        mother,
        base,
        out=out,
        probes=[] if no_probes else chosen,
        options=ProbeOptions(**options),
        progress=not quiet,
        draw=draw,
    )
    if as_json:
        click.echo(report.model_dump_json(indent=1))
    elif not quiet:
        click.echo(screen(report))
