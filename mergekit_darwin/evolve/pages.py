"""report.md of a run and the pictures beside it: what was gained, and what was not."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from mergekit_darwin.errors import quoted
from mergekit_darwin.evolve.breed import proxy_quality
from mergekit_darwin.evolve.compare import Comparison, Room, room, verdict
from mergekit_darwin.evolve.finish import Finished
from mergekit_darwin.evolve.fitness import combined_error
from mergekit_darwin.evolve.folder import made_with
from mergekit_darwin.evolve.log import Evaluation
from mergekit_darwin.evolve.picture import plot_genome, plot_heldout, plot_scores
from mergekit_darwin.files import write_whole
from mergekit_darwin.health.report import Finding, Health
from mergekit_darwin.ratios.picture import plot_ratios
from mergekit_darwin.ratios.table import read_rows


def write_report(run: Finished) -> Path:
    """Write RUN/report.md and its pictures from what is known so far."""
    parts = [
        "# A breeding run of mergekit-darwin",
        *(f"> {quoted(note, 1000)}" for note in run.notes),
    ]
    if run.table is None:
        parts.append("The run is not finished: nothing was held out against it yet.")
    else:
        parts += ["## What was gained", *results(run.table)]
    parts += ["## Search", _search(run)]
    if run.refits:
        parts += ["## Refit", *refit_parts(run)]
    parts += ["## Genome", _genes(run)]
    if run.health is not None:
        parts += ["## Health", _health(run.health)]
    parts += ["## Pictures"]
    parts += [f"![{caption}]({file})\n\n{caption}" for file, caption in draw(run)]
    parts += ["## Made with", made_with()]
    path = run.folder / "report.md"
    write_whole(path, "\n\n".join(parts) + "\n")
    return path


def draw(run: Finished) -> list[tuple[str, str]]:
    """Draw every picture that there are numbers for; return (file, caption) pairs."""
    folder = run.folder / "plots"
    plot_scores(folder / "scores.png", run.lines, run.diagnosis.family)
    plot_genome(folder / "genome.png", run.diagnosis.space, run.lines, run.genome)
    captions = {
        "scores.png": "score over the real evaluations",
        "genome.png": "the genome over time, and the final one against neutral",
    }
    ratios = run.model / "darwin_ratios.csv"
    if ratios.exists():
        plot_ratios(read_rows(ratios), folder / "ratios.png")
        captions["ratios.png"] = "the ratio of every tensor"
    for source, name, caption in (
        (run.mds, "mds.png", "MDS of both parents"),
        (run.folder / "health", "health.png", "health of the child"),
    ):
        if (source / name).exists():
            shutil.copyfile(source / name, folder / name)
            captions[name] = caption
    if run.table is not None:
        plot_heldout(folder / "heldout.png", run.table)
        captions["heldout.png"] = "scores on the held-out items"
    return [(f"plots/{name}", caption) for name, caption in captions.items()]


def heldout_table(table: Comparison) -> str:
    """Return the held-out scores as a Markdown table, tasks as columns."""
    names = [task.name for task in table.tasks.tasks]
    heads = ["model", "score", *map(quoted, names)]
    lines = ["| " + " | ".join(heads) + " |"]
    lines.append("| --- |" + " ---: |" * (len(names) + 1))
    for row in table.rows:
        if row.score is None:
            cells = [f"failed: {quoted(row.error, 200)}", *("-" for _ in names)]
        else:
            cells = [_number(row.score, combined_error(table.tasks, row))]
            cells += [_number(row.value(n), row.tasks[n]["stderr"]) for n in names]
        lines.append("| " + " | ".join([quoted(row.name), *cells]) + " |")
    return "\n".join(lines)


def _number(value: float, error: float | None) -> str:
    return f"{value:.3f}" if error is None else f"{value:.3f} ± {error:.3f}"


def findings(table: Comparison) -> list[str]:
    """Return the plain sentences of what the child gained over the others."""
    tests = {"better parent": table.parent, "best uniform merge": table.uniform}
    name = table.child.name.capitalize()
    said = [
        f"{name} against the {who} ({test.other}): {verdict(test)}."
        for who, test in tests.items()
        if test is not None
    ]
    if table.parent is not None and table.parent.difference <= 0.0:
        said.append("This pair gave no child better than its better parent.")
    return said + said_of_room(room(table))


def said_of_room(found: Room | None) -> list[str]:
    """Return the sentence of whether a pair has room for both parents, if it is known.

    Nine tenths of both is our choice.
    """
    if found is None:
        return []
    fits = (
        "the pair has room for both"
        if found.least >= 0.9
        else "no way tried keeps nine tenths of both"
    )
    return [
        "Of what each parent has over the other, the best of all ways"
        f" ({found.way}) keeps {found.father:.0%} of the Father's and"
        f" {found.mother:.0%} of the Mother's: {fits}."
    ]


def results(table: Comparison) -> list[str]:
    """Return the held-out table and what it says, as paragraphs."""
    return [
        "\n".join(f"- {line}" for line in findings(table)),
        f"On {table.tasks.count} held-out items that the search never saw, with"
        " standard errors; tests are paired, item by item, two-sided.",
        heldout_table(table),
    ]


def _search(run: Finished) -> str:
    config, lines, best = run.config, run.lines, run.best
    quality = proxy_quality(lines)
    failed = [line for line in lines if line.score is None]
    until = [line for line in lines if line.index <= best.index]
    family = run.diagnosis.family
    scores = ", ".join(f"{line.name} {line.score or 0.0:.3f}" for line in family)
    tasks = ", ".join(
        f"{quoted(t.name)} ({quoted(t.metric)}, {t.weight:g})" for t in config.tasks
    )
    rows = [
        f"- Tasks: {tasks}; {run.tasks.count} items.",
        f"- On the search items: {scores}; the child {best.score or 0.0:.3f} (selected"
        " on them, so flattered; chosen by what all measurements together say of it,"
        " not by its score alone).",
        f"- {len(lines)} real evaluations ({len(failed)} failed), {_minutes(lines)}"
        f" minutes of merging and measuring; the child was number {len(until)}, after"
        f" {_minutes(until)} minutes.",
        "- Rank correlation of what the proxy expected and what was measured:"
        f" {'undefined' if quality is None else f'{quality:.2f}'}.",
        f"- Reading of the scan: {run.diagnosis.common.settings.mri}; genes:"
        f" {config.gene_kind}, {len(run.diagnosis.space.genes)} of them; seed"
        f" {config.search.seed}.",
    ]
    rows += [f"- First failure: {quoted(line.error, 300)}" for line in failed[:1]]
    rows += _twin(run)
    return "\n".join(rows)


def _twin(run: Finished) -> list[str]:
    """Say it if no child measured as well as a genome that gives a parent back."""
    twins = {line.index: run.diagnosis.twin(line.made_of) for line in run.lines}
    known = [line for line in run.lines if twins[line.index] and line.score is not None]
    best = max(known, key=lambda line: line.score or 0.0, default=None)
    if best is None or (best.score or 0.0) < (run.best.score or 0.0):
        return []
    return [
        f"- The highest score, {best.score:.3f}, is that of a genome which gives the"
        f" {str(twins[best.index]).capitalize()} back bit for bit: this pair gave no"
        " child better than its parent."
    ]


def refit_parts(run: Finished) -> list[str]:
    """Return what the refits came to, as paragraphs."""
    what = run.chosen.name if run.chosen else "merged child, not refitted"
    lines = [
        "| model | search items | general text | Father's texts | Mother's texts |"
    ]
    lines.append("| --- |" + " ---: |" * 4)
    for row in run.refits:
        report = row.report
        losses = [report.general, report.father_texts, report.mother_texts]
        cells = [f"{loss.before:.3f} -> {loss.after:.3f}" for loss in losses]
        score = "failed" if row.line.score is None else f"{row.line.score:.3f}"
        lines.append("| " + " | ".join([row.name, score, *cells]) + " |")
    general = run.refits[0].report.general
    tokens = {role: x.tokens for role, x in run.refits[0].report.texts.items()}
    return [
        f"The final model is the **{what}**: the best on the search items"
        f" (merged child {run.best.score or 0.0:.3f}) among those that keep general"
        " text. Refits saw the search items, so their scores on them are flattered.",
        "\n".join(lines),
        "Losses in nats a token, before and after; on general text the Father has"
        f" {general.father:.3f}, the Mother {general.mother:.3f}. Fitted on"
        f" {tokens['father']} tokens of the Father's skills and {tokens['mother']} of"
        f" the Mother's, held by {tokens['general']} of general text.",
    ]


def _minutes(lines: Sequence[Evaluation]) -> str:
    return f"{sum(line.seconds for line in lines) / 60:.1f}"


def _genes(run: Finished) -> str:
    rows = ["| gene | value | neutral |", "| --- | ---: | ---: |"]
    rows += [
        f"| {gene.name} | {run.genome[gene.name]:.4f} | {gene.neutral:g} |"
        for gene in run.diagnosis.space.genes
    ]
    return f"genome_hash `{run.best.genome_hash}`\n\n" + "\n".join(rows)


def _health(health: Health) -> str:
    rows = [f"Verdict: **{health.verdict}**."]
    rows += [
        f"- {quoted(_sentence(finding), 1000)}" for finding in health.findings[:12]
    ]
    left = len(health.findings) - 12
    if left > 0:
        rows.append(f"- and {left} more in health/health.json")
    return "\n".join(rows)


def _sentence(finding: Finding) -> str:
    """Return a finding with its place, both values and what to do."""
    named = {"layer": finding.layer, "probe": finding.probe, "tensor": finding.tensor}
    place = ", ".join(f"{key} {it}" for key, it in named.items() if it is not None)
    where = f" in {place}" if place else ""
    expected = f", expected {_shown(finding.expected)}" if finding.expected else ""
    rule = finding.rule.replace("_", " ")
    said = f"{finding.severity}: {rule}{where}: {_shown(finding.found)}{expected}."
    return f"{said} {finding.advice}".strip()


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
