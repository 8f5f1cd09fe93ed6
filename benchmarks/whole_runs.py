"""Whole mergekit runs on a 0.5 B-parameter Llama: darwin_v6, dare_ties and linear.

    python benchmarks/whole_runs.py [--work DIR] [--repeat 7] [--clock cpu]

The script makes three models of random weights (1 GB each in bfloat16), then runs each
method in turn, every run a process of its own, and prints medians: seconds of graph
execution (loading, merging, writing), of the whole run without imports, of its stages,
and the peak of memory. The static profile is measured on the fly, as no MDS report is
given. mergekit reads by mapping files: what is read counts where it is first used.
--clock cpu counts seconds of computing, which other processes disturb less.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

PARENTS = ("father", "mother")
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
STAGES = ("plan", "schedule", "read", "profile", "blend", "cast", "write")


def make_models(work: Path) -> None:
    """Write base, father and mother: 24 layers of width 1024, 0.5 B parameters."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=1024,
        intermediate_size=5120,
        num_hidden_layers=24,
        num_attention_heads=16,
        num_key_value_heads=16,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    count = sum(p.numel() for p in model.parameters())
    print(f"{count / 1e9:.2f} B parameters", file=sys.stderr)
    model.save_pretrained(work / "base")
    for seed, name in enumerate(PARENTS, start=1):
        draw = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                noise = torch.randn(
                    parameter.shape, generator=draw, dtype=torch.float32
                )
                parameter.add_((0.002 * noise).to(torch.bfloat16))
        model.save_pretrained(work / name)


def configurations(work: Path) -> dict[str, dict]:
    """Return the merge of every side: the same parents, base and dtype."""
    paths = {name: str(work / name) for name in ("base", *PARENTS)}

    def models(**parameters: list[float]) -> list[dict]:
        return [
            {
                "model": paths[name],
                "parameters": {key: values[i] for key, values in parameters.items()},
            }
            for i, name in enumerate(PARENTS)
        ]

    common = {"dtype": "bfloat16", "base_model": paths["base"]}
    plain = [{"model": paths[name]} for name in PARENTS]
    genes = {"attn_ratio": 0.4, "density_a": 0.9, "density_b": 0.95}
    return {
        "dare_ties": {
            "merge_method": "dare_ties",
            "models": models(weight=[0.6, 0.4], density=[0.9, 0.95]),
            **common,
        },
        "linear": {
            "merge_method": "linear",
            "models": models(weight=[0.6, 0.4]),
            "dtype": "bfloat16",
        },
        "darwin_v6": {
            "merge_method": "darwin_v6",
            "models": plain,
            "parameters": genes,
            **common,
        },
        "darwin_v6, Father as base": {
            "merge_method": "darwin_v6",
            "models": plain,
            "parameters": genes,
            "dtype": "bfloat16",
        },
    }


class Stopwatch:
    """Seconds by stage; what runs inside another stage counts there only."""

    def __init__(self, clock: str):
        self._now = CLOCKS[clock]
        self.spent = dict.fromkeys(STAGES, 0.0)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time spent within under a stage."""
        start, before = self._now(), sum(self.spent.values())
        yield
        inside = sum(self.spent.values()) - before
        self.spent[name] += self._now() - start - inside

    def watch(self, owner: object, name: str, stage: str) -> None:
        """Count all calls of a function of mergekit's or ours under a stage."""
        function = getattr(owner, name)

        @functools.wraps(function)
        def timed(*args: object, **kwargs: object) -> object:
            with self.stage(stage):
                return function(*args, **kwargs)

        setattr(owner, name, timed)


def one_run(config: str, out: str, threads: int, clock: str) -> None:
    """Run mergekit here; print seconds of each stage, and the peak in MiB."""
    import torch
    import yaml
    from mergekit import merge
    from mergekit.config import MergeConfiguration
    from mergekit.io import tasks, tensor_writer
    from mergekit.merge_methods import task_adapter
    from mergekit.options import MergeOptions

    from mergekit_darwin.merge import method

    torch.set_num_threads(threads)
    content = yaml.safe_load(Path(config).read_text(encoding="utf-8"))
    watch = Stopwatch(clock)
    watch.watch(tasks.LoadTensor, "execute", "read")
    watch.watch(task_adapter.ExecuteMergeMethodTask, "execute", "blend")
    watch.watch(method, "sound_profiles", "profile")
    watch.watch(tasks.SaveTensor, "execute", "cast")
    watch.watch(tensor_writer.TensorWriter, "_flush_current_shard", "write")
    run = merge.Executor.run

    def timed(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        with watch.stage("schedule"):
            yield from run(self, *args, **kwargs)

    merge.Executor.run = timed
    with watch.stage("plan"):
        merge.run_merge(
            MergeConfiguration.model_validate(content),
            out,
            MergeOptions(quiet=True, copy_tokenizer=False),
            config_source=yaml.safe_dump(content),
        )
    spent = watch.spent
    whole = sum(spent.values())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    row = {"graph": whole - spent["plan"], "run": whole, "peak": peak, **spent}
    print(json.dumps(row))


def measure(work: Path, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return the medians of every side; sides take turns, a first round is dropped."""
    found: dict[str, list[dict[str, float]]] = {}
    for round_ in range(options.repeat + 1):
        for name, config in configurations(work).items():
            path, out = work / "config.yml", work / "out"
            path.write_text(json.dumps(config), encoding="utf-8")
            shutil.rmtree(out, ignore_errors=True)
            command = [sys.executable, __file__, "--one", str(path), str(out)]
            result = subprocess.run(
                [*command, "--threads", str(options.threads), "--clock", options.clock],
                capture_output=True,
                text=True,
                check=True,
                env={**os.environ, "HF_HUB_OFFLINE": "1"},
            )
            row = json.loads(result.stdout.splitlines()[-1])
            print(f"round {round_}: {name}: {row}", file=sys.stderr)
            if round_:
                found.setdefault(name, []).append(row)
    return {
        name: {key: statistics.median(r[key] for r in rows) for key in rows[0]}
        for name, rows in found.items()
    }


def draw(medians: dict[str, dict[str, float]], clock: str, path: Path) -> None:
    """Draw a bar a side, its stages stacked."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 0.9 + 0.55 * len(medians)), layout="constrained")
    axes = figure.subplots()
    names = list(medians)[::-1]
    left = [0.0] * len(names)
    for stage in STAGES:
        widths = [medians[name][stage] for name in names]
        axes.barh(names, widths, left=left, label=stage)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.set_xlabel(f"{clock} seconds of a run, medians")
    axes.legend(ncols=len(STAGES), loc="lower center", bbox_to_anchor=(0.4, 1.0))
    figure.savefig(path, dpi=150)


def main() -> None:
    """Print a Markdown table of the medians; draw where the time goes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/whole_runs"))
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall")
    parser.add_argument("--plot", type=Path, help="picture of the stages")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one_run(*options.one, options.threads, options.clock)
        return
    options.work.mkdir(parents=True, exist_ok=True)
    if not (options.work / "mother").exists():
        make_models(options.work)
    medians = measure(options.work.resolve(), options)
    base = medians["dare_ties"]["graph"]
    print(f"{options.clock} seconds\n")
    print("| method | graph | whole run | peak, MiB | dare_ties' graph / own |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, row in medians.items():
        print(
            f"| {name} | {row['graph']:.1f} | {row['run']:.1f} | {row['peak']:.0f}"
            f" | {base / row['graph']:.1f} x |"
        )
    print(f"\n| method | {' | '.join(STAGES)} |")
    print(f"| --- |{' ---: |' * len(STAGES)}")
    for name, row in medians.items():
        print(f"| {name} | {' | '.join(f'{row[key]:.2f}' for key in STAGES)} |")
    if options.plot:
        draw(medians, options.clock, options.plot)


if __name__ == "__main__":
    main()
