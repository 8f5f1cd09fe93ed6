"""report.md of a run and the pictures beside it: what was gained, and what was not."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mergekit_darwin.evolve.breed import genome_of, proxy_quality
from mergekit_darwin.evolve.context import Run, made_with
from mergekit_darwin.evolve.diagnose import Diagnosis
from mergekit_darwin.evolve.finish import Comparison
from mergekit_darwin.evolve.log import Evaluation
from mergekit_darwin.evolve.picture import (
    plot_genome,
    plot_heldout,
    plot_scores,
)
from mergekit_darwin.evolve.results import Row, verdict
from mergekit_darwin.files import write_whole
from mergekit_darwin.ratios.genome import Genome, make_genome
from mergekit_darwin.ratios.picture import plot_ratios
from mergekit_darwin.ratios.table import read_rows

LOG = logging.getLogger("mergekit_darwin")


def draw(
    run: Run,
    found: Diagnosis,
    lines: Sequence[Evaluation],
    genome: Genome,
    table: Comparison | None,
) -> list[tuple[str, str]]:
    """Draw every picture that there are numbers for; return (file, caption) pairs."""
    folder = run.folder / "plots"
    folder.mkdir(exist_ok=True)
    pictures = [_scores(run, folder, lines), _genome(found, folder, lines, genome)]
    ratios = run.folder / "final_model" / "darwin_ratios.csv"
    if ratios.exists():
        plot_ratios(read_rows(ratios), folder / "ratios.png")
        pictures.append(("plots/ratios.png", "mean ratio by layer and component"))
    for source, name, caption in (
        (found.mds, "mds.png", "MDS of both parents"),
        (str(run.folder / "health"), "health.png", "health of the child"),
    ):
        if source and (Path(source) / name).exists():
            shutil.copyfile(Path(source) / name, folder / name)
            pictures.append((f"plots/{name}", caption))
    if table is not None:
        rows = [(r.name, r.score, r.stderr) for r in table.rows if r.score is not None]
        plot_heldout(folder / "heldout.png", rows)
        pictures.append(("plots/heldout.png", "scores on the held-out items"))
    return pictures


def _scores(run: Run, folder: Path, lines: Sequence[Evaluation]) -> tuple[str, str]:
    parents = {
        line.name: line.score for line in run.past("parent") if line.score is not None
    }
    plot_scores(
        folder / "scores.png",
        [line.score for line in lines],
        [line.proxy for line in lines],
        [line.generation for line in lines],
        parents,
    )
    return "plots/scores.png", "score over the real evaluations"


def _genome(
    found: Diagnosis, folder: Path, lines: Sequence[Evaluation], genome: Genome
) -> tuple[str, str]:
    genes = found.space.genes
    neutral = make_genome({}, found.space.blocks)
    plot_genome(
        folder / "genome.png",
        [gene.name for gene in genes],
        [[genome_of(line)[gene.name] for gene in genes] for line in lines],
        [genome[gene.name] for gene in genes],
        [neutral[gene.name] for gene in genes],
        [gene.search for gene in genes],
    )
    return "plots/genome.png", "the genome over time, and the final one against neutral"


def heldout_table(table: Comparison) -> str:
    """Return the held-out scores as a Markdown table, tasks as columns."""
    tasks = list(table.rows[-1].tasks)
    head = ["model", "score", *tasks]
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    for row in table.rows:
        cells = [row.name, _number(row.score, row.stderr)]
        cells += [_number(*row.tasks[t]) if t in row.tasks else "-" for t in tasks]
        if row.error:
            cells[1] = f"failed: {row.error}"
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _number(value: float | None, error: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if error is None else f"{value:.3f} ± {error:.3f}"


def findings(table: Comparison) -> list[str]:
    """Return the plain sentences of what the child gained over the others."""
    said = []
    if table.parent is not None:
        said.append(
            f"Child against the better parent ({table.parent.other}):"
            f" {verdict(table.parent)}."
        )
    if table.uniform is not None:
        said.append(
            f"Child against the best uniform merge ({table.uniform.other}):"
            f" {verdict(table.uniform)}."
        )
    return said


def write_report(
    run: Run,
    found: Diagnosis,
    lines: Sequence[Evaluation],
    genome: Genome,
    best: Evaluation,
    *,
    table: Comparison | None = None,
    health: Any = None,
    notes: Sequence[str] = (),
) -> Path:
    """Write RUN/report.md and its pictures from what is known so far."""
    pictures = draw(run, found, lines, genome, table)
    parts = ["# A breeding run of mergekit-darwin", *_gained(table, notes)]
    parts += ["## Search", *_search(run, found, lines, best)]
    parts += ["## Genome", _genes(found, genome, best)]
    if health is not None:
        parts += ["## Health", _health(health)]
    parts += ["## Pictures"]
    parts += [f"![{caption}]({file})\n\n{caption}" for file, caption in pictures]
    parts += ["## Made with", made_with()]
    path = run.folder / "report.md"
    write_whole(path, "\n\n".join(parts) + "\n")
    return path


def _gained(table: Comparison | None, notes: Sequence[str]) -> list[str]:
    parts = [f"> {note}" for note in notes]
    if table is None:
        return [*parts, "The run is not finished: nothing was held out against it yet."]
    sizes = {name: len(values) for name, values in table.rows[-1].items.items()}
    count = sum(sizes.values())
    said = "\n".join(f"- {line}" for line in findings(table))
    return [
        *parts,
        "## What was gained",
        said,
        f"On {count} held-out items that the search never saw, with standard errors;"
        " tests are paired, item by item, two-sided.",
        heldout_table(table),
    ]


def _search(
    run: Run, found: Diagnosis, lines: Sequence[Evaluation], best: Evaluation
) -> list[str]:
    config = run.config
    quality = proxy_quality(list(lines))
    worked = [line for line in lines if line.score is not None]
    spent = sum((line.merge_s or 0.0) + (line.eval_s or 0.0) for line in lines)
    until = [line for line in lines if line.index <= best.index]
    to_best = sum((line.merge_s or 0.0) + (line.eval_s or 0.0) for line in until)
    parents = {line.name: line.score for line in run.past("parent")}
    listed = ", ".join(f"{name} {score:.3f}" for name, score in parents.items())
    tasks = ", ".join(f"{t.name} ({t.metric}, {t.weight:g})" for t in config.tasks)
    rows = [
        f"- Tasks: {tasks}; {sum(len(p.indices) for p in run.exams['search'].papers)}"
        " items.",
        f"- On the search items: {listed}; the child"
        f" {best.score or 0.0:.3f} (selected on them, so flattered; chosen by what all"
        " measurements together say of it, not by its score alone).",
        f"- {len(lines)} real evaluations ({len(lines) - len(worked)} failed),"
        f" {spent / 60:.1f} minutes of merging and measuring; the child was number"
        f" {len(until)}, after {to_best / 60:.1f} minutes.",
        "- Rank correlation of what the proxy expected and what was measured:"
        f" {'undefined' if quality is None else f'{quality:.2f}'}.",
        f"- Reading of the scan: {found.mri}; genes: {config.gene_kind},"
        f" {len(found.space.genes)} of them; seed {config.search.seed}.",
    ]
    failed = [line for line in lines if line.error]
    if failed:
        rows.append(f"- First failure: {failed[0].error}")
    return ["\n".join(rows)]


def _genes(found: Diagnosis, genome: Genome, best: Evaluation) -> str:
    rows = ["| gene | value | neutral |", "| --- | ---: | ---: |"]
    for gene in found.space.genes:
        rows.append(f"| {gene.name} | {genome[gene.name]:.4f} | {gene.neutral:g} |")
    return f"genome_hash `{best.genome_hash}`\n\n" + "\n".join(rows)


def _health(health: Any) -> str:
    rows = [f"Verdict: **{health.verdict}**."]
    for finding in list(health.findings)[:12]:
        said = getattr(finding, "found", finding)
        rows.append(f"- {getattr(finding, 'severity', '')} {finding.rule}: {said}")
    return "\n".join(rows)


def score_of(rows: Sequence[Row], name: str) -> Row | None:
    """Return the row of one model, None if it is not in the table."""
    return next((row for row in rows if row.name == name), None)
