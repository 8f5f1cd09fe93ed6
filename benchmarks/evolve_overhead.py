"""Candidates an hour: in memory, over the disk, and by hand as mergekit-evolve does.

    python benchmarks/evolve_overhead.py [--config examples/evolve.yml] [--repeat 7]

Needs the models of the config. The same candidate is measured by a Worker that merges
in memory, by one that goes over the disk, and by hand: mergekit's run_merge into a
folder, a load, lm_eval.evaluate. The three take turns in one process; times are CPU
times of it, which others disturb little; medians count.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

import lm_eval
import torch
import transformers

from mergekit_darwin.evolve.log import Candidate
from mergekit_darwin.evolve.options import RunOptions
from mergekit_darwin.evolve.reading import read_config
from mergekit_darwin.evolve.workers import Worker
from mergekit_darwin.merge.roles import Roles
from mergekit_darwin.merge.yaml import Common, genome_yaml, merge_to
from mergekit_darwin.models.harness import quiet
from mergekit_darwin.ratios.genome import make_genome

ROOT = Path(__file__).parent.parent


def by_hand(worker: Worker, text: str) -> None:
    """Merge into a folder, load and measure with nothing of ours in between."""
    path = tempfile.mkdtemp()
    merge_to(text, Path(path), worker.merging)
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    tasks = worker.tasks["search"].tasks
    with quiet():
        lm_eval.evaluate(
            lm=worker.harness(model.eval(), tokenizer, path),
            task_dict={
                "tasks": {task.name: task.loaded for task in tasks},
                "groups": {},
                "group_map": {},
            },
            samples={task.name: list(task.samples) for task in tasks},
            bootstrap_iters=0,
            log_samples=True,
        )
    shutil.rmtree(path)


def measuring(worker: Worker, child: Candidate) -> Callable[[], None]:
    """Return what measures a candidate by a worker."""

    def work() -> None:
        done = worker.measure(child, child.line(0, "real", 0), "search")
        if done.error:
            raise SystemExit(done.error)

    return work


def main() -> None:
    """Print the median time of each way, and candidates an hour."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default=str(ROOT / "examples" / "evolve.yml"))
    parser.add_argument("--repeat", type=int, default=7)
    given = parser.parse_args()
    config = read_config(given.config)
    roles = Roles(config.base_model, config.father, config.mother)
    genome = make_genome({})
    text = genome_yaml(Common(roles, head={"dtype": config.dtype}), genome)
    child = Candidate("child", yaml=text, genome=genome)
    with tempfile.TemporaryDirectory() as scratch:
        disk = Worker(config, RunOptions(in_memory=False, num_threads=1), scratch)
        inside = Worker(
            config, RunOptions(in_memory=True, num_threads=1), scratch, disk.tasks
        )
        ways = {
            "in memory": measuring(inside, child),
            "over the disk": measuring(disk, child),
            "by hand": lambda: by_hand(disk, text),
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(given.repeat + 1):  # the first warms every cache
            for name, work in ways.items():
                began = time.process_time()
                work()
                if turn:
                    times[name].append(time.process_time() - began)
    hand = statistics.median(times["by hand"])
    print("| way | CPU s a candidate | candidates an hour | against by hand |")
    print("| --- | ---: | ---: | ---: |")
    for name, found in times.items():
        median = statistics.median(found)
        print(
            f"| {name} | {median:.2f} | {3600 / median:.0f} | {hand / median:.2f} x |"
        )


if __name__ == "__main__":
    main()
