"""Training and scoring of the tiny family's models."""

import math
import random
from collections.abc import Callable, Iterator

import torch
from skills import Item
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

BOS, EOS, PAD = 256, 257, 258
IGNORED = -100
Batch = tuple[torch.Tensor, torch.Tensor]  # token ids, labels [rows, longest]
POOL = 8  # batches sorted by length together, so that little is padded


def new_model(seed: int) -> LlamaForCausalLM:
    """Return an untrained model of 1.25 M parameters.

    The head is not tied: 33,000 parameters more, and a merge meets an embedding and a
    head that are tensors of their own.
    """
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=259,
            hidden_size=128,
            intermediate_size=344,
            num_hidden_layers=6,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=256,
            tie_word_embeddings=False,
            bos_token_id=BOS,
            eos_token_id=EOS,
            pad_token_id=PAD,
        )
    )


def encode(item: Item) -> tuple[list[int], list[int]]:
    """Return token ids and labels of one item; only the answer and its end count."""
    prompt, answer = item.prompt.encode(), item.completion.encode()
    target = [*answer, EOS]
    return [*prompt, *target], [IGNORED] * len(prompt) + target


def pad(rows: list[list[int]], value: int) -> torch.Tensor:
    """Return the rows as one tensor [rows, longest], filled up on the right."""
    width = max(map(len, rows))
    return torch.tensor([row + [value] * (width - len(row)) for row in rows])


def batches(
    mixture: dict[str, float],
    items: dict[str, list[Item]],
    size: int,
    seed: int,
) -> Iterator[Batch]:
    """Yield (ids, labels) without end; mixture gives each subskill its weight."""
    rng = random.Random(seed)
    names, weights = list(mixture), list(mixture.values())
    encoded = {name: [encode(x) for x in items[name]] for name in names}
    while True:
        drawn = rng.choices(names, weights, k=size * POOL)
        rows = sorted((rng.choice(encoded[name]) for name in drawn), key=row_length)
        groups = [rows[i : i + size] for i in range(0, len(rows), size)]
        rng.shuffle(groups)
        for group in groups:
            yield pad([x for x, _ in group], PAD), pad([y for _, y in group], IGNORED)


def row_length(row: tuple[list[int], list[int]]) -> int:
    """Return the number of tokens of one encoded item."""
    return len(row[0])


def answer_logits(
    model: LlamaForCausalLM, batch: Batch
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits [tokens, vocabulary] and targets [tokens] of the answers."""
    ids, labels = batch
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    targets = labels[:, 1:].flatten()
    kept = targets != IGNORED
    return logits.flatten(0, 1)[kept].float(), targets[kept]


def answer_loss(model: LlamaForCausalLM, batch: Batch) -> torch.Tensor:
    """Return the mean cross-entropy of the answers, nats a token."""
    return functional.cross_entropy(*answer_logits(model, batch))


def drift(
    model: LlamaForCausalLM, base: LlamaForCausalLM, batch: Batch
) -> torch.Tensor:
    """Return KL(base, model) on the answers, nats a token.

    Source: learning without forgetting, arXiv 1606.09282, with KL for its loss.
    """
    with torch.no_grad():
        target = torch.log_softmax(answer_logits(base, batch)[0], -1)
    found = torch.log_softmax(answer_logits(model, batch)[0], -1)
    return functional.kl_div(found, target, log_target=True, reduction="batchmean")


def train(
    model: LlamaForCausalLM,
    loss_of: Callable[[], torch.Tensor],
    steps: int,
    peak: float,
) -> float:
    """Train the model in place with AdamW and return the mean of the last losses.

    loss_of gives the loss of the next step. The learning rate warms up over 50 steps,
    then falls to a twentieth in a cosine.
    """
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=peak, betas=(0.9, 0.98), weight_decay=0.01
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate(steps))
    losses = []
    model.train()
    for _ in range(steps):
        loss = loss_of()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    model.eval()
    return sum(losses[-50:]) / len(losses[-50:])


def rate(steps: int) -> Callable[[int], float]:
    """Return the learning-rate factor as a function of the step."""

    def factor(step: int) -> float:
        cosine = 0.5 * (1 + math.cos(math.pi * min(step, steps) / steps))
        return min(1.0, (step + 1) / 50) * (0.05 + 0.95 * cosine)

    return factor


@torch.no_grad()
def accuracy(model: LlamaForCausalLM, items: list[Item]) -> float:
    """Return the share of items whose right choice is the likeliest one."""
    hits = 0
    for start in range(0, len(items), 64):
        group = items[start : start + 64]
        rows = [(x.prompt.encode(), c.encode()) for x in group for c in x.choices]
        ids = pad([[*p, *c] for p, c in rows], PAD)
        labels = pad([[IGNORED] * len(p) + [*c] for p, c in rows], IGNORED)[:, 1:]
        scores = torch.log_softmax(model(input_ids=ids).logits[:, :-1].float(), -1)
        picked = scores.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
        best = (picked * (labels != IGNORED)).sum(-1).view(len(group), -1).argmax(-1)
        right = torch.tensor([x.choices.index(x.completion) for x in group])
        hits += int((best == right).sum())
    return hits / len(items)
