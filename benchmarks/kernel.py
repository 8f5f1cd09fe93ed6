"""Elements a second of the darwin_v6 kernel, mergekit's dare_ties and a plain copy.

    python benchmarks/kernel.py [--millions 16] [--threads 2] [--repeat 7] [--clock cpu]

All sides run in turn on the same tensors in one process; medians over the repeats. The
copy moves the bytes that the kernel must move at least, three inputs read, one written,
into tensors that are there already; the clone moves as many into new ones, as a merge
does. --clock cpu counts seconds of this process's threads over their number, which
other processes disturb less.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from mergekit.merge_methods import merge_tensors

from mergekit_darwin.kernel.blend import Blend, scalars_of
from mergekit_darwin.kernel.dare_ties import _merge, merge_three, torch_pages
from mergekit_darwin.kernel.fused import compiled_pages
from mergekit_darwin.kernel.masks import PAGE, page_keys
from mergekit_darwin.kernel.profile import profile_tensor
from mergekit_darwin.kernel.work import WORK


def parents(count: int) -> list[torch.Tensor]:
    """Return Father, Mother and base: bfloat16 [4096, count / 4096]."""
    draw = torch.Generator().manual_seed(0)
    base = 0.02 * torch.randn(4096, count // 4096, generator=draw)
    noise = [0.002 * torch.randn(base.shape, generator=draw) for _ in range(2)]
    return [t.to(torch.bfloat16) for t in (base + noise[0], base + noise[1], base)]


def copy_bytes(tensors: list[torch.Tensor], outs: list[torch.Tensor]) -> None:
    """Move four tensors' worth of bytes: two copies read two and write two."""
    for tensor, out in zip(tensors[:2], outs, strict=True):
        out.copy_(tensor)


def merge_into(flat: list[torch.Tensor], blend: Blend) -> None:
    """Merge, on this thread, into the fourth of four flat tensors that are there."""
    count = flat[3].numel()
    keys = page_keys(blend.seed, blend.name, 0, -(-count // PAGE))
    merge = compiled_pages(flat, scalars_of(blend))
    for page, key in enumerate(keys):
        merge(slice(page * PAGE, min((page + 1) * PAGE, count)), key)


def clone_bytes(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """Read two tensors and write two new ones."""
    return [tensor.clone() for tensor in tensors[:2]]


def on_one_core(tensor: torch.Tensor) -> None:
    """Profile a tensor with one torch thread, then set the threads back."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    profile_tensor(tensor)
    torch.set_num_threads(threads)


def main() -> None:
    """Print a Markdown table of the medians and their ratios to dare_ties."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--millions", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    options = parser.parse_args()
    now = time.perf_counter if options.clock == "wall" else time.process_time
    shared = options.threads if options.clock == "cpu" else 1
    WORK.worth = 0  # compiled from the first tensor on
    torch.set_num_threads(options.threads)
    count = options.millions * 2**20
    father, mother, base = trio = parents(count)
    outs = [torch.empty_like(father) for _ in range(2)]
    blend = Blend(0.4, 0.9, 0.95, 1.0, 1.0, True, False, "seed", "tensor")
    dense = replace(blend, density_a=1.0, density_b=1.0)
    mixed = replace(blend, weight=0.7)
    theirs = {"weight": [0.6, 0.4], "density": [0.9, 0.95]}
    sides: dict[str, Callable[[], object]] = {
        "mergekit dare_ties": lambda: merge_tensors(
            trio, "dare_ties", base_index=2, parameters=theirs
        ),
        "mergekit linear": lambda: merge_tensors(
            trio[:2], "linear", parameters={"weight": [0.6, 0.4]}
        ),
        "darwin_v6 kernel": lambda: merge_three(base, father, mother, blend),
        "darwin_v6 kernel, method weight 0.7": lambda: merge_three(
            base, father, mother, mixed
        ),
        "darwin_v6 kernel, density 1": lambda: merge_three(base, father, mother, dense),
        "darwin_v6 kernel, Father as base": lambda: merge_three(
            father, father, mother, blend
        ),
        "darwin_v6 kernel, one thread, child there already": lambda: merge_into(
            [t.view(-1) for t in (base, father, mother, outs[0])], blend
        ),
        "darwin_v6 kernel by torch alone": lambda: _merge(
            torch_pages, (base, father, mother), blend, scalars_of(blend)
        ),
        "static profile, one tensor": lambda: profile_tensor(father),
        "static profile, on one core": lambda: on_one_core(father),
        "plain copy of the same bytes": lambda: copy_bytes(trio, outs),
        "clone of the same bytes": lambda: clone_bytes(trio),
    }
    times: dict[str, list[float]] = {name: [] for name in sides}
    for round_ in range(options.repeat + 1):
        for name, side in sides.items():
            start = now()
            side()
            if round_:
                times[name].append((now() - start) / shared)
    medians = {name: statistics.median(found) for name, found in times.items()}
    reference = medians["mergekit dare_ties"]
    print(
        f"{options.millions} Mi elements, bfloat16, {options.threads} threads,", end=" "
    )
    print(f"{options.clock} time\n")
    print("| side | M elements/s | against dare_ties |")
    print("| --- | ---: | ---: |")
    for name, seconds in medians.items():
        print(f"| {name} | {count / seconds / 1e6:.0f} | {reference / seconds:.1f} x |")


if __name__ == "__main__":
    main()
