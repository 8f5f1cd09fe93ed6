"""A harness model that answers by a rule of the test, and a local task to ask it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from lm_eval.api.model import LM

Rule = Callable[[str, dict[str, Any]], str]


class Stub(LM):
    """Answers by a rule over prompt and gen_kwargs; remembers every request."""

    def __init__(self, rule: Rule):
        super().__init__()
        self.rule = rule
        self.calls: list[list[tuple[str, dict[str, Any]]]] = []
        self.likelihoods: list[Any] = []

    def generate_until(self, requests, disable_tqdm=False):
        self.calls.append([request.arguments for request in requests])
        return [self.rule(*request.arguments) for request in requests]

    def loglikelihood(self, requests):
        self.likelihoods.append(requests)
        return [(-float(len(r.arguments[1])), True) for r in requests]

    def loglikelihood_rolling(self, requests):
        self.likelihoods.append(requests)
        return [-1.25 for _ in requests]

    @property
    def tokenizer_name(self):
        return "stub"

    def apply_chat_template(self, chat_history, add_generation_prompt=True):
        turns = "".join(f"<{t['role']}>{t['content']}" for t in chat_history)
        return turns + "<assistant>" * add_generation_prompt

    @property
    def asked(self) -> int:
        """How many texts were asked for."""
        return sum(len(call) for call in self.calls)


def numbers(shares: dict[str, dict[str, float]]) -> Rule:
    """Answer a prompt by seeded chance: shares[prompt][text]; greedy takes the mode."""

    def rule(prompt: str, kwargs: dict[str, Any]) -> str:
        texts = shares[prompt]
        if not kwargs.get("do_sample"):
            return max(texts, key=lambda text: texts[text])
        draw = random.Random(kwargs["seed"])
        return draw.choices(list(texts), list(texts.values()))[0]

    return rule


def write_task(
    folder: Path, docs: list[dict[str, str]], name: str = "sums", **changes: Any
) -> Path:
    """Write a generate_until task over docs {"question", "answer"}: YAML and JSONL."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = "".join(json.dumps(doc) + "\n" for doc in docs)
    (folder / f"{name}.jsonl").write_text(rows, encoding="utf-8")
    content = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / f"{name}.jsonl")}},
        "output_type": "generate_until",
        "test_split": "test",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 8, "do_sample": False},
        "filter_list": [
            {
                "name": "number",
                "filter": [
                    {"function": "regex", "regex_pattern": r"(-?[\d,]+)"},
                    {"function": "take_first"},
                ],
            }
        ],
        "num_fewshot": 0,
        "metric_list": [
            {
                "metric": "exact_match",
                "aggregation": "mean",
                "higher_is_better": True,
                "regexes_to_ignore": [","],
            }
        ],
        "metadata": {"version": 1.0},
        **changes,
    }
    content = {key: value for key, value in content.items() if value is not None}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return folder
