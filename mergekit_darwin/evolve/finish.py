"""The end of a run: best.yml, the final model, its health, the held-out comparison."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mergekit_darwin.evolve.breed import best_of, genome_of
from mergekit_darwin.evolve.context import Run, Subject, heldout_items, measure
from mergekit_darwin.evolve.diagnose import Diagnosis, subject_of, task_probes
from mergekit_darwin.evolve.log import Evaluation
from mergekit_darwin.evolve.results import Paired, Row, better, paired, row_of
from mergekit_darwin.files import write_whole
from mergekit_darwin.merge.yaml import genome_yaml, uniform_yamls
from mergekit_darwin.ratios.genome import Genome, genome_json, make_genome
from mergekit_darwin.search import Space

LOG = logging.getLogger("mergekit_darwin")
MANIFEST = "manifest.json"
NEUTRAL = "darwin_v6 neutral"


@dataclass(frozen=True)
class Comparison:
    """The held-out table, and what the child is to the best of the others."""

    rows: tuple[Row, ...]
    parent: Paired | None
    uniform: Paired | None
    uniform_names: tuple[str, ...]


def write_best(run: Run, found: Diagnosis, genome: Genome) -> Path:
    """Write best.yml, of which plain mergekit-yaml makes the child, and genome.json."""
    path = run.folder / "best.yml"
    write_whole(path, genome_yaml(found.common, genome))
    digest = found.common.settings_of(genome).hash
    write_whole(run.folder / "genome.json", genome_json(genome, digest))
    return path


def make_final_model(run: Run, trust_remote_code: bool) -> Path:
    """Return RUN/final_model, made by a plain mergekit run of best.yml if need be."""
    from mergekit.options import MergeOptions

    from mergekit_darwin.merge.into import merge_to

    final, aside = run.folder / "final_model", run.folder / "final_model.part"
    text = (run.folder / "best.yml").read_text(encoding="utf-8")
    made_of = final / "mergekit_config.yml"
    if (final / MANIFEST).exists() and made_of.read_text(encoding="utf-8") == text:
        return final
    for folder in (aside, final):
        shutil.rmtree(folder, ignore_errors=True)
    options = MergeOptions(quiet=True, trust_remote_code=trust_remote_code)
    merge_to(text, aside, options)
    write_whole(aside / MANIFEST, manifest(aside))
    aside.rename(final)
    return final


def manifest(folder: Path) -> str:
    """Return JSON with dtype, shape and SHA-256 of the bytes of every tensor."""
    from safetensors import safe_open

    tensors: dict[str, Any] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as stored:
            for name in sorted(stored.keys()):
                tensor = stored.get_tensor(name).contiguous()
                content = tensor.reshape(-1).view(_bytes()).numpy().tobytes()
                tensors[name] = {
                    "dtype": str(tensor.dtype).removeprefix("torch."),
                    "shape": list(tensor.shape),
                    "sha256": hashlib.sha256(content).hexdigest(),
                }
    content_of = {"format": "mergekit-darwin/manifest", "version": 1}
    return json.dumps({**content_of, "tensors": tensors}, indent=1) + "\n"


def _bytes() -> Any:
    import torch

    return torch.uint8


def check_health(run: Run, found: Diagnosis, model: Path, worker: Any) -> Any:
    """Return the health of the child, None where it cannot be checked.

    A check that fails is said and does not undo a finished search.
    """
    from mergekit_darwin.health import check

    try:
        health = check(
            str(model),
            father=run.config.father,
            mother=run.config.mother,
            base=run.config.third_base,
            out=run.folder / "health",
            **_probing(run, found, worker),
        )
    except Exception as error:
        LOG.warning("The child's health could not be checked: %s", error)
        LOG.debug("health", exc_info=True)
        return None
    level = logging.INFO if health.verdict == "healthy" else logging.WARNING
    LOG.log(level, "Health of the child: %s", health.verdict)
    return health


def _probing(run: Run, found: Diagnosis, worker: Any) -> dict[str, Any]:
    """Return the report with the probes it was made with; nothing if it is a given one.

    A report that came with the config may have been made with any probes.
    """
    if run.config.mds:
        return {}
    probes = task_probes(run.config, run.exams["search"], worker)
    return {"report": found.report, "probes": probes}


def random_search(run: Run, found: Diagnosis, count: int) -> Evaluation:
    """Return the best of `count` uniform random genomes, measured on search items."""
    subjects = [
        subject_of(found.common, genome, name=f"random {i}")
        for i, genome in enumerate(
            random_genomes(found.space, count, run.config.search.seed)
        )
    ]
    return best_of(measure(run, "baseline", 0, "search", subjects))


def random_genomes(space: Space, count: int, seed: int) -> list[Genome]:
    """Return genomes drawn uniformly from the search intervals."""
    points = np.random.RandomState([seed, 99]).rand(count, len(space.genes))
    return [space.decode(point) for point in points]


def compare(
    run: Run,
    found: Diagnosis,
    model: Path,
    best: Evaluation,
    rival: Evaluation | None,
) -> Comparison:
    """Measure everybody on the held-out items and test the child against them."""
    config = run.config
    uniform = uniform_yamls(found.common)
    subjects = [
        Subject("father", model=config.father),
        Subject("mother", model=config.mother),
        *(Subject(name, recipe=text) for name, text in uniform.items()),
        subject_of(found.common, make_genome({}, found.space.blocks), NEUTRAL),
    ]
    if rival is not None:
        genome = genome_of(rival)
        subjects.append(subject_of(found.common, genome, "random search"))
    lines = measure(run, "baseline", 0, "heldout", subjects)
    made = genome_of(best)
    digest = found.common.settings_of(made).hash
    child = Subject("child", model=str(model), genome=made, digest=digest)
    lines += measure(run, "final", 0, "heldout", [child])
    return comparison(run, lines, tuple(uniform))


def comparison(
    run: Run, lines: Sequence[Evaluation], uniform: tuple[str, ...]
) -> Comparison:
    """Return the table and both paired tests for held-out lines, the child's last."""
    exam = run.exams["heldout"]
    rows = tuple(row_of(line, heldout_items(run, line), exam) for line in lines)
    child = rows[-1]
    parent = better(rows[:-1], ("father", "mother"))
    merge = better(rows[:-1], uniform)
    scored = child.score is not None
    return Comparison(
        rows=rows,
        parent=paired(child, parent, exam) if parent and scored else None,
        uniform=paired(child, merge, exam) if merge and scored else None,
        uniform_names=uniform,
    )
