"""The child's model card: short, and enough to make the same child again."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

import yaml

from mergekit_darwin.errors import quoted, shown
from mergekit_darwin.evolve.config import EvolveConfig
from mergekit_darwin.evolve.family import (
    KEY,
    Score,
    as_card,
    bred,
    draw_family,
    lines,
)
from mergekit_darwin.evolve.finish import Finished
from mergekit_darwin.evolve.fitness import combined_error
from mergekit_darwin.evolve.folder import made_with
from mergekit_darwin.evolve.pages import refit_parts, results
from mergekit_darwin.evolve.refits import Refitted
from mergekit_darwin.files import write_whole
from mergekit_darwin.models.manifest import MANIFEST
from mergekit_darwin.ratios.rules import Prescription
from mergekit_darwin.ratios.table import read_rows
from mergekit_darwin.refit.write import BEFORE, RECIPE

PICTURE = "family.png"


def write_card(run: Finished) -> Path:
    """Write the model card into the final model's folder."""
    config = run.config
    digest = str(run.best.genome_hash)
    tree = bred(config.father, config.mother, digest, _heldout(run))
    draw_family(tree, run.model / PICTURE)
    head = {
        "library_name": "transformers",
        "tags": ["mergekit", "merge", "mergekit-darwin"],
        KEY: as_card(tree),
    }
    family = [config.father, config.mother, config.third_base]
    hub = [model for model in family if model and not os.path.isabs(model)]
    if hub:
        head["base_model"] = hub
    parts = [
        "---\n" + yaml.safe_dump(head, sort_keys=False, allow_unicode=True) + "---",
        f"# {quoted(run.folder.name)}",
        _made(run),
        "## Family\n\n" + "\n".join(lines(tree)),
        f"![The family]({PICTURE})",
    ]
    if config.third_base:
        parts.append(f"Task vectors are against {quoted(shown(config.third_base))}.")
    parts += [f"> {quoted(note, 1000)}" for note in run.notes]
    if run.table is not None:
        parts += ["## Held-out results", *results(run.table)]
    parts += ["## Genome", *_genome_parts(run)]
    if run.health is not None:
        parts.append(f"Health check: {run.health.verdict}.")
    if run.chosen is not None:
        parts += ["## Refit", *refit_parts(run)]
    parts.append("## Reproduce\n\n" + _reproduce(run))
    path = run.model / "README.md"
    write_whole(path, "\n\n".join(parts) + "\n")
    return path


def _made(run: Finished) -> str:
    if run.chosen is not None and run.chosen.name == "refitted mean":
        return (
            "A child of two models, made with mergekit-darwin: their mean, its maps"
            " refitted to what both parents' layers do."
        )
    said = (
        "A child of two models, bred with mergekit-darwin: merged by `darwin_v6`, its"
        " genome found by CMA-ES"
    )
    return said + (", its maps then refitted." if run.chosen else ".")


def _heldout(run: Finished) -> Score | None:
    """Return the child's score on the held-out items, where it was measured."""
    child = run.table.child if run.table is not None else None
    if run.table is None or child is None or child.score is None:
        return None
    return Score(score=child.score, stderr=combined_error(run.table.tasks, child))


def _genome_parts(run: Finished) -> list[str]:
    space = run.diagnosis.space
    genes = ", ".join(f"{g.name} {run.genome[g.name]:.4f}" for g in space.genes)
    parts = [f"genome_hash `{run.best.genome_hash}`; {genes}."]
    ratios = run.model / "darwin_ratios.csv"
    if ratios.exists():
        parts.append("Mean ratio (Mother's share) by block:")
        parts.append("\n".join(_block_table(read_rows(ratios))))
    return parts


def refit_commands(config: EvolveConfig, chosen: Refitted) -> str:
    """Return the two commands that make a refitted model from its parents."""
    parents = [
        f" --{role}-probes {','.join(chosen.report.texts[role].probes)}"
        for role in ("father", "mother")
    ]
    return (
        f"mergekit-yaml {BEFORE}{RECIPE} merged/   # with mergekit-darwin\n"
        f"mergekit-darwin-refit merged/ --father {shlex.quote(shown(config.father))}"
        f" --mother {shlex.quote(shown(config.mother))} \\\n"
        f"  --probes RUN/refit/texts{''.join(parents)} --out out/\n"
    )


def _block_table(rows: Sequence[Prescription]) -> list[str]:
    lines = ["| block | mean ratio | father's | blended | mother's |"]
    lines.append("| ---: | ---: | ---: | ---: | ---: |")
    for block in sorted({row.block for row in rows if row.block is not None}):
        members = [row for row in rows if row.block == block]
        mean = sum(row.ratio for row in members) / len(members)
        routes = [row.route for row in members]
        counts = [str(routes.count(r)) for r in ("father", "blend", "mother")]
        lines.append(f"| {block} | {mean:.3f} | {' | '.join(counts)} |")
    return lines


def _reproduce(run: Finished) -> str:
    commands = "mergekit-yaml mergekit_config.yml out/   # with mergekit-darwin\n"
    if run.chosen is not None:
        commands = refit_commands(run.config, run.chosen)
    return (
        f"Made with {made_with()}.\n\n"
        f"```sh\n{commands}```\n\n"
        "The same bytes come out; "
        f"`{MANIFEST}` has the SHA-256 of every tensor. The search itself:"
        " `mergekit-darwin-evolve config.yml --storage-path RUN` with the run's"
        " `config.yml`."
    )
