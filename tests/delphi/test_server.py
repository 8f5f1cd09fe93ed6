"""The harness's types that ask a server, against a small one of ours.

The oracle is the stub that answers by the same seeded rule without any server: seeds,
temperatures, stages and answers are right if the samples are the same bytes.
"""

from __future__ import annotations

import pytest

pytest.importorskip("lm_eval")
pytest.importorskip("tenacity")  # of lm-eval's extra "api"

from mergekit_darwin.delphi.options import Options
from mergekit_darwin.delphi.run import consensus
from mergekit_darwin.errors import DarwinError
from tests.delphi.server import serving
from tests.delphi.stub import Stub, numbers, write_task

DOCS = [{"question": f"{i}+{i}=", "answer": str(2 * i)} for i in range(12)]
SHARES = {
    doc["question"]: {doc["answer"]: 1.0} if i % 2 else {doc["answer"]: 0.6, "-1": 0.4}
    for i, doc in enumerate(DOCS)
}
CHATS = {f"<user>{prompt}<assistant>": texts for prompt, texts in SHARES.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_task(tmp_path_factory.mktemp("tasks"), DOCS)


def ran(folder, out, model, **changes):
    given = {"include_path": (str(folder),), "samples": 8, "risk": 0.05, **changes}
    return consensus(model, ["sums"], out, Options(**given))


def by_stub(folder, out, shares=SHARES, **changes):
    """Return the samples that the same run has without a server, and how many."""
    stub = Stub(numbers(shares))
    ran(folder, out, stub, **changes)
    return (out / "samples.jsonl").read_bytes(), stub


def by_server(folder, out, server, kind="local-completions", **changes):
    path = "chat/completions" if "chat" in kind else "completions"
    args = {
        "base_url": f"{server.url}/{path}",
        "tokenizer_backend": "none",
        "max_retries": 1,
        **changes.pop("model_args", {}),
    }
    ran(folder, out, "served", model_type=kind, model_args=args, **changes)
    return (out / "samples.jsonl").read_bytes()


def test_a_server_gives_the_samples_of_the_stub_with_the_same_seeds(folder, tmp_path):
    expected, stub = by_stub(folder, tmp_path / "stub")
    with serving(numbers(SHARES)) as server:
        assert by_server(folder, tmp_path / "out", server, batch_size="4") == expected
    sampled = [asked for asked in server.asked if asked["temperature"] > 0]
    assert len(sampled) == len({asked["seed"] for asked in sampled})
    assert len(sampled) == stub.asked - len(DOCS) < 8 * len(DOCS)
    assert {asked["temperature"] for asked in sampled} == {0.7}
    assert {(asked["max_tokens"], *asked["stop"]) for asked in sampled} == {(8, "\n")}
    assert all("do_sample" not in asked for asked in server.asked)
    greedy = [asked["prompt"] for asked in server.asked if asked["temperature"] == 0]
    assert [len(prompts) for prompts in greedy] == [4, 4, 4]
    assert server.busiest == 1


def test_as_many_requests_as_a_server_may_have_are_under_way_at_once(folder, tmp_path):
    expected, _ = by_stub(folder, tmp_path / "stub", shadow=True)
    with serving(numbers(SHARES)) as server:
        found = by_server(
            *(folder, tmp_path / "out", server),
            model_args={"num_concurrent": 4},
            shadow=True,
        )
    assert found == expected
    assert server.busiest == 4


def test_a_run_whose_server_died_goes_on_with_what_is_left(folder, tmp_path):
    expected, stub = by_stub(folder, tmp_path / "stub")
    first = len(stub.calls[0]) + len(stub.calls[1])
    with serving(numbers(SHARES)) as server:
        server.limit = first + 3
        with pytest.raises(DarwinError, match="must answer every request") as said:
            by_server(folder, tmp_path / "out", server, batch_size="1")
        assert "503" in str(said.value) and "\n" not in str(said.value)
        server.limit = None
        assert by_server(folder, tmp_path / "out", server, batch_size="1") == expected
    assert len(server.asked) == stub.asked + 3


def test_where_nobody_answers_one_request_says_so(folder, tmp_path, caplog):
    with serving(numbers(SHARES)) as server:
        server.limit = 0
        with pytest.raises(DarwinError, match="must answer every request"):
            by_server(*(folder, tmp_path, server), model_args={"num_concurrent": 4})
        assert server.busiest == 1
    failed = [row for row in caplog.records if row.levelname == "ERROR"]
    assert len(failed) == 1  # the harness's own, of its one try


def test_chats_reach_a_server_as_turns(folder, tmp_path):
    chat = {"apply_chat_template": True}
    expected, _ = by_stub(folder, tmp_path / "stub", CHATS, **chat)
    with serving(numbers(CHATS)) as server:
        kind = "local-chat-completions"
        assert by_server(folder, tmp_path / "out", server, kind, **chat) == expected
    turns = [turn for asked in server.asked for turn in asked["messages"]]
    assert len(turns) == len(server.asked)
    assert {turn["role"] for turn in turns} == {"user"}
    assert {turn["content"] for turn in turns} == {doc["question"] for doc in DOCS}


@pytest.mark.parametrize(
    ("kind", "url", "chats", "said"),
    [
        ("local-chat-completions", True, False, "give --apply-chat-template"),
        ("local-completions", True, True, "use a chat type"),
        ("local-completions", False, False, "base_url=http://HOST:PORT"),
    ],
)
def test_what_a_type_cannot_do_is_refused_before_anything_is_asked_or_written(
    kind, url, chats, said, folder, tmp_path
):
    changes = {} if url else {"model_args": {"base_url": None}}
    with serving(numbers(SHARES)) as server:
        with pytest.raises(DarwinError, match=said) as refused:
            by_server(
                folder, tmp_path, server, kind, apply_chat_template=chats, **changes
            )
        assert not server.asked
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "settings.json").exists()
