"""What a child of a pair must beat, and evolve's child."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch
import yaml
from mergekit.options import MergeOptions
from pair_items import PAIRS, read_jsonl
from pair_models import load
from pair_scores import exact

from mergekit_darwin.merge.roles import Roles
from mergekit_darwin.merge.yaml import Common, merge_to, uniform_yamls

LAMBDAS = (0.7, 1.0, 1.4, 2.0)
RATIOS = (0.2, 0.4, 0.6, 0.8)
"""Sixteen uniform merges: base + lambda ((1 - ratio) father + ratio mother's delta)."""
EVALUATIONS = len(LAMBDAS) * len(RATIOS)
SEARCH_ITEMS = 128
"""Of a pair, its skills in equal parts; the grid and evolve read the same ones."""
PROBE_ITEMS = 32
"""Of a pair: search items that evolve's scan reads, 31 forwards of each."""


def make_uniform(out: Path, name: str, seed: int) -> None:
    """Write linear, slerp, task arithmetic and dare_ties as mergekit makes them."""
    pair, models = PAIRS[name], out / "models"
    family = (str(models / name) for name in ("base", pair.father, pair.mother))
    common = Common(Roles(*family), head={"dtype": "bfloat16"})
    for label, text in uniform_yamls(common).items():
        random = label.startswith("dare")
        row = label.replace(" ", "_") + (f"_seed{seed}" if random else "")
        folder = out / "merged" / name / row
        if not folder.exists():
            merge_to(text, folder, MergeOptions(random_seed=seed, quiet=True))


@torch.no_grad()
def make_grid(out: Path, name: str) -> None:
    """Search the uniform grid on the search items and write its best model."""
    pair = PAIRS[name]
    child, tokenizer = load(out / "models" / "base")
    base = {k: v.clone() for k, v in child.named_parameters()}
    father, mother = (
        dict(load(out / "models" / x)[0].named_parameters())
        for x in (pair.father, pair.mother)
    )
    files = [out / "items" / x / "search.jsonl" for x in pair.skills]
    each = SEARCH_ITEMS // len(pair.skills)
    items = [read_jsonl(file)[:each] for file in files]

    def mix(scale: float, ratio: float) -> None:
        for key, weight in child.named_parameters():
            delta = torch.lerp(father[key], mother[key], ratio) - base[key]
            weight.copy_((base[key] + scale * delta).bfloat16())

    found = {}
    for point in ((x, y) for x in LAMBDAS for y in RATIOS):
        mix(*point)
        scores = [sum(exact(child, tokenizer, x)) / len(x) for x in items]
        found[point] = sum(scores) / len(scores)
        print(name, *point, *(f"{x:.3f}" for x in scores), flush=True)
    best = max(found, key=lambda point: found[point])
    print(f"{name}: best of the grid: lambda {best[0]}, ratio {best[1]}", flush=True)
    mix(*best)
    folder = out / "merged" / name / "grid"
    child.bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def evolve(out: Path, name: str, seed: int) -> None:
    """Breed the pair as mergekit-darwin-evolve does, with as many merges as the grid.

    The final model becomes merged/NAME/evolve_seedN, and the run is stopped there: its
    health check and its held-out table, as short as its search, would cost as much as
    half of the merges. A scan of an earlier seed (RUN/mds) that was copied to
    out/mds/NAME is used again.
    """
    pair, models = PAIRS[name], out / "models"
    config = {
        "father": str(models / pair.father),
        "mother": str(models / pair.mother),
        "base_model": str(models / "base"),
        "dtype": "bfloat16",
        "include_path": str(out / "tasks"),
        "tasks": [f"{x}_search" for x in pair.skills],
        "heldout": [f"{x}_heldout" for x in pair.skills],
        "limit": SEARCH_ITEMS // len(pair.skills),
        "probe_items": PROBE_ITEMS // len(pair.skills),
        "search": {"seed": seed, "max_evaluations": EVALUATIONS},
    }
    scanned = out / "mds" / name
    if scanned.exists():
        config["mds"] = str(scanned)
    run = out / "runs" / f"{name}_seed{seed}"
    run.parent.mkdir(parents=True, exist_ok=True)
    path = run.with_suffix(".yml")
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    command = "from mergekit_darwin.cli.evolve import main; main()"
    arguments = [str(path), "--storage-path", str(run), "--in-memory"]
    final = run / "final_model"
    with subprocess.Popen([sys.executable, "-c", command, *arguments]) as running:
        while running.poll() is None and not final.exists():
            time.sleep(1)
        running.terminate()
    shutil.copytree(final, out / "merged" / name / f"evolve_seed{seed}")
