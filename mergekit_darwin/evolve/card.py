"""The child's model card: short, and enough to make the same child again."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mergekit_darwin.evolve.context import Run, made_with
from mergekit_darwin.evolve.diagnose import Diagnosis
from mergekit_darwin.evolve.finish import MANIFEST, Comparison
from mergekit_darwin.evolve.log import Evaluation
from mergekit_darwin.evolve.pages import findings, heldout_table
from mergekit_darwin.files import write_whole
from mergekit_darwin.ratios.genome import Genome
from mergekit_darwin.ratios.rules import Prescription
from mergekit_darwin.ratios.table import read_rows

KEY = "mergekit_darwin"  # of our part of a card's metadata


def read_lineage(model: str) -> dict[str, Any]:
    """Return our metadata in the card of a model on this machine, or {}."""
    path = Path(model) / "README.md"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return {}
    if not text.startswith("---\n") or "\n---" not in text[4:]:
        return {}
    try:
        head = yaml.safe_load(text[4 : text.index("\n---", 4)])
    except yaml.YAMLError:
        return {}
    found = head.get(KEY) if isinstance(head, dict) else None
    return found if isinstance(found, dict) else {}


def lineage(config: Any, genome_hash: str) -> dict[str, Any]:
    """Return the child's family tree: its generation is one above its parents'.

    A parent that was not bred here is of generation 0.
    """
    tree: dict[str, Any] = {"genome_hash": genome_hash}
    highest = 0
    for role in ("father", "mother"):
        model = getattr(config, role)
        known = read_lineage(model)
        generation = int(known.get("generation", 0))
        highest = max(highest, generation)
        entry: dict[str, Any] = {"model": shown(model), "generation": generation}
        for key in ("genome_hash", "father", "mother"):
            if key in known:
                entry[key] = known[key]
        tree[role] = entry
    return {"generation": highest + 1, **tree}


def shown(model: str) -> str:
    """Return a model as a card should name it: a path by its last two parts."""
    if not os.path.isabs(model):
        return model
    return "/".join(Path(model).parts[-2:])


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
    tree = lineage(run.config, str(best.genome_hash))
    head = {
        "library_name": "transformers",
        "tags": ["mergekit", "merge", "mergekit-darwin"],
        KEY: tree,
    }
    hub = [m for m in _family(run) if not os.path.isabs(m)]
    if hub:
        head["base_model"] = hub
    parts = [
        "---\n" + yaml.safe_dump(head, sort_keys=False, allow_unicode=True) + "---",
        f"# {run.folder.name}",
        "A child of two models, bred with mergekit-darwin: merged by `darwin_v6`,"
        " its genome found by CMA-ES.",
        "## Family\n\n" + "\n".join(_tree_lines(tree)),
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


def _tree_lines(tree: Mapping[str, Any], depth: int = 0) -> list[str]:
    lines = []
    if depth == 0:
        lines.append(
            f"- child, generation {tree['generation']}, genome `{tree['genome_hash']}`"
        )
    for role in ("father", "mother"):
        entry = tree.get(role)
        if not isinstance(entry, dict):
            continue
        bred = entry.get("genome_hash")
        more = f", generation {entry['generation']}, genome `{bred}`" if bred else ""
        lines.append("  " * (depth + 1) + f"- {role}: {entry['model']}{more}")
        lines += _tree_lines(entry, depth + 1)
    return lines


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
