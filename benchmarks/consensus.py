"""Does a vote help, and what does stopping it early save? On the real pairs.

    python benchmarks/real_pairs.py items OUT             # items, models: see there
    python benchmarks/consensus.py tasks OUT              # generative tasks over them
    python benchmarks/consensus.py one-token OUT MODEL    # exact, no sampling
    mergekit-darwin-delphi MODEL --include-path OUT/consensus_tasks \
        --tasks sums_generated --shadow --out OUT/delphi  # by sampling
    python benchmarks/consensus.py replay OUT/delphi      # other plans, same samples
    python benchmarks/consensus.py train-steps OUT        # OUT/models/steps, its items
    python benchmarks/consensus.py train-steps OUT MODEL  # from a real model

Steps: the tiny family's Father (1.25 M parameters, one thread), or a real model, learns
to add four digits by running totals, in any order: many ways to one answer.

One-token answers: what a model would answer first, of the four words that an item
shows. One forward pass gives the chance of each, so that the accuracy of a vote of any
size is a sum and not a sample.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import yaml
from consensus_steps import train_steps

from mergekit_darwin.delphi.guarantee import make_plan, vote_accuracy
from mergekit_darwin.delphi.report import STOPPED, make_report
from mergekit_darwin.delphi.samples import SAMPLES_NAME, read_samples

SKILLS = ("sums", "differences", "words", "steps")
VOTES = (1, 4, 16, 64)
RISKS = (0.0, 0.005, 0.01, 0.025, 0.05, 0.1)


def write_tasks(out: Path) -> None:
    """Write a generate_until task for each skill that has items."""
    folder = out / "consensus_tasks"
    folder.mkdir(exist_ok=True)
    for skill in SKILLS:
        file = out / "items" / skill / "heldout.jsonl"
        if file.exists():
            path = folder / f"{skill}_generated.yaml"
            path.write_text(yaml.safe_dump(task(skill, file)), encoding="utf-8")


def task(skill: str, items: Path) -> dict[str, Any]:
    """Return a task: the last number, or the last word, of one line is the answer."""
    answer = r"([A-Za-z-]+)\s*$" if skill == "words" else r"(\d+)\s*$"
    return {
        "task": f"{skill}_generated",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(items.resolve())}},
        "output_type": "generate_until",
        "test_split": "test",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": target(skill),
        "generation_kwargs": {
            "until": ["\n"],
            "max_gen_toks": 40 if skill == "steps" else 8,
            "do_sample": False,
        },
        "filter_list": [
            {
                "name": "answer",
                "filter": [
                    {"function": "regex", "regex_pattern": answer},
                    {"function": "take_first"},
                ],
            }
        ],
        "num_fewshot": 0,
        "metric_list": [
            {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}
        ],
        "metadata": {"version": 1.0},
    }


def target(skill: str) -> str:
    """Return the template of the right answer: the end of the completion."""
    if skill == "steps":
        return "{{completion.split('=')[-1].strip()}}"
    return "{{completion.strip()}}"


def one_token(out: Path, model_path: Path) -> None:
    """Print the exact accuracy of votes over the first token of four shown words."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_path)
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32).eval()
    lines = (out / "items" / "words" / "heldout.jsonl").read_text(encoding="utf-8")
    rows = [_first_tokens(model, tokenizer, json.loads(x)) for x in lines.splitlines()]
    rows = [row for row in rows if row is not None]
    print(f"{len(rows)} items whose four words begin with four different tokens")
    for temperature in (0.7, 1.0):
        shares = [_softened(row, temperature) for row in rows]
        print(f"temperature {temperature}: greedy {_mean(map(_greedy, shares))}")
        for votes in VOTES:
            print(
                f"  vote of {votes}: {_mean(vote_accuracy(s, votes) for s in shares)}"
            )


def _first_tokens(model: Any, tokenizer: Any, item: dict[str, str]) -> Any:
    """Return the logits of the four words' first tokens, the right one first."""
    import torch

    right = item["completion"].strip()
    shown = [word.strip() for word in item["prompt"].split(";")[0].split(",")]
    order = [right, *(word for word in shown if word != right)]
    prompt = tokenizer(item["prompt"])["input_ids"]
    firsts = [
        tokenizer(f"{item['prompt']} {word}")["input_ids"][len(prompt)]
        for word in order
    ]
    if len(set(firsts)) < len(order):
        return None
    with torch.inference_mode():
        logits = model(torch.tensor([prompt])).logits[0, -1]
    return logits[firsts].double().tolist()


def _softened(logits: list[float], temperature: float) -> list[float]:
    most = max(logits)
    weights = [math.exp((x - most) / temperature) for x in logits]
    return [weight / sum(weights) for weight in weights]


def _greedy(shares: list[float]) -> float:
    return float(shares[0] == max(shares))


def _mean(values: Any) -> str:
    found = list(values)
    mean = math.fsum(found) / len(found)
    spread = math.fsum((value - mean) ** 2 for value in found) / (len(found) - 1)
    return f"{mean:.4f} ± {math.sqrt(spread / len(found)):.4f}"


def replay(folder: Path) -> None:
    """Print what other plans would have saved and said on the samples of a run."""
    held = read_samples(folder / SAMPLES_NAME)
    task = next(iter(held))[0]
    print("| stage | risk | tolerance | worst case | saved | agreement | score |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for stage in (1, 2, 4):
        for risk in RISKS:
            plan = make_plan(16, stage, risk)
            metrics = {task: ("metric", 1.0)}
            report = make_report(
                "", plan, {task: list(held.values())}, metrics=metrics, risk=risk
            )
            found = report.tasks[task]
            score = found.scores[STOPPED]
            print(
                f"| {stage} | {risk} | {plan.tolerance:.4f} |"
                f" {report.worst.chance:.4f} | {found.cost.saved:.1%} |"
                f" {found.agreement.share if found.agreement else 1.0:.3f} |"
                f" {score.mean:.4f} ± {score.stderr:.4f} |"
            )


def main() -> None:
    """Read the command line and do one step."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("step", choices=("tasks", "one-token", "replay", "train-steps"))
    parser.add_argument("out", type=Path)
    parser.add_argument("model", type=Path, nargs="?")
    options = parser.parse_args()
    if options.step == "tasks":
        write_tasks(options.out)
    elif options.step == "train-steps":
        train_steps(options.out, options.model)
    elif options.step == "replay":
        replay(options.out)
    else:
        one_token(options.out, options.model)


if __name__ == "__main__":
    main()
