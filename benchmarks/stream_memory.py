"""Peak memory of a streamed scan of a large random model, against the model's size.

    python benchmarks/stream_memory.py [--gigabytes 2] [--folder DIR]

Writes a random bfloat16 Llama, then runs mergekit-darwin-scan --stream in a process of
its own (the model as both parents, two probe items) and prints the process's peak
resident memory, which counts the pages of mapped files as well.
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
from mergekit_darwin.cli.scan import main
main(standalone_mode=False)
with open("/proc/self/status") as file:
    print(next(line for line in file if line.startswith("VmHWM")))
"""


def write_model(folder: Path, gigabytes: float) -> int:
    """Write a model of at least that size, one shard a layer; returns its bytes."""
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
    return size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=2.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        folder, probes = Path(root) / "model", Path(root) / "probes"
        size = write_model(folder, given.gigabytes)
        probes.mkdir()
        (probes / "sums.txt").write_text("12 + 30 = 42\n7 * 8 = 56\n")
        words = [str(folder), str(folder), "--out", f"{root}/out", "--probes"]
        words += [str(probes), "--stream", "--dtype", "bfloat16", "--quiet"]
        started = time.perf_counter()
        run = subprocess.run(
            [sys.executable, "-c", CHILD, *words],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        seconds = time.perf_counter() - started
    peak = int(run.stdout.split()[-2]) * 1024
    print(f"model {size / 1e9:.2f} GB; scan --stream, both parents: {seconds:.0f} s")
    print(f"peak resident memory {peak / 1e9:.2f} GB = {peak / size:.0%} of the model")


if __name__ == "__main__":
    main()
