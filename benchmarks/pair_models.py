"""The models of the real pairs: a base from a GGUF file, and its fine-tunes."""

import random
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from pair_items import items
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

RATE = 2e-4
BATCH = 16
WARMUP = 10
IGNORED = -100


@dataclass(frozen=True)
class Recipe:
    """What a parent is trained on: its skills in equal parts, the steps, the start."""

    skills: tuple[str, ...]
    steps: int
    seed: int
    start: str = "base"


RECIPES = {
    "sums": Recipe(("sums",), 100, 1),
    "differences": Recipe(("differences",), 100, 2),
    "words": Recipe(("words",), 100, 3),
    "sums_korean": Recipe(("sums", "korean"), 200, 4, start="sums"),
    "words_german": Recipe(("words", "german"), 200, 5, start="words"),
}


def make_base(gguf: Path, folder: Path) -> None:
    """Write the model of a GGUF file as a checkpoint in bfloat16.

    transformers refuses to save what it read from GGUF, hence the fresh model.
    """
    read = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32
    )
    del read.config.quantization_config
    model = LlamaForCausalLM(read.config)
    model.load_state_dict(read.state_dict())
    model.bfloat16().save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.save_pretrained(folder)


def load(folder: Path) -> tuple[LlamaForCausalLM, AutoTokenizer]:
    """Return a model in float32 and its tokenizer."""
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(folder)


def encode(tokenizer: AutoTokenizer, item: dict[str, str]) -> tuple[list[int], int]:
    """Return the token ids of one item and how many of them are the prompt.

    Prompt and completion are read together, as lm-evaluation-harness does.
    """
    whole = tokenizer(item["prompt"] + item["completion"])["input_ids"]
    return whole, len(tokenizer(item["prompt"])["input_ids"])


def answers(
    model: LlamaForCausalLM, rows: list[tuple[list[int], int]]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return logits [tokens, vocabulary], targets [tokens] and rows [tokens].

    Only the answers' tokens count; the head is not applied to any other. Causal
    attention and padding on the right make a mask needless.
    """
    width = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([x + [0] * (width - len(x)) for x, _ in rows])
    labels = torch.tensor(
        [
            [IGNORED] * start + x[start:] + [IGNORED] * (width - len(x))
            for x, start in rows
        ]
    )[:, 1:]
    kept = labels != IGNORED
    hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
    return model.lm_head(hidden[kept]), labels[kept], kept.nonzero()[:, 0]


def train(out: Path, name: str) -> None:
    """Train one parent from the model it starts at and write it in bfloat16."""
    recipe = RECIPES[name]
    torch.manual_seed(recipe.seed)
    rng = random.Random(recipe.seed)
    model, tokenizer = load(out / "models" / recipe.start)
    model.get_input_embeddings().requires_grad_(False)
    pools = [
        [encode(tokenizer, x) for x in items(skill)["train"]] for skill in recipe.skills
    ]
    free = [x for x in model.parameters() if x.requires_grad]
    optimizer = torch.optim.AdamW(free, lr=RATE, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / WARMUP, 1 - step / recipe.steps)
    )
    started = time.time()
    for step in range(recipe.steps):
        rows = [rng.choice(pools[i % len(pools)]) for i in range(BATCH)]
        logits, targets, _ = answers(model, rows)
        loss = functional.cross_entropy(logits, targets)
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 10 == 9:
            spent = time.time() - started
            print(
                f"{name} {step + 1}: loss {loss.item():.3f}, {spent:.0f} s", flush=True
            )
    model.bfloat16().save_pretrained(out / "models" / name)
    tokenizer.save_pretrained(out / "models" / name)
