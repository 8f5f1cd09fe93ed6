"""Fitness: items split and read, scores by hand, errors that name what is near."""

from __future__ import annotations

import math

import pytest

lm_eval = pytest.importorskip("lm_eval")

from mergekit_darwin.errors import DarwinError  # noqa: E402
from mergekit_darwin.evolve.fitness import standard_error  # noqa: E402
from mergekit_darwin.evolve.log import Candidate  # noqa: E402
from mergekit_darwin.evolve.options import RunOptions  # noqa: E402
from mergekit_darwin.evolve.reading import make_config  # noqa: E402
from mergekit_darwin.evolve.tasks import (  # noqa: E402
    load_task_sets,
    probe_items,
    shared_samples,
    split_indices,
)
from mergekit_darwin.evolve.workers import Worker  # noqa: E402
from mergekit_darwin.merge.roles import Roles  # noqa: E402
from mergekit_darwin.merge.yaml import Common, genome_yaml  # noqa: E402
from mergekit_darwin.ratios.genome import make_genome  # noqa: E402
from tests import evolving  # noqa: E402


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return evolving.write_family(tmp_path_factory.mktemp("family") / "f")


def sets(family, **changes):
    """Return the searched and the held-out tasks of a config over the family."""
    found = load_task_sets(make_config(evolving.content(family, **changes)))
    return found["search"], found["heldout"]


def measured(worker, **candidate):
    """Return what a worker makes of a candidate on the search items, with samples."""
    made = Candidate("child", **candidate)
    return worker.measure(made, made.line(0, "real", 0), "search")


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


def test_parts_share_no_sample_and_limit_cuts_only_the_search(family):
    search, held = sets(family, limit=5)
    assert [len(task.samples) for task in search.tasks] == [5, 5]
    assert [len(task.samples) for task in held.tasks] == [12, 12]
    assert shared_samples(search, held) == 0
    assert shared_samples(search, search) == 10
    assert search.digest != held.digest


def test_held_out_tasks_of_their_own(family):
    names = [{"name": "toy_sums", "weight": 3.0}]
    search, held = sets(family, tasks=names, heldout=["toy_letters"])
    assert [task.name for task in held.tasks] == ["toy_letters"]
    assert search.tasks[0].weight == 1.0


def test_unknown_task_names_the_nearest(family):
    with pytest.raises(DarwinError, match="Did you mean 'toy_sums'"):
        sets(family, tasks=["toy_sumz"])


def test_unknown_metric_names_the_known(family):
    with pytest.raises(DarwinError, match="no metric 'f1'"):
        sets(family, tasks=[{"name": "toy_sums", "metric": "f1"}])


def test_probe_items_are_the_harness_prompts_with_the_right_choice(family):
    search, _ = sets(family, tasks=["toy_sums"])
    task = search.tasks[0]
    found = probe_items(search, None, 4)["toy_sums"]
    assert len(found) == 4
    docs = task.loaded.eval_docs
    right = {doc["prompt"]: doc["choices"][doc["answer"]] for doc in docs}
    held = {docs[i]["prompt"] for i in range(24)} - {
        docs[i]["prompt"] for i in task.samples
    }
    for item in found:
        assert right[item.prompt] == item.completion
        assert item.prompt not in held


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
    worker = Worker(config, RunOptions(), str(family / "scratch"))
    line = measured(worker, model=config.father)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        config.father, dtype="float32"
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(config.father)
    means = []
    for task in worker.tasks["search"].tasks:
        docs = task.loaded.eval_docs
        right = by_hand(model, tokenizer, [docs[i] for i in task.samples])
        assert line.samples[task.name] == right
        means.append(sum(right) / len(right))
    assert line.score == pytest.approx(sum(means) / 2)


def test_in_memory_gives_the_same_scores_as_the_disk(family):
    config = make_config(evolving.content(family, dtype="bfloat16"))
    roles = Roles(config.base_model, config.father, config.mother)
    common = Common(roles, head={"dtype": "bfloat16"})
    scratch = str(family / "scratch")
    disk = Worker(config, RunOptions(in_memory=False), scratch)
    memory = Worker(config, RunOptions(in_memory=True), scratch, disk.tasks)
    for lam in (0.7, 1.6):
        genome = make_genome({"lambda": lam})
        made = {"yaml": genome_yaml(common, genome), "genome": genome}
        left, right = measured(disk, **made), measured(memory, **made)
        assert left.error is None and right.error is None
        assert left.timeless() == right.timeless()
        assert left.samples == right.samples
    assert not list((family / "scratch").iterdir())


@pytest.mark.parametrize("inside", [True, False])
def test_a_merge_that_rounds_back_to_a_parent_has_that_parents_score(family, inside):
    config = make_config(evolving.content(family, dtype="bfloat16", base_model=None))
    roles = Roles(config.father, config.father, config.mother)
    worker = Worker(config, RunOptions(in_memory=inside), str(family / "scratch"))
    genome = make_genome({"lambda": 1e-20})
    text = genome_yaml(Common(roles, head={"dtype": "bfloat16"}), genome)
    child = measured(worker, yaml=text, genome=genome)
    father = measured(worker, model=config.father)
    assert child.error is None
    assert (child.score, child.tasks) == (father.score, father.tasks)
    moved = make_genome({"lambda": 1.0})
    text = genome_yaml(Common(roles, head={"dtype": "bfloat16"}), moved)
    assert measured(worker, yaml=text, genome=moved).samples != father.samples


def test_in_memory_holds_the_very_weights_of_the_disk(family, tmp_path):
    import torch
    import transformers
    from mergekit.options import MergeOptions

    from mergekit_darwin.merge.yaml import merge_into, merge_to, output_config

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


def test_a_method_that_cannot_do_it_fails_with_its_reason(family):
    config = make_config(evolving.content(family))
    worker = Worker(config, RunOptions(), str(family / "scratch"))
    line = measured(worker, yaml="merge_method: no_such\nmodels: []\n")
    assert line.score is None
    assert line.error
    assert not list((family / "scratch").iterdir())
