"""The tiny family in examples/: its items, its models, its harness tasks."""

import importlib.util
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from safetensors import safe_open
from transformers import AutoTokenizer, LlamaForCausalLM

FAMILY = Path(__file__).resolve().parents[2] / "examples" / "tiny_family"
SKILLS = ("reasoning", "code", "math", "knowledge", "language")
MODELS = ("base", "father", "mother")
KOREAN = "목적 물집+을"


def items(skill: str, split: str) -> list[dict]:
    path = FAMILY / "items" / skill / f"{split}.jsonl"
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.mark.parametrize("split", ["search", "heldout"])
@pytest.mark.parametrize("skill", SKILLS)
def test_every_item_has_four_distinct_choices_and_the_answer_among_them(skill, split):
    for item in items(skill, split):
        assert len(set(item["choices"])) == 4
        assert item["choices"][item["answer"]] == item["completion"]
        assert not item["prompt"].endswith(" ")
        assert len((item["prompt"] + item["completion"]).encode()) <= 48


@pytest.mark.parametrize("skill", SKILLS)
def test_a_skill_has_enough_items_and_no_prompt_in_both_splits(skill):
    search = [item["prompt"] for item in items(skill, "search")]
    heldout = [item["prompt"] for item in items(skill, "heldout")]
    assert len(search) >= 200
    assert len(heldout) >= 400
    assert len({*search, *heldout}) == len(search) + len(heldout)


@pytest.mark.parametrize("skill", SKILLS)
def test_no_answer_position_is_favoured(skill):
    counts = Counter(item["answer"] for item in items(skill, "heldout"))
    total = sum(counts.values())
    spread = 4 * (total * 0.25 * 0.75) ** 0.5  # four sigma of a fair draw
    assert all(abs(counts[place] - total / 4) < spread for place in range(4))


def test_a_third_of_the_language_items_is_korean():
    for split in ("search", "heldout"):
        prompts = [item["prompt"] for item in items("language", split)]
        korean = [p for p in prompts if any("가" <= sign <= "힣" for sign in p)]
        assert len(korean) * 3 >= len(prompts)


def test_answers_follow_the_rules_they_are_made_from():
    for item in items("math", "heldout"):
        prompt = item["prompt"].rstrip("=")
        if item["subskill"] in ("largest", "smallest"):
            pick = max if item["subskill"] == "largest" else min
            assert int(item["completion"]) == pick(map(int, prompt.split()[1:]))
        else:
            sign = 1 if "+" in prompt else -1
            left, right = prompt.replace("-", "+").split("+")
            assert int(item["completion"]) == int(left) + sign * int(right)
    for item in items("code", "heldout"):
        expression = item["prompt"].removesuffix("->")
        assert eval(expression, {"__builtins__": {}}) == item["completion"]


@pytest.mark.parametrize("name", MODELS)
def test_a_token_is_a_byte_and_korean_comes_back(name):
    tokenizer = AutoTokenizer.from_pretrained(FAMILY / name)
    text = KOREAN + ' "ab"[1]->\n\x00é'
    assert tokenizer(text).input_ids == list(text.encode())
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    special = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    assert special == (256, 257, 258)
    assert len(tokenizer) == 259


@pytest.mark.parametrize("name", MODELS)
def test_a_model_has_six_layers_and_untied_bfloat16_tensors(name):
    model = LlamaForCausalLM.from_pretrained(FAMILY / name)
    assert model.config.num_hidden_layers == 6
    assert sum(x.numel() for x in model.parameters()) == 1_253_760
    with safe_open(FAMILY / name / "model.safetensors", "pt") as file:
        assert {"model.embed_tokens.weight", "lm_head.weight"} <= set(file.keys())
        dtypes = {file.get_slice(key).get_dtype() for key in file.keys()}
    assert dtypes == {"BF16"}


def test_the_three_models_take_less_than_ten_megabytes():
    files = [path for name in MODELS for path in (FAMILY / name).rglob("*")]
    assert sum(path.stat().st_size for path in files if path.is_file()) < 10_000_000


LOADED = """
from lm_eval.tasks import TaskManager
manager = TaskManager(include_path={tasks!r})
names = sorted(x for x in manager.all_tasks if x.startswith("tiny_"))
assert len(names) == 10, names
for task in manager.load(names)["tasks"].values():
    doc = next(iter(task.test_docs()))
    assert task.doc_to_text(doc) == doc["prompt"]
    assert task.doc_to_choice(doc)[task.doc_to_target(doc)] == doc["completion"]
    print(task.config.task, len(task.test_docs()), task.config.num_fewshot)
"""


def test_harness_tasks_load_offline_from_another_directory(tmp_path):
    if importlib.util.find_spec("lm_eval") is None:
        pytest.skip("lm_eval is an extra and not installed")
    code = LOADED.format(tasks=str(FAMILY / "tasks"))
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, **offline, "HF_HOME": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    printed = {line for line in done.stdout.splitlines() if line.startswith("tiny_")}
    wanted = {
        f"tiny_{skill}_{split} {len(items(skill, split))} 0"
        for skill in SKILLS
        for split in ("search", "heldout")
    }
    assert printed == wanted
