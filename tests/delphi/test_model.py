"""Consensus as a harness model: what it asks, what it leaves alone, what it returns."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

lm_eval = pytest.importorskip("lm_eval")

from mergekit_darwin import delphi  # noqa: E402
from mergekit_darwin.delphi.answers import reader_of  # noqa: E402
from mergekit_darwin.delphi.draw import Sampling  # noqa: E402
from mergekit_darwin.delphi.guarantee import make_plan, vote_accuracy  # noqa: E402
from mergekit_darwin.delphi.model import Consensus  # noqa: E402
from mergekit_darwin.errors import DarwinError  # noqa: E402
from mergekit_darwin.models.harness import load_tasks  # noqa: E402
from tests.delphi.stub import Stub, numbers, write_task  # noqa: E402

DOCS = [
    {"question": "6*7=", "answer": "42"},
    {"question": "1+1=", "answer": "2"},
    {"question": "500*2=", "answer": "1000"},
    {"question": "?", "answer": "7"},
]
SHARES = {
    "6*7=": {"it is 42.": 1.0},
    "1+1=": {"3": 0.5, "2": 0.5},
    "500*2=": {"1,000": 0.5, "1000": 0.5},
    "?": {"no idea": 0.75, "7": 0.25},
}


def loaded(folder, docs=DOCS, **changes):
    path = [str(write_task(folder, docs, **changes))]
    return load_tasks(["sums"], include_path=path)["sums"]["sums"]


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return loaded(tmp_path_factory.mktemp("tasks"))


def consensus(task, shares=SHARES, seed=1, **plan):
    made = Consensus(Stub(numbers(shares)), make_plan(**plan), Sampling(1.0, seed))
    made.attach({"sums": reader_of("sums", task)})
    return made


def evaluated(lm, task, **options):
    results = lm_eval.evaluate(
        lm=lm,
        task_dict={"tasks": {"sums": task}, "groups": {}, "group_map": {}},
        bootstrap_iters=0,
        **options,
    )
    return results["samples"]["sums"], results["results"]["sums"]


def test_stages_are_asked_for_all_undecided_items_in_one_call(task):
    lm = consensus(task)
    evaluated(lm, task)
    held = lm.samples.held
    used = [len(held["sums", item]) for item in range(4)]
    looks = lm.plan.looks
    assert looks == (6, 8, 10, 12, 14, 16)  # no two or four could stop it
    assert used[0] == 6 and used[2] == 6  # one answer, however it is written
    assert lm.inner.asked == sum(used)
    for start, end, call in zip((0, *looks), looks, lm.inner.calls, strict=False):
        undecided = sum(count > start for count in used)
        assert len(call) == (end - start) * undecided


def test_every_sample_has_a_seed_of_its_own_and_the_asked_temperature(task):
    lm = consensus(task)
    evaluated(lm, task)
    kwargs = [arguments[1] for call in lm.inner.calls for arguments in call]
    assert len({k["seed"] for k in kwargs}) == len(kwargs)
    assert all(k["do_sample"] and k["temperature"] == 1.0 for k in kwargs)
    assert all(k["until"] == ["\n"] and k["max_gen_toks"] == 8 for k in kwargs)


def test_the_harness_scores_the_winning_text_by_its_own_metric(task):
    lm = consensus(task)
    rows, results = evaluated(lm, task)
    texts = {row["doc_id"]: row["resps"][0][0] for row in rows}
    assert texts[0] == "it is 42." and texts[2] in ("1,000", "1000")
    assert results["exact_match,number"] >= 0.75


def test_a_text_without_an_answer_abstains_and_cannot_win(task):
    """ "[invalid]" three times in four would win the harness's own majority vote."""
    lm = consensus(task, samples=32, stage=8)
    rows, _ = evaluated(lm, task)
    answers = [sample.answer for sample in lm.samples.held["sums", 3]]
    assert answers.count(None) > answers.count("7") > 0
    assert next(r for r in rows if r["doc_id"] == 3)["resps"] == [["7"]]


def test_where_no_sample_answers_the_first_text_is_given(task):
    lm = consensus(task, {**SHARES, "?": {"": 0.5, "no idea": 0.5}})
    rows, _ = evaluated(lm, task)
    held = lm.samples.held["sums", 3]
    assert len(held) == 16
    row = next(r for r in rows if r["doc_id"] == 3)
    assert row["resps"] == [[held[0].text]] and row["exact_match"] == 0.0


def test_the_same_seed_gives_the_same_samples_and_another_seed_others(task):
    texts = []
    for seed in (1, 1, 2):
        lm = consensus(task, seed=seed)
        evaluated(lm, task)
        texts.append([s.text for held in lm.samples.held.values() for s in held])
    assert texts[0] == texts[1] != texts[2]


def test_log_likelihoods_pass_through_and_the_cache_hook_does_not(task):
    lm = consensus(task)
    requests = [type("Request", (), {"arguments": ("a", "bcd")})()]
    assert lm.loglikelihood(requests) == [(-3.0, True)]
    assert lm.loglikelihood_rolling(requests) == [-1.25]
    assert lm.inner.likelihoods == [requests, requests]
    before = lm.inner.cache_hook
    lm.set_cache_hook(object())
    assert lm.inner.cache_hook is before


def test_chat_prompts_reach_the_inner_model_untouched(task):
    shares = {f"<user>{prompt}<assistant>": texts for prompt, texts in SHARES.items()}
    lm = consensus(task, shares)
    evaluated(lm, task, apply_chat_template=True)
    asked = {arguments[0] for call in lm.inner.calls for arguments in call}
    assert asked == set(shares)
    assert lm.tokenizer_name == "stub" and lm.world_size == 1


def test_accuracy_is_that_of_the_formula_within_four_standard_errors(tmp_path):
    """Independent samples: votes of 15, two answers and three, 400 items each."""
    draw = random.Random(0)
    for shares in ({"1": 0.6, "2": 0.4}, {"1": 0.4, "2": 0.3, "3": 0.3}):
        docs = [{"question": f"{draw.random()}", "answer": "1"} for _ in range(400)]
        task = loaded(tmp_path / str(len(shares)), docs)
        lm = consensus(
            task, {doc["question"]: shares for doc in docs}, samples=15, stage=5, risk=0
        )
        _, results = evaluated(lm, task)
        exact = vote_accuracy(list(shares.values()), 15)
        error = math.sqrt(exact * (1 - exact) / 400)
        assert abs(results["exact_match,number"] - exact) < 4 * error


def test_model_args_build_the_inner_model_and_the_plan(tmp_path):
    folder = write_task(tmp_path / "tasks", DOCS)
    arguments = f"model=dummy,samples=8,stage=2,risk=0,include_path={folder}"
    lm = Consensus.create_from_arg_string(arguments, {"batch_size": 1, "device": None})
    assert type(lm.inner).__name__ == "DummyLM"
    assert lm.plan == make_plan(8, 2, 0.0)
    task = loaded(tmp_path / "again")
    _, results = evaluated(lm, task)  # read by the name of its requests
    assert results["exact_match,number"] == 0.0
    assert all(len(held) == 8 for held in lm.samples.held.values())


def test_a_task_that_cannot_be_found_by_name_names_the_command(tmp_path, monkeypatch):
    def unknown(names, include_path=()):
        raise DarwinError(f"no task {names}")

    monkeypatch.setattr("mergekit_darwin.delphi.model.load_tasks", unknown)
    lm = Consensus(Stub(numbers(SHARES)))
    with pytest.raises(DarwinError, match="mergekit-darwin-delphi"):
        evaluated(lm, loaded(tmp_path))


REGISTERED = (
    "from lm_eval.api.registry import get_model as g;"
    "print(g('hf').__name__, g('dummy').__name__, g('delphi').__name__)"
)


def test_the_import_hook_registers_delphi_and_breaks_no_built_in_name():
    """The harness imports its own models late, at the first name it is asked for."""
    code = f"import mergekit_darwin._autoload as a;a.install();{REGISTERED}"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.split() == ["HFLM", "DummyLM", "Consensus"], run.stderr


def test_the_entry_point_leads_to_the_same_class():
    """As releases of the harness after 0.4.13 will load it."""
    assert EntryPoint(delphi.NAME, delphi.TARGET, delphi.GROUP).load() is Consensus
    with open("pyproject.toml", encoding="utf-8") as file:
        text = file.read()
    assert f'[project.entry-points."{delphi.GROUP}"]' in text
    assert f'{delphi.NAME} = "{delphi.TARGET}"' in text


def test_registering_again_changes_nothing_and_entry_points_may_come_after():
    from lm_eval.api.registry import get_model, model_registry

    delphi.register()
    delphi.register()
    assert get_model("delphi") is Consensus
    assert "hf" in model_registry
