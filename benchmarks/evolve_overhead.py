"""What a real evaluation costs beside merging and lm-evaluation-harness themselves.

    python benchmarks/evolve_overhead.py [--repeat 5] [--in-memory]

Needs the tiny family's models. The same candidate is measured by a Worker, and then by
hand: mergekit's run_merge into a folder, a load, lm_eval.evaluate. Times are CPU times
of this process, which others disturb little; the least of the repeats counts.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

import lm_eval
import torch
import transformers

from mergekit_darwin.evolve.config import RunOptions, read_config
from mergekit_darwin.evolve.log import Candidate
from mergekit_darwin.evolve.workers import Worker
from mergekit_darwin.harness import quiet
from mergekit_darwin.merge.into import merge_into, merge_to
from mergekit_darwin.merge.roles import Roles
from mergekit_darwin.merge.yaml import Common, genome_yaml
from mergekit_darwin.ratios.genome import make_genome

ROOT = Path(__file__).parent.parent


def least(work: Callable[[], Any], repeat: int) -> float:
    """Return the least CPU time of some repeats, in seconds."""
    times = []
    for _ in range(repeat):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return min(times)


def by_hand(worker: Worker, text: str, memory: Any) -> None:
    """Merge, load and measure with nothing of ours in between."""
    options = worker.merging
    path = tempfile.mkdtemp()
    if memory is None:
        merge_to(text, Path(path), options)
        model = transformers.AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.float32
        )
    else:
        merge_into(text, memory, options)
        model = memory
    tokenizer = worker._tokenizer("hand", worker.config.father)
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


def main() -> None:
    """Print both times and the overhead."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--in-memory", action="store_true")
    options = parser.parse_args()
    config = read_config(ROOT / "examples" / "evolve.yml")
    with tempfile.TemporaryDirectory() as scratch:
        given = RunOptions(in_memory=options.in_memory, num_threads=1)
        worker = Worker(config, given, scratch)
        roles = Roles(config.base_model, config.father, config.mother)
        common = Common(roles, head={"dtype": "bfloat16"})
        genome = make_genome({})
        text = genome_yaml(common, genome)
        child = Candidate("child", yaml=text, genome=genome)
        job = (child, child.line(0, "real", 0), "search")
        done = worker.measure(*job)  # warms every cache of both sides
        if done.error:
            raise SystemExit(done.error)
        memory = worker._inner
        ours = least(lambda: worker.measure(*job), options.repeat)
        hand = least(lambda: by_hand(worker, text, memory), options.repeat)
    print(f"by a worker {ours:.2f} s, by hand {hand:.2f} s of CPU time:", end=" ")
    print(f"overhead {100 * (ours / hand - 1):+.1f} %")


if __name__ == "__main__":
    main()
