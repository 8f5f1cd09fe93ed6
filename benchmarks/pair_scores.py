"""Scores of models on the pairs' held-out items and on general text, with errors."""

import json
import math
import time
from pathlib import Path

import torch
from pair_items import read_jsonl
from pair_models import answers, encode, load
from pair_table import GENERAL, Score, known_scores
from torch.nn import functional
from transformers import AutoTokenizer, LlamaForCausalLM

PROSE_TOKENS = 96
"""Tokens of a general text that are read; the rest is cut off."""
PROSE_EACH = 15
"""Texts of each language that are read."""
TOGETHER = 32


@torch.no_grad()
def exact(
    model: LlamaForCausalLM, tokenizer: AutoTokenizer, records: list[dict[str, str]]
) -> list[bool]:
    """Return for each item whether greedy decoding gives its whole completion."""
    rows = [encode(tokenizer, x) for x in records]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]))
    right = [True] * len(rows)
    for start in range(0, len(order), TOGETHER):
        group = order[start : start + TOGETHER]
        logits, targets, owner = answers(model, [rows[i] for i in group])
        for wrong in owner[logits.argmax(-1) != targets].tolist():
            right[group[wrong]] = False
    return right


@torch.no_grad()
def losses(
    model: LlamaForCausalLM, tokenizer: AutoTokenizer, records: list[dict[str, str]]
) -> list[tuple[float, int]]:
    """Return for each general text its summed loss in nats and its predicted tokens."""
    found = []
    for record in records:
        ids = torch.tensor([tokenizer(record["text"])["input_ids"][:PROSE_TOKENS]])
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1]
        total = functional.cross_entropy(logits, ids[0, 1:], reduction="sum")
        found.append((total.item(), ids.shape[1] - 1))
    return found


def share(right: list[bool]) -> Score:
    """Return the share of right answers and its standard error."""
    mean = sum(right) / len(right)
    return mean, math.sqrt(mean * (1 - mean) / (len(right) - 1))


def per_token(found: list[tuple[float, int]]) -> Score:
    """Return the mean loss, nats a token, and its standard error over texts.

    A ratio of two sums: the error is that of the texts' residuals (delta method).
    """
    tokens = sum(count for _, count in found)
    mean = sum(total for total, _ in found) / tokens
    spread = sum((total - mean * count) ** 2 for total, count in found)
    return mean, math.sqrt(spread * len(found) / (len(found) - 1)) / tokens


def general_texts(out: Path) -> list[dict[str, str]]:
    """Return the first texts of each language."""
    kept: dict[str, list[dict[str, str]]] = {}
    for record in read_jsonl(out / "texts" / "prose.jsonl"):
        kept.setdefault(record["language"], []).append(record)
    return [x for texts in kept.values() for x in texts[:PROSE_EACH]]


def score(
    out: Path, model: LlamaForCausalLM, tokenizer: AutoTokenizer, wanted: list[str]
) -> tuple[dict[str, Score], dict[str, str]]:
    """Return held-out scores, and for each skill its items as a string of 0 and 1.

    wanted are skills and `general`, the loss, which is given by language as well.
    """
    result, right = {}, {}
    for skill in (x for x in wanted if x != GENERAL):
        items = read_jsonl(out / "items" / skill / "heldout.jsonl")
        answered = exact(model, tokenizer, items)
        result[skill] = share(answered)
        right[skill] = "".join(str(int(x)) for x in answered)
    if GENERAL not in wanted:
        return result, right
    texts = general_texts(out)
    found = losses(model, tokenizer, texts)
    result[GENERAL] = per_token(found)
    for language in dict.fromkeys(x["language"] for x in texts):
        mine = [
            loss
            for loss, x in zip(found, texts, strict=True)
            if x["language"] == language
        ]
        result[f"{GENERAL} {language}"] = per_token(mine)
    return result, right


def score_folders(out: Path, folders: list[Path], skills: list[str]) -> None:
    """Print the scores of each model that are not known yet, and append them to
    out/scores.jsonl. Whoever makes a model anew takes its lines out."""
    for folder in folders:
        started = time.time()
        known = known_scores(out).get((out / folder).resolve(), {})
        wanted = [x for x in (*skills, GENERAL) if x not in known]
        found, right = score(out, *load(out / folder), wanted)
        line = {"model": str(folder), "scores": found, "right": right}
        with (out / "scores.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        cells = (f"{k} {m:.3f} ± {e:.3f}" for k, (m, e) in found.items())
        spent = time.time() - started
        print(f"{folder.name}: {', '.join(cells)} ({spent:.0f} s)", flush=True)
