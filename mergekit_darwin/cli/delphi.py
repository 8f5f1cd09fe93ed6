"""mergekit-darwin-delphi: answer generative tasks by staged vote, and report."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import nullcontext, redirect_stdout
from typing import Any

import click

from mergekit_darwin.errors import printable
from mergekit_darwin.talk import setup_logging, verbosity


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
@click.option("--samples", default=16, show_default=True, help="Most samples an item.")
@click.option("--stage", default=2, show_default=True, help="Samples between looks.")
@click.option(
    "--risk",
    default=0.01,
    show_default=True,
    help="Largest chance, in the worst case, that the stopped vote is not that of all"
    " samples; 0: never.",
)
@click.option(
    "--temperature", default=0.7, show_default=True, help="Of sampling, above 0."
)
@click.option("--seed", default=1, show_default=True, help="Of all samples.")
@click.option(
    "--shadow", is_flag=True, help="Draw all samples; say where it would have stopped."
)
@click.option(
    "--greedy/--no-greedy",
    default=True,
    show_default=True,
    help="Measure the greedy text of every item too.",
)
@click.option("--metric", help="NAME or NAME,FILTER.  [default: the task's first]")
@click.option("--extract", help="Pattern that reads the answer from a text.")
@click.option(
    "--gen-kwargs", default="", help="More settings of sampling, KEY=VALUE,..."
)
@click.option("--limit", type=int, help="Only the first items of each task.")
@click.option("--num-fewshot", type=int, help="Examples in front of an item.")
@click.option(
    "--include-path",
    multiple=True,
    type=click.Path(exists=True, file_okay=False),
    help="Folder of task YAMLs; may be repeated.",
)
@click.option("--apply-chat-template", is_flag=True, help="Prompts as chats.")
@click.option(
    "--fewshot-as-multiturn/--no-fewshot-as-multiturn",
    default=True,
    show_default=True,
    help="Examples as turns of the chat.",
)
@click.option("--system-instruction", help="System turn of the chat.")
@click.option(
    "--model-type",
    default="hf",
    show_default=True,
    help="hf, vllm, local-completions, ...",
)
@click.option("--model-args", default="", help="More of the model's, KEY=VALUE,...")
@click.option("--batch-size", default="16", show_default=True, help="Requests a batch.")
@click.option(
    "--device", default="cpu", show_default=True, help="Where the model runs."
)
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
