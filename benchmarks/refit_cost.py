"""What a refit costs beside the forward passes that it cannot do without.

    python benchmarks/refit_cost.py [LAYERS] [TOKENS]

A random Llama of SmolLM2-135M's layers. Needed: every parent's layers on its texts, the
child's on both parents' texts and on general text. CPU seconds of one thread, so that
other load on the machine does not count; both sides in turn, layer by layer.
"""

import sys
import tempfile
import time
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from mergekit_darwin.models.opened import open_model
from mergekit_darwin.refit.layer import Rule, refit_layer
from mergekit_darwin.refit.order import find_stages
from mergekit_darwin.refit.teaching import hold, teach
from mergekit_darwin.refit.texts import Group, make_batches, start, step
from mergekit_darwin.scan.decoder import Decoder, open_decoder
from mergekit_darwin.scan.probes import ProbeItem
from mergekit_darwin.talk import ProbeOptions
from tests.tiny import VOCABULARY, save

SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 512,
    "bos_token_id": 257,
    "eos_token_id": 258,
    "pad_token_id": 256,
}
LENGTH = 64  # tokens of one text


def models(folder: Path, layers: int) -> list[Decoder]:
    """Return child, father and mother."""
    made = []
    for seed in range(3):
        config = LlamaConfig(num_hidden_layers=layers, **SIZES)
        save(LlamaForCausalLM(config), folder / str(seed), seed, scale=0.02)
        made.append(open_decoder(open_model(str(folder / str(seed)), ProbeOptions())))
    return made


def texts(seed: int, tokens: int) -> list[ProbeItem]:
    """Return random texts with so many tokens, one a byte."""
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randint(97, 123, (tokens // LENGTH, LENGTH), generator=draw)
    return [ProbeItem("", "".join(map(chr, row))) for row in rows.tolist()]


@torch.no_grad()
def main() -> None:
    """Print the seconds of both sides and their ratio, for every choice of maps."""
    layers, tokens = (int(x) for x in (*sys.argv[1:], "2", "8192")[:2])
    with tempfile.TemporaryDirectory() as folder:
        child, father, mother = models(Path(folder), layers)
        batches = [
            make_batches(child, texts(seed, count), LENGTH, 32)
            for seed, count in enumerate((tokens, tokens, 3 * tokens))
        ]
        for maps in ("last", "writers", "all"):
            print(maps, *measure(child, (father, mother), batches, maps))


def measure(child: Decoder, parents: tuple, batches: list, maps: str) -> list[str]:
    """Return needed seconds, the refit's seconds, and their ratio."""
    groups = [
        Group(str(i), 1.0, parent, start(parent, batches[i]), start(child, batches[i]))
        for i, parent in enumerate(parents)
    ]
    keep = start(child, batches[2])
    rule = Rule(1e-4, 10.0, maps=maps)
    needed = spent = 0.0
    for layer in range(child.depth):
        stages = find_stages(child, layer)
        began = time.process_time()
        for decoder, streams in (
            *((group.teacher, group.taught) for group in groups),
            *((child, group.child) for group in groups),
            (child, keep),
        ):
            before = [stream.hidden for stream in streams]
            step(decoder, layer, streams)
            for stream, hidden in zip(streams, before, strict=True):
                stream.hidden = hidden
        needed += time.process_time() - began
        began = time.process_time()
        held = hold(child, layer, stages, rule.chosen(stages), keep)
        taught = [(group, teach(group, layer, stages, True)) for group in groups]
        refit_layer(child, layer, stages, taught, held, rule)
        spent += time.process_time() - began
    return [f"{needed:.2f} s", f"{spent:.2f} s", f"{spent / needed:.2f} x"]


if __name__ == "__main__":
    main()
