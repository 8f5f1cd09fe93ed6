"""Fitness: items split and read, scores by hand, errors that name what is near."""

from __future__ import annotations

import math

import pytest

lm_eval = pytest.importorskip("lm_eval")

from mergekit_darwin.errors import DarwinError  # noqa: E402
from mergekit_darwin.evolve.config import TaskSetting, make_config  # noqa: E402
from mergekit_darwin.evolve.fitness import (  # noqa: E402
    load_exams,
    questions,
    shared_items,
    split_indices,
    standard_error,
)
from mergekit_darwin.evolve.workers import Bench, Job, Worker  # noqa: E402
from mergekit_darwin.merge.roles import Roles  # noqa: E402
from mergekit_darwin.merge.yaml import Common, genome_yaml  # noqa: E402
from mergekit_darwin.ratios.genome import make_genome  # noqa: E402
from tests import evolving  # noqa: E402


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return evolving.write_family(tmp_path_factory.mktemp("family") / "f")


def tasks(*names, **rest):
    return [TaskSetting(name=name, **rest) for name in names]


def test_split_holds_out_evenly_and_loses_nothing():
    seen, held = split_indices(10, 0.5)
    assert sorted(seen + held) == list(range(10))
    assert held == [1, 3, 5, 7, 9]
    assert split_indices(4, 0.25) == ([0, 1, 2], [3])


def test_standard_error_by_hand():
    assert standard_error([0.0, 1.0]) == pytest.approx(0.5)
    assert standard_error([1.0]) == 0.0
    values = [1.0] * 3 + [0.0]
    assert standard_error(values) == pytest.approx(math.sqrt(0.25 / 4))


def test_exams_share_no_item_and_limit_cuts_only_the_search(family):
    path = [str(family / "tasks")]
    search, held = load_exams(tasks(*evolving.TASKS), 0.5, include_path=path, limit=5)
    assert [len(paper.indices) for paper in search.papers] == [5, 5]
    assert [len(paper.indices) for paper in held.papers] == [12, 12]
    assert shared_items(search, held) == 0
    assert shared_items(search, search) == 10
    assert search.digest != held.digest


def test_held_out_tasks_of_their_own(family):
    path = [str(family / "tasks")]
    search, held = load_exams(
        tasks("toy_sums", weight=3.0), tasks("toy_letters"), include_path=path
    )
    assert [paper.name for paper in held.papers] == ["toy_letters"]
    assert search.papers[0].weight == 1.0


def test_unknown_task_names_the_nearest(family):
    path = [str(family / "tasks")]
    with pytest.raises(DarwinError, match="Did you mean 'toy_sums'"):
        load_exams(tasks("toy_sumz"), 0.5, include_path=path)


def test_unknown_metric_names_the_known(family):
    path = [str(family / "tasks")]
    with pytest.raises(DarwinError, match="no metric 'f1'"):
        load_exams(tasks("toy_sums", metric="f1"), 0.5, include_path=path)


def test_questions_are_the_harness_prompts_with_the_right_choice(family):
    path = [str(family / "tasks")]
    search, _ = load_exams(tasks("toy_sums"), 0.5, include_path=path)
    task = search.loaded["toy_sums"]
    found = questions(search, None, 4)["toy_sums"]
    assert len(found) == 4
    docs = {doc["prompt"]: doc["choices"][doc["answer"]] for doc in task.eval_docs}
    held = {task.eval_docs[i]["prompt"] for i in range(24)} - {
        task.eval_docs[i]["prompt"] for i in search.papers[0].indices
    }
    for question in found:
        assert docs[question.prompt] == question.completion
        assert question.prompt not in held


def by_hand(model, tokenizer, docs):
    """Return accuracy by summing log-probabilities of the choices ourselves."""
    import torch

    right = []
    for doc in docs:
        prompt = tokenizer(doc["prompt"], add_special_tokens=False).input_ids
        scores = []
        for choice in doc["choices"]:
            rest = tokenizer(choice, add_special_tokens=False).input_ids
            ids = torch.tensor([prompt + rest])
            with torch.inference_mode():
                logs = model(ids).logits.log_softmax(-1)[0]
            places = range(len(prompt) - 1, len(prompt) + len(rest) - 1)
            scores.append(
                sum(float(logs[i, t]) for i, t in zip(places, rest, strict=True))
            )
        right.append(float(scores.index(max(scores)) == doc["answer"]))
    return right


def test_score_is_the_accuracy_computed_by_hand(family):
    import transformers

    config = make_config(evolving.content(family))
    worker = Worker(Bench(config, str(family / "scratch")))
    outcome = worker.measure(Job(0, "father", "search", model=config.father))
    model = transformers.AutoModelForCausalLM.from_pretrained(
        config.father, dtype="float32"
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(config.father)
    means = []
    for paper in worker.exams["search"].papers:
        docs = worker.exams["search"].loaded[paper.name].eval_docs
        right = by_hand(model, tokenizer, [docs[i] for i in paper.indices])
        assert outcome.marks.items[paper.name] == right
        means.append(sum(right) / len(right))
    assert outcome.marks.score == pytest.approx(sum(means) / 2)


def test_in_memory_gives_the_same_scores_as_the_disk(family):
    config = make_config(evolving.content(family, dtype="bfloat16"))
    roles = Roles(config.base_model, config.father, config.mother)
    common = Common(roles, head={"dtype": "bfloat16"})
    disk = Worker(Bench(config, str(family / "scratch")))
    memory = Worker(Bench(config, str(family / "scratch"), in_memory=True), disk.exams)
    for lam in (0.7, 1.6):
        text = genome_yaml(common, make_genome({"lambda": lam}))
        job = Job(1, "child", "search", recipe=text)
        left, right = disk.measure(job), memory.measure(job)
        assert left.error is None and right.error is None
        assert left.marks == right.marks
    assert not list((family / "scratch").iterdir())


def test_in_memory_holds_the_very_weights_of_the_disk(family, tmp_path):
    import torch
    import transformers
    from mergekit.options import MergeOptions

    from mergekit_darwin.merge.into import merge_into, merge_to, output_config

    models = [str(family / name) for name in ("base", "father", "mother")]
    common = Common(Roles(*models), head={"dtype": "bfloat16"})
    text = genome_yaml(common, make_genome({"attn_ratio": 0.2}))
    options = MergeOptions(quiet=True)
    merge_to(text, tmp_path / "out", options)
    stored = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", dtype=torch.float32
    )
    inside = transformers.AutoModelForCausalLM.from_config(
        output_config(text, options), dtype=torch.float32
    )
    merge_into(text, inside, options)
    for name, tensor in stored.state_dict().items():
        assert torch.equal(tensor, inside.state_dict()[name]), name


def test_a_failing_merge_is_an_outcome_with_its_reason(family):
    config = make_config(evolving.content(family))
    worker = Worker(Bench(config, str(family / "scratch")))
    job = Job(3, "child", "search", recipe="merge_method: no_such\nmodels: []\n")
    outcome = worker.measure(job)
    assert outcome.marks is None
    assert outcome.error
    assert not list((family / "scratch").iterdir())
