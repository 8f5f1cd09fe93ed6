"""What a start of a breeding run may choose; the command asks for it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from mergekit_darwin.talk import asked

if TYPE_CHECKING:
    from mergekit_darwin.evolve.config import EvolveConfig


@dataclass(frozen=True)
class RunOptions:
    """What a start of a run may choose.

    The first three stand in place of what the config says. The rest may change between
    two starts of one run without changing its result; num_threads are torch's, in every
    worker alike, so that sums come out the same in all of them.
    """

    reuse_mds: str | Path | None = asked(
        None,
        "Folder of another run of these parents: its scan is taken over.",
        type=click.Path(exists=True, file_okay=False),
    )
    random_seed: int | None = asked(
        None, "In place of search.seed.", type=click.IntRange(1)
    )
    max_evaluations: int | None = asked(
        None, "In place of search.max_evaluations.", type=click.IntRange(1)
    )
    scratch: str | None = asked(
        None,
        "Folder for candidates, deleted one by one (a RAM disk, say)."
        "  [default: STORAGE_PATH/scratch]",
        type=click.Path(file_okay=False),
    )
    strategy: Literal["serial", "ray"] = asked(
        "serial",
        "Measure here, or by Ray actors; the result is the same.",
        type=click.Choice(["serial", "ray"]),
    )
    num_workers: int = asked(1, "Ray actors.", type=click.IntRange(1))
    gpus_per_worker: float = asked(
        0.0, "GPUs that each Ray actor asks for.", type=click.FloatRange(0)
    )
    ray_address: str | None = asked(
        None, "A cluster that is up (auto, or HOST:PORT), not one made here."
    )
    in_memory: bool | None = asked(
        None,
        "Merge into a loaded model instead of over the disk."
        "  [default: where the model fits]",
        off=True,
    )
    device: str = asked("cpu", "Merge and measure on it.")
    eval_dtype: str = asked(
        "auto",
        "Type to measure in; auto: float32 on a CPU, else the files' own.",
        type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    )
    batch_size: str = asked("64", "Of measuring; auto too.")
    num_threads: int | None = asked(
        None, "CPU threads of torch.", type=click.IntRange(1)
    )
    random_search: bool = asked(
        False, "Measure as many random genomes as well, for comparison.", off=True
    )
    allow_benchmark_tasks: bool = asked(
        False, "Search on public benchmarks' items; the report will say so."
    )
    trust_remote_code: bool = asked(
        False, "Trust remote code from model repositories (danger).", off=True
    )
    wandb: bool = asked(False, "Log to Weights & Biases.")
    wandb_project: str = asked("mergekit-darwin", "Project to log to.")
    quiet: bool = False


def fits_in_memory(config: EvolveConfig, options: RunOptions) -> bool:
    """Return whether every worker can keep a model to merge into beside another one.

    Twice its weights in the type they are measured in, and a fifth for the rest.
    """
    if config.model_type != "hf" or config.model_args:
        return False
    if config.tokenizer or config.tokenizer_source:
        return False
    from mergekit_darwin.models.checkpoint import open_checkpoint

    headers = open_checkpoint(config.father).headers.values()
    size = 4 if options.eval_dtype in ("auto", "float32") else 2
    needed = 2.2 * size * sum(math.prod(row.shape) for row in headers)
    if options.device.startswith("cuda"):
        import torch

        return needed * options.num_workers < torch.cuda.mem_get_info(options.device)[0]
    import psutil

    return bool(needed * options.num_workers < psutil.virtual_memory().available)
