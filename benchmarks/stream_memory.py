"""Peak memory of a streamed scan or refit of a large random model, against its size.

    python benchmarks/stream_memory.py [--command scan|refit] [--gigabytes 2]

Writes a random bfloat16 Llama, then runs the command with --stream in a process of its
own (the model as both parents, and as the child; two texts a skill and twenty general
ones) and prints the process's peak resident memory, which counts the pages of mapped
files as well, beside the model's size and one layer's in the precision it runs in.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from tests.tiny import VOCABULARY, byte_tokenizer

# VmHWM and not ru_maxrss, in which a new process still has its parent's peak
CHILD = """
import sys
from importlib import import_module
main = import_module(f"mergekit_darwin.cli.{sys.argv.pop(1)}").main
try:
    main(standalone_mode=False)
except SystemExit as end:
    if end.code not in (0, 3):
        raise
with open("/proc/self/status") as file:
    print(next(line for line in file if line.startswith("VmHWM")))
"""


def write_model(folder: Path, gigabytes: float) -> tuple[int, int]:
    """Write a model of at least that size, one shard a layer.

    Returns its bytes and those of one layer.
    """
    hidden, inner = 2048, 8192
    layer = 2 * (4 * hidden * hidden + 3 * hidden * inner)
    layers = int(gigabytes * 1e9 / layer) + 1
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=16,
        num_key_value_heads=16,
        dtype="bfloat16",
        architectures=["LlamaForCausalLM"],
    )
    config.save_pretrained(folder)
    byte_tokenizer(folder)
    with torch.device("meta"):
        shapes = {k: v.shape for k, v in LlamaForCausalLM(config).state_dict().items()}
    draw, index = torch.Generator().manual_seed(1), {}
    groups: dict[str, list[str]] = {}
    for name in shapes:
        parts = name.split(".")
        groups.setdefault(parts[2] if parts[1] == "layers" else "rest", []).append(name)
    size = 0
    for place, names in groups.items():
        tensors = {
            name: (0.01 * torch.randn(shapes[name], generator=draw)).bfloat16()
            for name in names
        }
        file = f"model-{place}.safetensors"
        save_file(tensors, folder / file, metadata={"format": "pt"})
        index.update(dict.fromkeys(names, file))
        size += sum(tensor.nbytes for tensor in tensors.values())
    content = {"metadata": {"total_size": size}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))
    return size, layer


def words_of(command: str, folder: Path, root: Path) -> list[str]:
    """Return the command line; texts are written beside the model."""
    probes, keep = root / "probes", root / "keep"
    for place in (probes, keep):
        place.mkdir()
    (probes / "sums.txt").write_text("12 + 30 = 42\n7 * 8 = 56\n", encoding="utf-8")
    said = "".join(f"General text of number {i} says little.\n" for i in range(20))
    (keep / "texts.txt").write_text(said, encoding="utf-8")
    shared = ["--out", f"{root}/out", "--probes", str(probes), "--stream", "--quiet"]
    model = str(folder)
    if command == "scan":
        return ["scan", model, model, *shared, "--dtype", "bfloat16"]
    parents = ["--father", model, "--mother", model, "--keep", str(keep)]
    return ["refit", model, *parents, *shared]


def main() -> None:
    """Write the model, run the command, print its peak."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--command", choices=["scan", "refit"], default="scan")
    parser.add_argument("--gigabytes", type=float, default=2.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "model"
        size, layer = write_model(folder, given.gigabytes)
        words = words_of(given.command, folder, Path(root))
        started = time.perf_counter()
        run = subprocess.run(
            [sys.executable, "-c", CHILD, *words],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        seconds = time.perf_counter() - started
    peak = int(run.stdout.split()[-2]) * 1024
    if given.command == "refit":
        layer *= 2  # it runs in float32
    print(f"model {size / 1e9:.2f} GB; {given.command} --stream: {seconds:.0f} s")
    print(f"peak resident memory {peak / 1e9:.2f} GB = {peak / size:.0%} of the model")
    print(f"= {peak / layer:.1f} layers of {layer / 1e9:.2f} GB, all else included")


if __name__ == "__main__":
    main()
