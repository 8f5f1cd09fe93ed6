"""mergekit-darwin-health: is this merged model sound, and if not, where."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

import click

from mergekit_darwin.health.thresholds import Thresholds
from mergekit_darwin.talk import setup_logging, verbosity

UNHEALTHY = 3  # the exit code of a verdict that is bad
Command = TypeVar("Command", bound=Callable[..., Any])


def threshold_options(command: Command) -> Command:
    """Add one option for every threshold; they arrive under the thresholds' names."""
    for line in reversed(fields(Thresholds)):
        command = click.option(
            f"--{line.name.replace('_', '-')}",
            line.name,
            type=float,
            default=line.default,
            show_default=True,
            help=f"Threshold: {line.metadata['meaning']}.",
        )(command)
    return command


@click.command()
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
@click.option(
    "--probes",
    type=click.Path(exists=True, file_okay=False),
    help="Folder of .jsonl or .txt files, one a probe, instead of ours.",
)
@click.option(
    "--no-probes", is_flag=True, help="Weights and files only; runs no model."
)
@click.option("--device", default="cpu", show_default=True, help="Where probes run.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "float16", "float64"]),
    default="float32",
    show_default=True,
    help="Precision in which probes run.",
)
@click.option("--stream", is_flag=True, help="Hold one layer at a time; no answers.")
@click.option("--trust-remote-code", is_flag=True, help="Run code of the models.")
@click.option("--transformers-cache", help="Where downloaded models are kept.")
@click.option("--lora-merge-cache", help="Where merged LoRA models are kept.")
@click.option("--json", "as_json", is_flag=True, help="Write the report to stdout.")
@threshold_options
@verbosity
def main(
    child: str,
    father: str | None,
    mother: str | None,
    base: str | None,
    mds: str | None,
    out: str | None,
    verify: Any,
    probes: str | None,
    no_probes: bool,
    as_json: bool,
    verbose: int,
    quiet: bool,
    **rest: Any,
) -> None:
    """Check CHILD, a merged model, against its parents, layer by layer.

    CHILD and parents are folders or names on the hub. Exit code 0: healthy or with
    warnings; 3: unhealthy. Without --out nothing is written where CHILD is no folder.
    """
    from mergekit_darwin.health.run import check
    from mergekit_darwin.health.screen import default_out, health_json, health_text
    from mergekit_darwin.models.opened import ProbeOptions
    from mergekit_darwin.scan.probes import read_probes
    from mergekit_darwin.scan.report import read_report

    setup_logging(verbose, quiet)
    lines = {line.name: rest.pop(line.name) for line in fields(Thresholds)}
    chosen = read_probes(probes) if probes else None
    health = check(
        child,
        father=father,
        mother=mother,
        base=base,
        report=read_report(mds) if mds else None,
        out=default_out(child, out),
        options=ProbeOptions(**rest),
        thresholds=Thresholds(**lines),
        verify=verify,
        probes=[] if no_probes else chosen,
        progress=not quiet,
    )
    click.echo(health_json(health) if as_json else health_text(health), nl=False)
    sys.exit(UNHEALTHY if health.verdict == "unhealthy" else 0)


if __name__ == "__main__":
    main()
