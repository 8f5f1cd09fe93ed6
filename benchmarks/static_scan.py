"""Static scan of two parents against reading their files once, both cached, one run.

    python benchmarks/static_scan.py [--millions 250] [--clock cpu]

Random bfloat16 parents in 16 tensors each. "Reading" copies every byte of both files
into memory; the files are in the page cache for both sides. --clock cpu counts seconds
of computing, which other processes disturb less.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from mergekit_darwin.scan.static import TensorRow, scan_tensors

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
now = time.perf_counter


def write(folder: Path, millions: int, seed: int) -> Path:
    draw = torch.Generator().manual_seed(seed)
    rows = millions * 10**6 // 16 // 1024
    tensors = {
        f"model.layers.{i}.mlp.up_proj.weight": (
            0.02 * torch.randn(rows, 1024, generator=draw)
        ).bfloat16()
        for i in range(16)
    }
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    return folder


def read(folders: list[Path]) -> tuple[float, int]:
    """Return seconds and bytes of reading the files once."""
    started, size = now(), 0
    for folder in folders:
        with (folder / "model.safetensors").open("rb", buffering=0) as file:
            while piece := file.read(1 << 24):
                size += len(piece)
    return now() - started, size


def static(folders: list[Path]) -> float:
    """Return seconds of the static pass over both parents."""
    from mergekit.common import ModelReference
    from mergekit.io.tasks import LoadTensor

    names = [f"model.layers.{i}.mlp.up_proj.weight" for i in range(16)]
    models = {
        role: {
            name: LoadTensor(model=ModelReference.parse(str(folder)), tensor=name)
            for name in names
        }
        for role, folder in zip(("father", "mother"), folders, strict=True)
    }
    started = now()
    rows: list[TensorRow] = list(scan_tensors(models, names))
    assert len(rows) == len(names)
    return now() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--millions", type=int, default=250, help="elements a parent")
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall")
    given = parser.parse_args()
    global now
    now = CLOCKS[given.clock]
    with tempfile.TemporaryDirectory() as root:
        folders = [
            write(Path(root) / name, given.millions, seed)
            for seed, name in enumerate(("father", "mother"))
        ]
        read(folders)
        for _ in range(3):
            reading, size = read(folders)
            scanning = static(folders)
            speed = size / 2 / scanning / 1e6
            print(
                f"reading {size / 1e9:.2f} GB: {reading:.2f} s; static scan:"
                f" {scanning:.2f} s ({speed:.0f} M elements/s);"
                f" ratio {scanning / reading:.2f}"
            )


if __name__ == "__main__":
    main()
