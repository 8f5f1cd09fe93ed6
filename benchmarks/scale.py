"""Time and memory against size: merge, scan and health of models in real shapes.

    python benchmarks/scale.py WORK [--models NAME ...] [--sides SIDE ...] [--repeat 1]
    python benchmarks/scale.py WORK --report [--plot FILE.png]

For each model both parents are written (random weights in the shapes of a real one, in
bfloat16, shards of 2 GB), then every side runs in a process of its own, its files out
of the page cache before each; the disk must hold a model three times. Rows go to
WORK/scale.jsonl: seconds and the peak of resident memory, mapped files counted. Sides:

read        both parents' files, read once in pieces of 16 MiB
linear      mergekit's linear, dare_ties its dare_ties with the Father as base
darwin      darwin_v6, static profile on the fly, the Father as base
scan        mergekit-darwin-scan --no-probes
health      mergekit-darwin-health --no-probes of darwin's child
stream      mergekit-darwin-scan --stream on two short texts, in bfloat16
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LLAMA = {"rms_norm_eps": 1e-5, "num_key_value_heads": 8, "vocab_size": 128256}
GEMMA = {
    "vocab_size": 262144,
    "hidden_size": 5376,
    "intermediate_size": 21504,
    "num_attention_heads": 32,
    "num_key_value_heads": 16,
    "num_global_key_value_heads": 4,
    "head_dim": 256,
    "global_head_dim": 512,
    "attention_k_eq_v": True,
    "hidden_size_per_layer_input": 0,
    "num_kv_shared_layers": 0,
    "tie_word_embeddings": True,
}


def _llama(layers: int, hidden: int, inner: int, heads: int, **more: Any) -> Any:
    sizes = {"num_hidden_layers": layers, "hidden_size": hidden}
    sizes |= {"intermediate_size": inner, "num_attention_heads": heads}
    return "Llama", {**LLAMA, **sizes, **more}


MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama-3.2-1b": _llama(16, 2048, 8192, 32, tie_word_embeddings=True),
    "smollm2-1.7b": _llama(
        24,
        2048,
        8192,
        32,
        num_key_value_heads=32,
        vocab_size=49152,
        tie_word_embeddings=True,
    ),
    "llama-3.2-3b": _llama(28, 3072, 8192, 24, tie_word_embeddings=True),
    "phi-3-mini": _llama(
        32,
        3072,
        8192,
        32,
        num_key_value_heads=32,
        vocab_size=32064,
        tie_word_embeddings=False,
    ),
    "llama-3.1-8b": _llama(32, 4096, 14336, 32, tie_word_embeddings=False),
    "gemma-31b-2-of-60": ("Gemma4Text", {**GEMMA, "num_hidden_layers": 2}),
    "gemma-31b-6-of-60": ("Gemma4Text", {**GEMMA, "num_hidden_layers": 6}),
}
SIDES = ("read", "darwin", "linear", "dare_ties", "scan", "health", "stream")
POOL = 1 << 26  # random numbers that all tensors are cut from
SHARD = 2 * 10**9  # bytes
CHILD = """
import sys
name, *words = sys.argv[1:]
if name == "mergekit":
    from mergekit.scripts.run_yaml import main
else:
    from importlib import import_module
    main = import_module(f"mergekit_darwin.cli.{name}").main
try:
    main(words, standalone_mode=False)
except SystemExit as end:
    if end.code not in (0, 3):
        raise
with open("/proc/self/status") as file:
    print("peak", next(x.split()[1] for x in file if x.startswith("VmHWM")))
"""


@dataclass(frozen=True)
class Row:
    """One measurement: seconds, and the peak of resident memory in bytes."""

    model: str
    side: str
    parameters: int
    seconds: float
    peak: int


def shapes_of(name: str, folder: Path) -> dict[str, tuple[int, ...]]:
    """Write a model's config and return the shapes of its stored tensors."""
    import torch
    import transformers

    kind, sizes = MODELS[name]
    config = getattr(transformers, f"{kind}Config")(**sizes, dtype="bfloat16")
    family = kind.removesuffix("Text")
    config.architectures = [f"{family}ForCausalLM"]
    config.save_pretrained(folder)
    with torch.device("meta"):
        model = getattr(transformers, f"{family}ForCausalLM")(config)
    tied = set(model.all_tied_weights_keys)
    state = model.state_dict()
    return {k: tuple(v.shape) for k, v in state.items() if k not in tied}


def write_parents(name: str, work: Path) -> int:
    """Write father and mother; return the number of parameters."""
    import torch

    from tests.tiny import byte_tokenizer

    draw = torch.Generator().manual_seed(1)
    father = 0.02 * torch.randn(POOL, generator=draw)
    mother = (father + 0.002 * torch.randn(POOL, generator=draw)).bfloat16()
    count = 0
    for role, pool in (("father", father.bfloat16()), ("mother", mother)):
        folder = work / role
        folder.mkdir(parents=True)
        shapes = shapes_of(name, folder)
        byte_tokenizer(folder)
        _write_shards(folder, shapes, pool)
        count = sum(_size(shape) for shape in shapes.values())
    return count


def _size(shape: tuple[int, ...]) -> int:
    count = 1
    for length in shape:
        count *= length
    return count


def _write_shards(folder: Path, shapes: dict[str, tuple[int, ...]], pool: Any) -> None:
    from mergekit.io import TensorWriter

    writer, place = TensorWriter(str(folder), max_shard_size=SHARD), 0
    for name, shape in shapes.items():
        count = _size(shape)
        copies = -(-(place + count) // POOL)
        cut = pool.repeat(copies)[place : place + count].reshape(shape)
        writer.save_tensor(name, cut + 1 if len(shape) == 1 else cut.clone())
        place = (place + count + 7919) % POOL  # a prime: no two tensors are alike
    writer.finalize()


def forget(folder: Path) -> None:
    """Put a folder's files out of the page cache."""
    for file in folder.glob("**/*.safetensors"):
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read(work: Path) -> float:
    """Return the seconds of reading both parents once."""
    began = time.perf_counter()
    for file in sorted(work.glob("*ther/*.safetensors")):
        with file.open("rb", buffering=0) as opened:
            while opened.read(1 << 24):
                pass
    return time.perf_counter() - began


def words_of(side: str, work: Path) -> list[str]:
    """Return the command of a side; its first word is mergekit or a command of ours."""
    parents = [str(work / "father"), str(work / "mother")]
    both = {"--father": parents[0], "--mother": parents[1]}
    named = [word for pair in both.items() for word in pair]
    out = ["--out", str(work / side)]
    quiet = ["--no-probes", "--quiet"]
    if side == "scan":
        return ["scan", *parents, *out, *quiet]
    if side == "health":
        return ["health", str(work / "darwin"), *named, *out, *quiet]
    if side == "stream":
        texts = work / "texts"
        texts.mkdir(exist_ok=True)
        (texts / "sums.txt").write_text("12 + 30 = 42\n7 * 8 = 56\n", encoding="utf-8")
        running = ["--probes", str(texts), "--stream", "--dtype", "bfloat16", "--quiet"]
        return ["scan", *parents, *out, *running]
    method = {"darwin": "darwin_v6"}.get(side, side)
    given = {"weight": 0.5} if side != "darwin" else {}
    given |= {"density": 0.9} if side == "dare_ties" else {}
    content: dict[str, Any] = {
        "merge_method": method,
        "models": [{"model": m, "parameters": given} for m in parents],
        "dtype": "bfloat16",
    }
    if side == "dare_ties":
        content["base_model"] = parents[0]
    config = work / f"{side}.yml"
    config.write_text(json.dumps(content), encoding="utf-8")
    return ["mergekit", str(config), str(work / side), "--quiet"]


def measure(name: str, side: str, count: int, work: Path) -> Row:
    """Run a side once, from files that the page cache does not hold."""
    if side != "darwin":
        shutil.rmtree(work / side, ignore_errors=True)
    for part in ("father", "mother", "darwin"):
        forget(work / part)
    if side == "read":
        return Row(name, side, count, read(work), 0)
    if side == "darwin":
        shutil.rmtree(work / side, ignore_errors=True)
    words = words_of(side, work)
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *words],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    seconds = time.perf_counter() - began
    if side not in ("darwin", "scan"):
        shutil.rmtree(work / side, ignore_errors=True)
    peak = int(done.stdout.split("peak ")[-1].split()[0]) * 1024
    return Row(name, side, count, seconds, peak)


def rows_of(work: Path) -> Iterator[Row]:
    """Yield what was measured."""
    for line in (work / "scale.jsonl").read_text(encoding="utf-8").splitlines():
        yield Row(**json.loads(line))


def medians(work: Path) -> dict[str, dict[str, Row]]:
    """Return the median row by model, small first, and side."""
    from statistics import median

    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows_of(work):
        groups.setdefault((row.model, row.side), []).append(row)
    found: dict[str, dict[str, Row]] = {}
    for (model, side), rows in sorted(groups.items(), key=lambda x: x[1][0].parameters):
        seconds = median(row.seconds for row in rows)
        peak = int(median(row.peak for row in rows))
        middle = Row(model, side, rows[0].parameters, seconds, peak)
        found.setdefault(model, {})[side] = middle
    return found


def straight(points: list[tuple[float, float]]) -> tuple[float, float, float]:
    """Return slope, intercept and R squared of a least-squares line."""
    import numpy as np

    x, y = np.array(points).T
    slope, start = np.polyfit(x, y, 1)
    left = ((y - slope * x - start) ** 2).sum()
    return float(slope), float(start), float(1 - left / ((y - y.mean()) ** 2).sum())


def report(work: Path, plot: Path | None) -> None:
    """Print a Markdown table and the lines through it; draw both."""
    found = medians(work)
    shown = [side for side in SIDES if any(side in rows for rows in found.values())]
    print("| model | parameters | " + " | ".join(shown) + " |")
    print("| --- | ---: |" + " ---: |" * len(shown))
    for model, sides in found.items():
        count = next(iter(sides.values())).parameters
        cells = " | ".join(_cell(sides.get(side)) for side in shown)
        print(f"| {model} | {count / 1e9:.2f} B | {cells} |")
    lines = {}
    for side in shown:
        rows = [x[side] for n, x in found.items() if side in x and "31b" not in n]
        points = [(row.parameters / 1e9, row.seconds) for row in rows]
        if len(points) > 2:
            lines[side] = slope, start, fit = straight(points)
            said = f"{side}: {start:.1f} s + {slope:.2f} s a billion, R2 {fit:.4f}"
            print(f"{said}; 31.3 B: {start + slope * 31.3:.0f} s")
    if plot:
        draw(found, lines, plot)


def _cell(row: Row | None) -> str:
    if row is None:
        return "-"
    peak = f", {row.peak / 1e9:.1f} GB" if row.peak else ""
    return f"{row.seconds:.1f} s{peak}"


def draw(found: Any, lines: Any, path: Path) -> None:
    """Draw seconds and peak memory against parameters, a colour a side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for side in SIDES:
        rows = [x[side] for n, x in found.items() if side in x and "31b" not in n]
        if not rows:
            continue
        across = [row.parameters / 1e9 for row in rows]
        (mark,) = left.plot(across, [row.seconds for row in rows], "o", label=side)
        if side in lines:
            slope, start, _ = lines[side]
            ends = [0, max(across)]
            line = [start + slope * x for x in ends]
            left.plot(ends, line, color=mark.get_color(), linewidth=1)
        if side != "read":
            peaks = [row.peak / 1e9 for row in rows]
            right.plot(across, peaks, "o-", color=mark.get_color())
    left.set(xlabel="parameters, billions", ylabel="seconds, files not in cache")
    right.set(xlabel="parameters, billions", ylabel="peak resident memory, GB")
    right.set_ylim(0)
    left.set_ylim(0)
    figure.legend(
        *left.get_legend_handles_labels(), loc="outside upper center", ncols=7
    )
    figure.savefig(path, dpi=150)


def main() -> None:
    """Write the models one by one, measure their sides, or report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS)[:5])
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    if options.report:
        report(options.work, options.plot)
        return
    options.work.mkdir(parents=True, exist_ok=True)
    for name in options.models:
        work = options.work.resolve() / name
        count = write_parents(name, work)
        for _ in range(options.repeat):
            for side in options.sides:
                row = measure(name, side, count, work)
                print(row, flush=True)
                with (options.work / "scale.jsonl").open("a", encoding="utf-8") as file:
                    file.write(json.dumps(vars(row)) + "\n")
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
