"""Scoring beside a process that burns one core: how idle threads wait matters.

    python benchmarks/busy_machine.py [--repeat 7] [--threads 2]

What is timed are forward passes of the tiny family's Father over batches of 16 items,
as evolve scores them, in a process of its own (imports and loading do not count). Sides
take turns: with OpenMP's threads spinning while they wait, as they do by default, and
sleeping, as our commands have them; with and without a process that does nothing but
burn a core. Medians of wall time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
SIDES = {"spinning": {"OMP_WAIT_POLICY": "active"}, "sleeping": {}}
BURN = "while True: pass"


def one(threads: int, passes: int) -> None:
    """Score here as a command would; print the seconds."""
    from mergekit_darwin.talk import setup_logging

    setup_logging(0, True)
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(ROOT / "examples/tiny_family/father")
    tokens = torch.arange(16 * 48).reshape(16, 48) % 100
    with torch.no_grad():
        model(tokens)
        began = time.perf_counter()
        for _ in range(passes):
            model(tokens).logits.log_softmax(-1)
    print(json.dumps(time.perf_counter() - began))


def run(side: str, burning: bool, options: argparse.Namespace) -> float:
    """Return the seconds of scoring in a process of its own."""
    waiting = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_NUM_THREADS")
    numbers = ["--threads", str(options.threads), "--passes", str(options.passes)]
    bare = {k: v for k, v in os.environ.items() if k not in waiting}
    burner = subprocess.Popen([sys.executable, "-c", BURN]) if burning else None
    try:
        result = subprocess.run(
            [sys.executable, __file__, "--one", *numbers],
            env={**bare, **SIDES[side], "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            check=True,
        )
    finally:
        if burner:
            burner.kill()
            burner.wait()
    return float(json.loads(result.stdout.splitlines()[-1]))


def main() -> None:
    """Print a Markdown table of the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--passes", type=int, default=20)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one(options.threads, options.passes)
        return
    found: dict[tuple[str, bool], list[float]] = {}
    for _ in range(options.repeat):
        for side in SIDES:
            for burning in (False, True):
                seconds = run(side, burning, options)
                print(side, burning, f"{seconds:.2f}", file=sys.stderr)
                found.setdefault((side, burning), []).append(seconds)
    print("| threads wait | alone, s | beside a burning process, s | times |")
    print("| --- | ---: | ---: | ---: |")
    for side in SIDES:
        alone, beside = (statistics.median(found[side, b]) for b in (False, True))
        print(f"| {side} | {alone:.2f} | {beside:.2f} | {beside / alone:.1f} |")


if __name__ == "__main__":
    main()
