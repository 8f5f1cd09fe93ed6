"""A parent that writes the steps of a sum before its answer: many ways to one answer.

It learns to add four digits by running totals, in any order: "3+2+1+8=" becomes
"8+1=9;9+2=11;11+3=14". Items whose digits, in any order, are held out are never trained
on; both recipes have the same held-out items.
"""

from __future__ import annotations

import copy
import itertools
import json
import random
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Item = dict[str, str]
FATHER = Path(__file__).parent.parent / "examples" / "tiny_family" / "father"
BATCH, HELD, IGNORED = 16, 200, -100
ANSWER = 24  # most tokens of "8+1=9;9+2=11;11+3=14\n", one a sign


@dataclass(frozen=True)
class Recipe:
    """How a model is trained: steps, highest rate, steps until it is reached.

    falls: the rate falls to 0 at the last step, else it stays, so that the model after
    any number of steps is that of a recipe with so many. every: steps between two
    checkpoints. embeddings: whether they are trained.
    """

    steps: int
    rate: float
    warmup: int
    falls: bool
    every: int
    embeddings: bool


# A real model's greedy text is right on 0.44 of items after 50 steps: neither hardly
# ever nor nearly always, so that a vote has something to find.
TINY = Recipe(1200, 2e-3, 20, falls=True, every=1200, embeddings=True)
REAL = Recipe(50, 5e-4, 10, falls=False, every=50, embeddings=False)


def steps_item(rng: random.Random) -> Item:
    """Return a sum of four digits, worked out in an order of its own."""
    digits = [rng.randrange(1, 10) for _ in range(4)]
    order = rng.sample(digits, 4)
    total, parts = order[0], []
    for digit in order[1:]:
        parts.append(f"{total}+{digit}={total + digit}")
        total += digit
    prompt = "+".join(str(digit) for digit in digits)
    return {"prompt": f"{prompt}=", "completion": f"{';'.join(parts)}\n"}


def is_held(item: Item) -> bool:
    """Return whether an item's digits, in any order, are kept from training."""
    key = "".join(sorted(item["prompt"]))
    return zlib.crc32(key.encode()) % 5 == 0


def training(rng: random.Random) -> Iterator[Item]:
    """Yield items to train on, without end."""
    while True:
        item = steps_item(rng)
        if not is_held(item):
            yield item


def held(seed: int) -> list[Item]:
    """Return the held-out items: those that come after the tiny recipe's training."""
    rng = random.Random(seed)
    for _ in itertools.islice(training(rng), TINY.steps * BATCH):
        pass
    drawn = (steps_item(rng) for _ in range(20 * HELD))
    return [item for item in drawn if is_held(item)][:HELD]


def train_steps(out: Path, start: Path | None = None, seed: int = 1) -> None:
    """Train the steps parent from the tiny Father or a real model; write its items.

    OUT/models/steps is the last checkpoint, steps_50 and so on the ones on the way.
    """
    import torch
    from torch.nn.functional import cross_entropy
    from transformers import AutoModelForCausalLM, AutoTokenizer

    recipe = REAL if start else TINY
    write_items(out, held(seed))
    torch.manual_seed(seed)
    stream = training(random.Random(seed))
    tokenizer = AutoTokenizer.from_pretrained(start or FATHER)
    model = AutoModelForCausalLM.from_pretrained(start or FATHER, dtype=torch.float32)
    model.get_input_embeddings().requires_grad_(recipe.embeddings)
    free = [tensor for tensor in model.parameters() if tensor.requires_grad]
    optimizer = torch.optim.AdamW(free, lr=recipe.rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: _share(recipe, step)
    )
    began = time.time()
    for step in range(1, recipe.steps + 1):
        ids, labels = _rows(tokenizer, list(itertools.islice(stream, BATCH)))
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        loss = cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(free, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 10 == 0:
            spent = time.time() - began
            print(f"step {step}: loss {loss.item():.3f}, {spent:.0f} s", flush=True)
        if step % recipe.every == 0:
            last = step == recipe.steps
            name = "steps" if last else f"steps_{step}"
            _save(model, tokenizer, out / "models" / name)
            score = greedy(model, tokenizer, random.Random(seed + step))
            print(f"{name}: greedy {score:.2f} on items to train on", flush=True)


def _share(recipe: Recipe, step: int) -> float:
    """Return the share of the highest rate after so many steps."""
    left = 1 - step / recipe.steps if recipe.falls else 1.0
    return min((step + 1) / recipe.warmup, left)


def _rows(tokenizer: Any, items: Sequence[Item]) -> tuple[Any, Any]:
    """Return a batch of items: ids and labels [rows, longest]."""
    import torch

    pairs = [
        (tokenizer(item["prompt"])["input_ids"], tokenizer(item["completion"]))
        for item in items
    ]
    width = max(len(prompt) + len(answer["input_ids"]) for prompt, answer in pairs)
    ids = torch.full((len(pairs), width), tokenizer.pad_token_id)
    labels = torch.full((len(pairs), width), IGNORED)
    for row, (prompt, answer) in enumerate(pairs):
        whole = [*prompt, *answer["input_ids"]]
        ids[row, : len(whole)] = torch.tensor(whole)
        labels[row, len(prompt) : len(whole)] = torch.tensor(answer["input_ids"])
    return ids, labels


def _save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write a checkpoint in bfloat16; the model goes on in its own type."""
    copy.deepcopy(model).bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def greedy(model: Any, tokenizer: Any, rng: random.Random, count: int = 32) -> float:
    """Return the share of new items, none held out, that greedy text answers right."""
    import torch

    items = list(itertools.islice(training(rng), count))
    ids = torch.tensor([tokenizer(item["prompt"])["input_ids"] for item in items])
    made = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=ANSWER,
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
    )
    texts = tokenizer.batch_decode(made[:, ids.shape[1] :])
    right = [
        text.partition("\n")[0].rpartition("=")[2].strip()
        == item["completion"].rpartition("=")[2].strip()
        for item, text in zip(items, texts, strict=True)
    ]
    return sum(right) / count


def write_items(out: Path, items: Sequence[Item]) -> None:
    """Write the held-out items of the steps."""
    folder = out / "items" / "steps"
    folder.mkdir(parents=True, exist_ok=True)
    rows = "".join(json.dumps(item) + "\n" for item in items)
    (folder / "heldout.jsonl").write_text(rows, encoding="utf-8")
