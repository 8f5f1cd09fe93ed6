"""Breeding on generated answers: what multimodal wrappers need, whose likelihoods fail.

The oracle: half of the right answers are what the Father says, half what the Mother
says, so that each parent's score is known before anything is measured.
"""

from __future__ import annotations

import json

import pytest
import yaml

pytest.importorskip("lm_eval")

import mergekit_darwin as md
from tests import evolving, tiny

ITEMS = 16
TEMPLATE = (
    "{% for turn in messages %}<{{ turn.role }}>{{ turn.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def say(folder, prompts):
    """Return a model's greedy continuations of four tokens, cut at a newline."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    said = []
    for prompt in prompts:
        ids = torch.tensor([tokenizer(prompt, add_special_tokens=False).input_ids])
        out = model.generate(ids, max_new_tokens=4, do_sample=False, pad_token_id=0)
        said.append(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))
    return [text.split("\n")[0] for text in said]


def write_task(folder, name, questions, answers):
    rows = zip(questions, answers, strict=True)
    text = "".join(json.dumps({"q": q, "a": a}) + "\n" for q, a in rows)
    (folder / f"{name}.jsonl").write_text(text)
    content = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / f"{name}.jsonl")}},
        "output_type": "generate_until",
        "test_split": "test",
        "doc_to_text": "q",
        "doc_to_target": "a",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4},
        "num_fewshot": 0,
        "metric_list": [{"metric": "exact_match"}],
        "metadata": {"version": 1.0},
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))


def family(folder, chat):
    """Write parents and two generative tasks; return each parent's right answers."""
    evolving.write_family(folder)
    models = [folder / "father", folder / "mother"]
    if chat:
        for model in models:
            (model / "chat_template.jinja").write_text(TEMPLATE)
    right: dict[str, dict[str, float]] = {}
    for task in ("said", "said_apart"):
        questions = [f"{task[-1]}{i:02d}=" for i in range(ITEMS)]
        prompts = [f"<user>{q}<assistant>" if chat else q for q in questions]
        both = [say(model, prompts) for model in models]
        answers = [both[i % 2][i] or "nothing" for i in range(ITEMS)]
        write_task(folder / "tasks", task, questions, answers)
        right[task] = {
            role: sum(a == b for a, b in zip(said, answers, strict=True)) / ITEMS
            for role, said in zip(("father", "mother"), both, strict=True)
        }
    return right


@pytest.mark.parametrize("chat", [False, True], ids=["plain", "chat"])
def test_breeding_searches_and_holds_out_generated_answers(chat, tmp_path):
    folder = tmp_path / "family"
    right = family(folder, chat)
    content = evolving.content(
        folder,
        tasks=[{"name": "said", "metric": "exact_match"}],
        heldout=[{"name": "said_apart", "metric": "exact_match"}],
        apply_chat_template=chat,
        search={"max_evaluations": 4, "top_k": 2, "seed": 3},
    )
    (tmp_path / "evolve.yml").write_text(yaml.safe_dump(content))
    md.breed(tmp_path / "evolve.yml", tmp_path / "run", quiet=True)
    log = (tmp_path / "run" / "evaluations.jsonl").read_text().splitlines()
    lines = [json.loads(line) for line in log]
    assert [line["error"] for line in lines if line["error"]] == []
    for role in ("father", "mother"):
        assert 0.4 < right["said"][role] < 1.0
        measured = [
            (line["phase"], line["score"]) for line in lines if line["name"] == role
        ]
        assert ("parent", right["said"][role]) in measured
        assert right["said_apart"][role] in [score for _, score in measured[1:]]
    child = next(line for line in lines if line["name"] == "child")
    assert set(child["tasks"]) == {"said_apart"}
    assert "exact_match,none" in child["tasks"]["said_apart"]


def test_a_multimodal_wrapper_is_measured_by_what_it_generates(tmp_path):
    """Gemma 4's wrapper, as a parent and merged: its text part answers."""
    base = tiny.tiny_gemma4(tmp_path / "base", 1, layers=6, vision_layers=1)
    tiny.nudged(base, tmp_path / "father", 2, size=0.5)
    tiny.nudged(base, tmp_path / "mother", 3, size=0.5)
    (tmp_path / "tasks").mkdir()
    questions = [f"{i:02d}=" for i in range(4)]
    write_task(
        tmp_path / "tasks", "said", questions, say(tmp_path / "father", questions)
    )
    content = evolving.content(
        tmp_path,
        tasks=[{"name": "said", "metric": "exact_match"}],
        search={"max_evaluations": 1, "top_k": 1, "seed": 3},
    )
    (tmp_path / "evolve.yml").write_text(yaml.safe_dump(content))
    md.breed(tmp_path / "evolve.yml", tmp_path / "run", quiet=True)
    log = (tmp_path / "run" / "evaluations.jsonl").read_text().splitlines()
    lines = [json.loads(line) for line in log]
    assert [line["error"] for line in lines if line["error"]] == []
    father = [line["score"] for line in lines if line["name"] == "father"]
    assert father and set(father) == {1.0}
