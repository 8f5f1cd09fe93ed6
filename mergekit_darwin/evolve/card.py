"""The child's model card: short, and enough to make the same child again."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from mergekit_darwin.evolve.context import Run, made_with
from mergekit_darwin.evolve.diagnose import Diagnosis
from mergekit_darwin.evolve.family import KEY, Score, as_card, bred, lines, shown
from mergekit_darwin.evolve.family_picture import draw_family
from mergekit_darwin.evolve.finish import MANIFEST, Comparison
from mergekit_darwin.evolve.log import Evaluation
from mergekit_darwin.evolve.pages import findings, heldout_table
from mergekit_darwin.files import write_whole
from mergekit_darwin.ratios.genome import Genome
from mergekit_darwin.ratios.rules import Prescription
from mergekit_darwin.ratios.table import read_rows

PICTURE = "family.png"


def write_card(
    run: Run,
    found: Diagnosis,
    genome: Genome,
    best: Evaluation,
    model: Path,
    *,
    table: Comparison | None,
    health: Any,
    benchmarks: Sequence[str] = (),
) -> Path:
    """Write the model card into the final model's folder."""
    config, score = run.config, _heldout(table)
    tree = bred(config.father, config.mother, str(best.genome_hash), score)
    draw_family(tree, model / PICTURE)
    head = {
        "library_name": "transformers",
        "tags": ["mergekit", "merge", "mergekit-darwin"],
        KEY: as_card(tree),
    }
    hub = [m for m in _family(run) if not os.path.isabs(m)]
    if hub:
        head["base_model"] = hub
    parts = [
        "---\n" + yaml.safe_dump(head, sort_keys=False, allow_unicode=True) + "---",
        f"# {run.folder.name}",
        "A child of two models, bred with mergekit-darwin: merged by `darwin_v6`,"
        " its genome found by CMA-ES.",
        "## Family\n\n" + "\n".join(lines(tree)),
        f"![The family]({PICTURE})",
        _base_line(run),
        *_results(table, benchmarks),
        "## Genome\n\n" + _genome_lines(found, genome, best, model),
    ]
    if health is not None:
        parts.append(f"Health check: {health.verdict}.")
    parts.append("## Reproduce\n\n" + _reproduce())
    path = model / "README.md"
    write_whole(path, "\n\n".join(part for part in parts if part) + "\n")
    return path


def _family(run: Run) -> list[str]:
    config = run.config
    base = [config.third_base] if config.third_base else []
    return [config.father, config.mother, *base]


def _heldout(table: Comparison | None) -> Score | None:
    """Return the child's score on the held-out items, where it was measured."""
    rows = table.rows if table is not None else ()
    child = next((row for row in rows if row.name == "child"), None)
    if child is None or child.score is None:
        return None
    return Score(score=child.score, stderr=child.stderr)


def _base_line(run: Run) -> str:
    base = run.config.third_base
    return f"Task vectors are against {shown(base)}." if base else ""


def _results(table: Comparison | None, benchmarks: Sequence[str]) -> list[str]:
    parts = []
    if benchmarks:
        parts.append(
            f"> The search was run on items of public benchmarks"
            f" ({', '.join(benchmarks)}): scores there say nothing about this model."
        )
    if table is not None:
        said = "\n".join(f"- {line}" for line in findings(table))
        parts += [
            "## Held-out results\n\n" + heldout_table(table),
            "Measured with lm-evaluation-harness on items the search never saw, with"
            f" standard errors; paired tests:\n\n{said}",
        ]
    return parts


def _genome_lines(
    found: Diagnosis, genome: Genome, best: Evaluation, model: Path
) -> str:
    genes = ", ".join(f"{g.name} {genome[g.name]:.4f}" for g in found.space.genes)
    lines = [f"genome_hash `{best.genome_hash}`; {genes}."]
    ratios = model / "darwin_ratios.csv"
    if ratios.exists():
        lines.append("Mean ratio (Mother's share) by block:\n")
        lines += _block_table(read_rows(ratios))
    return "\n\n".join(lines[:2]) + ("\n" + "\n".join(lines[2:]) if lines[2:] else "")


def _block_table(rows: Sequence[Prescription]) -> list[str]:
    blocks: dict[int, list[Prescription]] = {}
    for row in rows:
        if row.block is not None:
            blocks.setdefault(row.block, []).append(row)
    lines = ["| block | mean ratio | father's | blended | mother's |"]
    lines.append("| ---: | ---: | ---: | ---: | ---: |")
    for block, members in sorted(blocks.items()):
        mean = sum(row.ratio for row in members) / len(members)
        routes = [row.route for row in members]
        counts = [str(routes.count(r)) for r in ("father", "blend", "mother")]
        lines.append(f"| {block} | {mean:.3f} | {' | '.join(counts)} |")
    return lines


def _reproduce() -> str:
    return (
        f"Made with {made_with()}.\n\n"
        "```sh\n"
        "mergekit-yaml mergekit_config.yml out/   # with mergekit-darwin installed\n"
        "```\n\n"
        "The same bytes come out; "
        f"`{MANIFEST}` has the SHA-256 of every tensor. The search itself:"
        " `mergekit-darwin-evolve config.yml --storage-path RUN` with the run's"
        " `config.yml`."
    )
