"""Prints the accuracy of models on the five skills as a Markdown table.

    python measure.py [--split heldout] [--limit N] MODEL [MODEL ...]

A MODEL is a folder (base, father and mother are found beside this script), or A,B: two
numbers that stand for base + A * (father - base) + B * (mother - base). So 0.5,0.5 is
the linear merge and 1,1 adds both whole task vectors.
"""

import argparse
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

import lm_eval
import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoTokenizer, LlamaForCausalLM

HERE = Path(__file__).resolve().parent
SKILLS = ("reasoning", "code", "math", "knowledge", "language")


def load(name: str) -> LlamaForCausalLM:
    """Return a model in float32 by its name, as described above."""
    if "," in name:
        return combine(*(float(x) for x in name.split(",")))
    folder = HERE / name if (HERE / name / "config.json").exists() else Path(name)
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)


def combine(a: float, b: float) -> LlamaForCausalLM:
    """Return base + a * (father - base) + b * (mother - base), rounded to bfloat16."""
    base, father, mother = (load(x) for x in ("base", "father", "mother"))
    with torch.no_grad():
        for x, f, m in zip(
            base.parameters(), father.parameters(), mother.parameters(), strict=True
        ):
            x.copy_((x + a * (f - x) + b * (m - x)).bfloat16())
    return base


def scores(
    model: LlamaForCausalLM, split: str, limit: int | None
) -> list[tuple[float, float]]:
    """Return (accuracy, standard error) of the five skills."""
    tasks = [f"tiny_{skill}_{split}" for skill in SKILLS]
    harness = HFLM(
        pretrained=model,
        tokenizer=AutoTokenizer.from_pretrained(HERE / "base"),
        batch_size=256,
        device="cpu",
    )
    results = lm_eval.simple_evaluate(
        harness,
        tasks=tasks,
        limit=limit,
        task_manager=TaskManager(include_path=str(HERE / "tasks")),
    )["results"]
    return [(results[x]["acc,none"], results[x]["acc_stderr,none"]) for x in tasks]


def row(name: str, found: list[tuple[float, float]]) -> str:
    """Return one table row; the mean is over the skills, which are of equal size."""
    mean = sum(accuracy for accuracy, _ in found) / len(found)
    error = sum(stderr**2 for _, stderr in found) ** 0.5 / len(found)
    cells = [f"{value:.3f} ± {spread:.3f}" for value, spread in [*found, (mean, error)]]
    return " | ".join(["", name, *cells, ""]).strip()


def main() -> None:
    """Measure and print one row a model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+")
    parser.add_argument("--split", default="heldout", choices=("search", "heldout"))
    parser.add_argument("--limit", type=int, help="items a skill; all by default")
    options = parser.parse_args()
    print(" | ".join(["", "model", *SKILLS, "mean", ""]).strip())
    print("|" + " --- |" * (len(SKILLS) + 2))
    for name in options.models:
        model, started = load(name), time.time()
        print(row(name, scores(model, options.split, options.limit)), flush=True)
        print(f"{name}: {time.time() - started:.1f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
