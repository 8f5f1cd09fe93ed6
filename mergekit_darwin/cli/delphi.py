"""mergekit-darwin-delphi: answer generative tasks by staged vote, and report."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import nullcontext, redirect_stdout
from typing import Any

import click

from mergekit_darwin.delphi.options import Options
from mergekit_darwin.errors import printable
from mergekit_darwin.talk import options_of, setup_logging, verbosity


@click.command("mergekit-darwin-delphi")
@click.argument("model")
@click.option(
    "--tasks",
    required=True,
    help="Generative tasks of lm-evaluation-harness, with commas between them.",
)
@click.option(
    "--out", required=True, help="Folder of the run. Given again, the run goes on."
)
@options_of(Options)
@click.option(
    "--gen-kwargs", default="", help="More settings of sampling, KEY=VALUE,..."
)
@click.option("--model-args", default="", help="More of the model's, KEY=VALUE,...")
@click.option("--json", "as_json", is_flag=True, help="Write the report to stdout.")
@verbosity
def main(
    model: str,
    tasks: str,
    out: str,
    as_json: bool,
    verbose: int,
    quiet: bool,
    **given: Any,
) -> None:
    """Answer TASKS by a vote over samples of MODEL, stopped early, and report.

    Every item is asked for samples in stages until its vote may stop within the risk,
    which holds in the worst case over all votes. OUT gets samples.jsonl, report.json,
    report.md and delphi.png; a run that was stopped goes on where it was.
    """
    setup_logging(verbose, quiet)
    import mergekit_darwin as md
    from mergekit_darwin.models import harness

    for name in ("gen_kwargs", "model_args"):
        given[name] = _pairs(given[name], name)
    names = [name for name in tasks.split(",") if name]
    # The harness prints what size of batch it found: stdout is the report's.
    with redirect_stdout(sys.stderr), harness.quiet() if quiet else nullcontext():
        report = md.consensus(model, names, out, **given)
    if as_json:
        import json

        click.echo(json.dumps(report.as_json(), indent=2, ensure_ascii=False))
    else:
        click.echo(printable("\n".join(_lines(report))))
        click.echo(f"{out}/report.md")


def _pairs(text: str, name: str) -> dict[str, Any]:
    """Return KEY=VALUE,... as the harness reads it."""
    from lm_eval.utils import simple_parse_args_string

    try:
        return dict(simple_parse_args_string(text)) if text else {}
    except ValueError:
        option = name.replace("_", "-")
        raise click.UsageError(
            f"--{option} must be KEY=VALUE,...; got {text!r}."
        ) from None


def _lines(report: Any) -> Iterable[str]:
    for name, task in report.tasks.items():
        scores = ", ".join(
            f"{kind} {found.mean:.4f} ± {found.stderr:.4f}"
            for kind, found in task.scores.items()
        )
        yield (
            f"{name}: {scores}; {task.cost.mean:.2f} of {task.cost.full} samples an"
            f" item ({task.cost.saved:.1%} saved)"
        )


if __name__ == "__main__":
    main()
