"""Short greedy answers of a model to one prompt of each probe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from mergekit_darwin.health.function_rules import fault_of
from mergekit_darwin.health.report import Answer
from mergekit_darwin.scan.probes import Probe

TOKENS = 24  # of an answer; our choice
PROMPTS = 2  # of each probe; our choice
_MOST_PROMPT = 512  # tokens of a prompt; our choice


def prompts_of(probes: Sequence[Probe]) -> list[tuple[str, str]]:
    """Return (probe, prompt) pairs: the first two prompts of each probe."""
    rows = []
    for probe in probes:
        texts = [item.prompt or item.completion for item in probe.items]
        rows += [(probe.name, text) for text in texts[:PROMPTS]]
    return rows


def answer_prompts(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[tuple[str, str]],
    role: str,
    tokens: int = TOKENS,
) -> list[Answer]:
    """Return a greedy answer of at most this many tokens to each (probe, prompt).

    model is transformers'; its answer ends at its end-of-text token, which is not
    part of the text. role goes into Answer.model.
    """
    return [
        _answer(model, tokenizer, probe, prompt, role, tokens)
        for probe, prompt in prompts
    ]


@torch.inference_mode()
def _answer(
    model: Any, tokenizer: Any, probe: str, prompt: str, role: str, tokens: int
) -> Answer:
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    ids = ids[:, -_MOST_PROMPT:].to(model.device)
    output = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=tokens,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        pad_token_id=_padding(tokenizer),
    )
    given = 1 if model.config.is_encoder_decoder else ids.shape[1]
    new = output[0, given:].tolist()
    text = tokenizer.decode(new, skip_special_tokens=True)
    return Answer(
        model=role, probe=probe, prompt=prompt, text=text, fault=fault_of(new, text)
    )


def _padding(tokenizer: Any) -> int | None:
    if tokenizer.pad_token_id is not None:
        return int(tokenizer.pad_token_id)
    return tokenizer.eos_token_id
