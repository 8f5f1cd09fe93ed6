"""A whole consensus run on a stub model: report, files, resuming, the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

lm_eval = pytest.importorskip("lm_eval")

from mergekit_darwin.delphi import run as delphi_run  # noqa: E402
from mergekit_darwin.delphi.answers import reader_of  # noqa: E402
from mergekit_darwin.delphi.compare import mcnemar, mean_of  # noqa: E402
from mergekit_darwin.delphi.draw import Sampling  # noqa: E402
from mergekit_darwin.delphi.guarantee import make_plan  # noqa: E402
from mergekit_darwin.delphi.model import Consensus  # noqa: E402
from mergekit_darwin.delphi.options import Options, make_options  # noqa: E402
from mergekit_darwin.delphi.run import consensus  # noqa: E402
from mergekit_darwin.delphi.samples import read_samples  # noqa: E402
from mergekit_darwin.errors import DarwinError  # noqa: E402
from mergekit_darwin.models.harness import load_tasks  # noqa: E402
from tests.delphi.stub import Stub, numbers, write_task  # noqa: E402

ITEMS = 24
DOCS = [{"question": f"{i}+{i}=", "answer": str(2 * i)} for i in range(ITEMS)]
# A third surely right, a third right as a mode, a third wrong as a mode.
SHARES = {
    doc["question"]: {
        "0": {doc["answer"]: 1.0},
        "1": {doc["answer"]: 0.6, "-1": 0.3, "none": 0.1},
        "2": {doc["answer"]: 0.3, "-1": 0.7},
    }[str(i % 3)]
    for i, doc in enumerate(DOCS)
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_task(tmp_path_factory.mktemp("tasks"), DOCS)


def options(folder, **changes):
    given = {"include_path": (str(folder),), "temperature": 1.0, **changes}
    return Options(**given)


def ran(folder, out, model=None, **changes):
    model = model or Stub(numbers(SHARES))
    return consensus(model, ["sums"], out, options(folder, **changes)), model


@pytest.fixture(scope="module")
def shadow(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("shadow")
    report, model = ran(folder, out, shadow=True)
    return report, model, out


def test_shadow_draws_all_and_reports_what_stopping_would_have_done(shadow, folder):
    report, model, _ = shadow
    assert model.asked == ITEMS * 17  # 16 samples and the greedy text
    task = report.tasks["sums"]
    early, lm = ran(folder, shadow[2] / "early")
    assert lm.asked == ITEMS * (1 + early.tasks["sums"].cost.mean)
    assert early.tasks["sums"].cost == task.cost.__class__(
        **{**vars(task.cost), "tokens_full": None}
    )
    assert early.tasks["sums"].scores["stopped vote"] == task.scores["stopped vote"]
    assert task.cost.stopped_at.keys() <= set(report.plan.looks)
    assert 0.0 < task.cost.saved < 1.0
    assert task.agreement.share >= 1 - report.worst.chance - 1 / ITEMS
    assert "full vote" not in early.tasks["sums"].scores


def test_scores_are_those_counted_by_hand(shadow):
    report, _, out = shadow
    held = read_samples(out / "samples.jsonl")
    task = report.tasks["sums"]
    assert task.scores["greedy"].mean == pytest.approx(2 / 3)
    singles, full = [], []
    for i in range(ITEMS):
        drawn = [s for s in held["sums", i] if s.stage]
        assert [s.sample for s in drawn] == list(range(16))
        right = [s.text == DOCS[i]["answer"] for s in drawn]
        assert [s.correct for s in drawn] == right
        singles.append(sum(right) / 16)
        wrong = sum(s.answer == "-1" for s in drawn)
        if sum(right) != wrong:
            full.append((i, float(sum(right) > wrong)))
    assert task.scores["one sample"] == mean_of(singles)
    by_item = dict(full)
    assert len(by_item) >= ITEMS - 3
    assert abs(task.scores["full vote"].mean * ITEMS - sum(by_item.values())) <= 3


def test_the_stopped_score_is_what_the_harness_measures_of_the_consensus(
    shadow, folder
):
    task = load_tasks(["sums"], include_path=[str(folder)])["sums"]["sums"]
    lm = Consensus(Stub(numbers(SHARES)), make_plan(), Sampling(1.0, 1))
    lm.attach({"sums": reader_of("sums", task)})
    results = lm_eval.evaluate(
        lm=lm,
        task_dict={"tasks": {"sums": task}, "groups": {}, "group_map": {}},
        bootstrap_iters=0,
    )
    measured = results["results"]["sums"]["exact_match,number"]
    assert shadow[0].tasks["sums"].scores["stopped vote"].mean == measured


def test_files_are_there_and_say_what_must_be_said(shadow):
    report, _, out = shadow
    page = (out / "report.md").read_text(encoding="utf-8")
    assert "property of model and engine together" in page
    assert "Enumerated over every composition" in page and "McNemar" in page
    content = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert content["format"] == "mergekit-darwin/delphi" and content["version"] == 1
    assert content["plan"]["samples"] == 16
    assert content["worst"]["chance"] <= content["risk"] == 0.01
    assert content["tasks"]["sums"]["cost"]["saved"] == report.tasks["sums"].cost.saved
    assert (out / "delphi.png").read_bytes().startswith(b"\x89PNG")
    line = json.loads((out / "samples.jsonl").read_text().splitlines()[-1])
    assert set(line) == {
        *("task", "item", "stage", "sample", "text", "answer", "correct", "tokens")
    }


class Killed(BaseException):
    """What a test raises where a process would be killed; no error that is reported."""


def dying(calls: int) -> Stub:
    """Return a stub that is killed in its call of this number."""
    model = Stub(numbers(SHARES))
    answer = model.generate_until

    def generate_until(requests, disable_tqdm=False):
        if len(model.calls) == calls:
            raise Killed
        return answer(requests)

    model.generate_until = generate_until
    return model


@pytest.mark.parametrize("calls", [1, 2, 3])
def test_a_killed_run_goes_on_without_drawing_anything_twice(
    calls, shadow, folder, tmp_path
):
    whole, model = ran(folder, tmp_path / "whole")
    first = dying(calls)
    with pytest.raises(Killed):
        ran(folder, tmp_path / "out", first)
    with (tmp_path / "out" / "samples.jsonl").open("ab") as file:
        file.write(b'{"task": "sums", "item": 3, "te')  # torn by the kill
    again, second = ran(folder, tmp_path / "out")
    assert first.asked + second.asked == model.asked
    assert again == whole
    for name in ("samples.jsonl", "report.json", "report.md", "delphi.png"):
        left, right = tmp_path / "out" / name, tmp_path / "whole" / name
        assert left.read_bytes() == right.read_bytes(), name
    _, third = ran(folder, tmp_path / "out")
    assert third.asked == 0


def test_a_folder_of_another_run_is_refused_with_what_differs(shadow, folder):
    with pytest.raises(DarwinError, match=r"temperature was 1\.0, now it is 0\.5"):
        ran(folder, shadow[2], shadow=True, temperature=0.5)
    with pytest.raises(DarwinError, match="shadow was true, now it is false"):
        ran(folder, shadow[2])


@pytest.mark.parametrize(
    "name", ["report.md", "samples.jsonl", "settings.json", "config.json", "lock"]
)
def test_a_folder_that_is_no_run_s_is_refused_and_left_as_it_was(
    name, folder, tmp_path
):
    file = tmp_path / "out" / name
    file.parent.mkdir()
    file.write_text('{"mine": "and dear to me"}')
    with pytest.raises(DarwinError, match=f"--out must be an empty.*holds '{name}'"):
        ran(folder, tmp_path / "out")
    assert file.read_text() == '{"mine": "and dear to me"}'
    assert list(file.parent.iterdir()) == [file]


def test_chats_of_a_model_without_a_template_are_refused_by_name(folder, tmp_path):
    from tests import tiny

    model = str(tiny.tiny_llama(tmp_path / "model", 1))
    with pytest.raises(DarwinError, match=r"needs a model with a chat template; .*mod"):
        ran(folder, tmp_path / "out", model, apply_chat_template=True)


def test_a_model_that_is_no_folder_is_said_to_be_none(folder, tmp_path):
    with pytest.raises(DarwinError, match=r"nowhere cannot be.*No folder here has"):
        ran(folder, tmp_path / "out", "nowhere")


def test_a_task_whose_items_make_no_request_is_named(tmp_path):
    text = "{{1 / (6 - question|length)}}"  # fails at the second
    docs = [DOCS[0], DOCS[10]]
    tasks = write_task(tmp_path / "tasks", docs, doc_to_text=text)
    with pytest.raises(DarwinError, match=r"^sums: the harness must make a request"):
        ran(tasks, tmp_path / "out")


def test_a_folder_that_cannot_be_is_named(folder, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(DarwinError, match=r"--out must be a folder.*file is none"):
        ran(folder, tmp_path / "file")


def test_a_run_killed_before_its_settings_may_start_again(folder, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "lock").write_text("4711")
    (tmp_path / "out" / ".settings.json.part").write_text('{"mod')
    report, _ = ran(folder, tmp_path / "out", samples=2, stage=2)
    assert report.tasks["sums"].items == ITEMS


def test_a_damaged_line_is_named(shadow, folder, tmp_path):
    ran(folder, tmp_path, samples=2, stage=2)
    lines = (tmp_path / "samples.jsonl").read_text().splitlines()
    lines[2] = lines[2].replace('"item"', '"itme"')
    (tmp_path / "samples.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(DarwinError, match=r"samples.jsonl, line 3, is no sample"):
        ran(folder, tmp_path, samples=2, stage=2)


def test_several_tasks_are_reported_apart_and_pooled(folder, tmp_path):
    write_task(tmp_path / "more", DOCS[:6], name="few")
    report = consensus(
        Stub(numbers(SHARES)),
        ["sums", "few"],
        tmp_path / "out",
        options(folder, include_path=(str(folder), str(tmp_path / "more"))),
    )
    assert [task.items for task in report.tasks.values()] == [24, 6, 30]
    assert list(report.tasks) == ["sums", "few", "all"]


def test_no_greedy_asks_for_none_and_compares_with_one_sample(folder, tmp_path):
    report, model = ran(folder, tmp_path, greedy=False)
    assert all(a[1]["do_sample"] for call in model.calls for a in call)
    assert "greedy" not in report.tasks["sums"].scores
    compared = [(d.left, d.right) for d in report.tasks["sums"].differences]
    assert compared == [("stopped vote", "one sample")]


def test_greedy_requests_are_the_task_s_own_bit_for_bit(shadow):
    _, model, _ = shadow
    task_kwargs = {"until": ["\n"], "max_gen_toks": 8, "do_sample": False}
    assert [arguments for arguments in model.calls[0]] == [
        (doc["question"], task_kwargs) for doc in DOCS
    ]


def test_mcnemar_is_the_binomial_tail_of_the_items_that_differ():
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(5, 5) == 1.0
    assert mcnemar(6, 0) == pytest.approx(2 / 64)
    assert mcnemar(1, 9) == pytest.approx(2 * 11 / 1024)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"sampels": 4}, "sampels.*Did you mean 'samples'"),
        ({"temperature": 0.0}, "temperature: Input should be greater than 0"),
        ({"limit": 0}, "limit"),
    ],
)
def test_options_that_do_not_fit_are_refused_in_one_line(given, said):
    with pytest.raises(DarwinError, match=said) as refused:
        make_options(**given)
    assert "\n" not in str(refused.value)


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "mergekit_darwin.cli.delphi", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )


def test_the_command_asks_a_model_type_of_the_harness(folder, tmp_path):
    """The harness's dummy answers "lol": no item has an answer, none is right."""
    run = command(
        *("nowhere", "--model-type", "dummy", "--tasks", "sums", "--limit", "3"),
        *("--include-path", str(folder), "--out", str(tmp_path / "out")),
        *("--samples", "4", "--stage", "2", "--quiet", "--json"),
    )
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    assert report["tasks"]["sums"]["items"] == 3
    assert report["tasks"]["sums"]["abstained"] == 1.0
    assert report["tasks"]["sums"]["scores"]["stopped vote"]["mean"] == 0.0


def test_stdout_is_the_report_s_whatever_the_harness_prints(
    folder, tmp_path, monkeypatch
):
    """With --batch-size auto it prints the size that it found."""
    from click.testing import CliRunner

    from mergekit_darwin.cli.delphi import main

    def chatty(*_, **__):
        print("Determined Largest batch size: 64")
        return Stub(numbers(SHARES))

    monkeypatch.setattr(delphi_run, "open_model", chatty)
    line = ("m", "--tasks", "sums", "--include-path", str(folder), "--json")
    run = CliRunner().invoke(main, [*line, "--out", str(tmp_path / "out")])
    assert json.loads(run.stdout)["tasks"]["sums"]["items"] == ITEMS
    assert "Determined" in run.stderr


def test_a_device_that_is_not_there_is_named(folder, tmp_path):
    with pytest.raises(DarwinError, match=r"--device.*cuda:77"):
        ran(folder, tmp_path / "out", "nowhere", device="cuda:77")


def test_options_of_the_command_are_those_of_python():
    from mergekit_darwin.cli.delphi import main

    named = {param.name for param in main.params}
    own = {"model", "tasks", "out", "as_json", "verbose", "quiet"}
    assert named - own == set(Options.__dataclass_fields__)
    defaults = {p.name: p.default for p in main.params if p.name in ("samples", "risk")}
    assert defaults == {"samples": 16, "risk": 0.01}
    assert Options() == make_options()


def test_samples_of_a_torch_model_are_the_same_after_a_kill(tmp_path):
    """They come from torch's global stream, which is seeded by call and left alone."""
    import torch

    from mergekit_darwin.models.harness import open_model
    from tests import tiny

    model = str(tiny.tiny_llama(tmp_path / "model", 1))
    docs = [{"question": f"{i}=", "answer": "1"} for i in range(5)]
    folder = write_task(tmp_path / "tasks", docs)
    given = options(folder, samples=4, stage=2, shadow=True)
    args = {"pretrained": model, "dtype": "float32"}
    opened = open_model("hf", args, batch_size="4", device="cpu")
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    consensus(opened, ["sums"], tmp_path / "whole", given)
    assert torch.rand(1) == expected
    answer, calls = opened.generate_until, []

    def generate_until(requests, disable_tqdm=False):
        calls.append(len(requests))
        if len(calls) == 3:
            raise Killed
        return answer(requests, disable_tqdm)

    opened.generate_until = generate_until
    for stop in (True, False):
        try:
            consensus(opened, ["sums"], tmp_path / "out", given)
        except Killed:
            assert stop
    assert calls == [5, 10, 10, 10]  # greedy, two stages, the killed one again
    left, right = tmp_path / "out" / "samples.jsonl", tmp_path / "whole"
    assert left.read_bytes() == (right / "samples.jsonl").read_bytes()
    texts = {s.text for held in read_samples(left).values() for s in held}
    assert len(texts) > 5
