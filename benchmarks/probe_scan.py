"""One-pass probe scan against one forward pass a skipped layer, in one run.

    python benchmarks/probe_scan.py [--layers 30] [--hidden 256] [--items 4]

Work is counted in tokens times layers (a full forward pass over the items is T * L);
the check of the driving and the final norm and head are in the times of both.
"""

import argparse
import tempfile
import time
from collections import Counter

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from mergekit_darwin.models import opened as weights
from mergekit_darwin.scan import importance
from mergekit_darwin.scan.decoder import finish, open_decoder
from mergekit_darwin.scan.importance import measure_importance
from mergekit_darwin.scan.layers import make_batch
from mergekit_darwin.scan.probes import Encoded, Probe, encode, standard_probes
from mergekit_darwin.talk import ProbeOptions
from tests.tiny import VOCABULARY, save


def write_model(folder: str, layers: int, hidden: int) -> None:
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=4,
    )
    save(LlamaForCausalLM(config), folder, 1, scale=0.02)


def one_pass(folder: str, probes: list[Probe], options: ProbeOptions) -> tuple:
    """Return work, seconds, and how often the weights of each layer were read."""
    work, reads = [0], Counter()
    apply, load = importance.apply_layer, weights.DiskWeights.load

    def counted(decoder, layer, hidden, call):
        work[0] += hidden.shape[0] * hidden.shape[1]
        return apply(decoder, layer, hidden, call)

    def noted(self, path):
        reads[path] += 1
        return load(self, path)

    importance.apply_layer, weights.DiskWeights.load = counted, noted
    started = time.perf_counter()
    measure_importance(folder, probes, options)
    seconds = time.perf_counter() - started
    importance.apply_layer, weights.DiskWeights.load = apply, load
    return work[0], seconds, reads


@torch.no_grad()
def naive(folder: str, probes: list[Probe], options: ProbeOptions) -> tuple:
    """Return work and seconds of L + 1 forward passes, and the work of one."""
    started = time.perf_counter()
    source = weights.open_model(folder, options)
    decoder = open_decoder(source)
    layers = source.model.get_submodule(decoder.path)
    items: list[Encoded] = []
    for probe in probes:
        items += encode(source.tokenizer, probe.items, options.max_tokens)
    items.sort(key=lambda item: len(item.ids))
    work = forward = 0
    for start in range(0, len(items), options.batch_size):
        batch = make_batch(items[start : start + options.batch_size], "cpu")
        tokens = batch.ids.numel()
        full, _ = finish(decoder, batch, None)
        forward += tokens * decoder.depth
        work += tokens * decoder.depth
        for layer in layers:
            layer.__dict__["forward"] = lambda hidden, **_: hidden
            state, _ = finish(decoder, batch, None)
            del layer.__dict__["forward"]
            importance._item_distances(batch, full, state)
            work += tokens * (decoder.depth - 1)
    return work, time.perf_counter() - started, forward


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--items", type=int, default=4, help="of each standard probe")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    probes = [
        Probe(p.name, p.items[: given.items], p.weight) for p in standard_probes()
    ]
    options = ProbeOptions()
    with tempfile.TemporaryDirectory() as folder:
        write_model(folder, given.layers, given.hidden)
        slow, slow_s, forward = naive(folder, probes, options)
        fast, fast_s, _ = one_pass(folder, probes, options)
        streamed = ProbeOptions(stream=True)
        _, stream_s, reads = one_pass(folder, probes, streamed)
    layers = given.layers
    in_layers = {k: n for k, n in reads.items() if k.split(".")[-1].isdigit()}
    print(f"{layers} layers, width {given.hidden}, {given.threads} thread(s)")
    print(f"naive     {slow / forward:6.2f} forward passes  {slow_s:6.1f} s")
    print(f"one pass  {fast / forward:6.2f} forward passes  {fast_s:6.1f} s")
    print(f"streamed  the same                {stream_s:6.1f} s")
    print(f"work / ((L + 1) forward passes): {fast / forward / (layers + 1):.3f}")
    print(f"reads of a layer's weights: {min(in_layers.values())} to", end=" ")
    print(f"{max(in_layers.values())} (the first is tried out before: +1)")


if __name__ == "__main__":
    main()
