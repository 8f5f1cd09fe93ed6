"""A whole breeding run: killed, resumed, locked, failing, shared among workers."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("lm_eval")

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.evolve.folder import claim
from mergekit_darwin.evolve.log import read_log
from mergekit_darwin.evolve.options import RunOptions
from mergekit_darwin.evolve.reading import make_config
from mergekit_darwin.evolve.run import evolve
from mergekit_darwin.locks import locked
from tests import evolving

pytestmark = pytest.mark.usefixtures("one_thread")  # as the runs of their own have it
# Each child of this process finds the slow imports done, so that kills fall into work.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["lm_eval.evaluator", "mergekit.merge", "tests.evolving", "lm_eval.tasks"]
)


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return evolving.write_family(tmp_path_factory.mktemp("family") / "f")


@pytest.fixture(scope="module")
def finished(family, tmp_path_factory):
    """Return the folder of a run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    start(family, folder).join()
    assert (folder / "report.md").exists()
    return folder


def start(family: Path, folder: Path, **options):
    """Start a run in a process of its own."""
    arguments = (evolving.content(family), str(folder), options)
    process = FORKS.Process(target=evolving.run_here, args=arguments)
    process.start()
    return process


def outcome(folder: Path) -> dict[str, object]:
    """Return what must be the same however often a run was stopped."""
    lines = read_log(folder / "evaluations.jsonl")
    text = (folder / "best.yml").read_text().replace(str(folder), "RUN")
    weights = folder / "final_model" / "model.safetensors"
    return {
        "best": text,
        "genome": json.loads((folder / "genome.json").read_text()),
        "manifest": (folder / "final_model" / "manifest.json").read_text(),
        "weights": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "log": [lines[i].timeless() for i in sorted(lines)],
        "heldout": {
            path.name: path.read_text() for path in (folder / "heldout").iterdir()
        },
    }


def test_a_run_leaves_what_it_promises(finished):
    names = {path.name for path in finished.iterdir()}
    assert {
        "config.yml",
        "mds",
        "evaluations.jsonl",
        "best.yml",
        "report.md",
        "report.html",
        "final_model",
        "log.txt",
        "health",
        "plots",
    } <= names
    model = {path.name for path in (finished / "final_model").iterdir()}
    assert {
        "README.md",
        "manifest.json",
        "mergekit_config.yml",
        "tokenizer.json",
        "config.json",
    } <= model
    plots = {path.name for path in (finished / "plots").iterdir()}
    assert {"scores.png", "genome.png", "ratios.png", "heldout.png", "mds.png"} <= plots
    scratch = finished / "scratch"
    assert not scratch.exists() or not list(scratch.iterdir())
    report = (finished / "report.md").read_text()
    for name in ("father", "linear 0.5", "slerp 0.5", "dare_ties 0.5", "child"):
        assert f"| {name} |" in report
    log = [json.loads(line) for line in (finished / "evaluations.jsonl").open()]
    phases = [line["phase"] for line in log]
    assert phases.count("real") == 8
    assert phases[:4] == ["parent", "parent", "parent", "proxy"]


def test_best_yml_gives_the_bytes_of_the_final_model(finished, tmp_path):
    code = (
        "import sys, mergekit_darwin; mergekit_darwin.register();"
        "from mergekit.scripts.run_yaml import main; main()"
    )
    out = tmp_path / "out"
    arguments = [sys.executable, "-c", code, str(finished / "best.yml"), str(out)]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for name in ("model.safetensors", "config.json", "mergekit_config.yml"):
        left = (finished / "final_model" / name).read_bytes()
        assert left == (out / name).read_bytes(), name


def test_held_out_items_are_not_among_the_searched_or_probed(finished):
    log = [json.loads(line) for line in (finished / "evaluations.jsonl").open()]
    search = {line["items"] for line in log if line["phase"] in ("parent", "real")}
    held = {line["items"] for line in log if line["phase"] in ("baseline", "final")}
    assert len(search) == len(held) == 1
    assert not search & held


@pytest.mark.full
@pytest.mark.slow
def test_killed_ten_times_it_ends_as_if_it_never_was(family, finished, tmp_path):
    whole = sum(
        (line.merge_s or 0) + (line.eval_s or 0)
        for line in read_log(finished / "evaluations.jsonl").values()
    )
    draw = random.Random(1)
    folder = tmp_path / "run"
    log = folder / "evaluations.jsonl"
    kills, grown = 0, set()
    while kills < 10:
        process = start(family, folder)
        begun = log.read_bytes() if log.exists() else b""
        deadline = time.monotonic() + 60
        # Wait until this start has measured something, then kill at a random moment.
        while time.monotonic() < deadline and process.is_alive():
            if log.exists() and len(log.read_bytes()) > len(begun):
                break
            time.sleep(0.01)
        time.sleep(draw.uniform(0.0, 0.2 * whole))
        if not process.is_alive():
            break
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        kills += 1
        content = log.read_bytes()
        assert content.startswith(begun[: begun.rfind(b"\n") + 1])
        grown.add(len(content))
    while kills < 10:  # it came to its end too soon: kill the rest at the very end
        process = start(family, folder)
        time.sleep(draw.uniform(0.0, 2.0))
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
        process.join()
        kills += 1
    start(family, folder).join()
    assert outcome(folder) == outcome(finished)


def test_a_torn_line_costs_only_itself(family, finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    log = folder / "evaluations.jsonl"
    whole = log.read_bytes()
    lines = whole.splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:-1]) + lines[-1][:20])
    start(family, folder).join()
    again = read_log(log)
    assert len(again) == len(lines)
    assert log.read_bytes().startswith(b"".join(lines[:-1]))


def test_an_edited_config_is_refused_with_the_key(family, finished):
    keys = evolving.content(family, mask_seed=5)
    with pytest.raises(DarwinError, match="mask_seed"):
        evolve(make_config(keys), finished, RunOptions(quiet=True))


def test_an_edited_log_is_refused(family, finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    log = folder / "evaluations.jsonl"
    rows = [json.loads(line) for line in log.open()]
    real = next(row for row in rows if row["phase"] == "real")
    real["genome"]["lambda"] = 0.123
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DarwinError, match="must replay"):
        evolve(make_config(evolving.content(family)), folder, RunOptions(quiet=True))


def test_a_second_process_is_refused(family, tmp_path):
    folder = tmp_path / "run"
    claim(folder)
    with locked(folder, "--storage-path"), pytest.raises(DarwinError, match="in use"):
        evolve(make_config(evolving.content(family)), folder, RunOptions(quiet=True))


@pytest.fixture
def failing(monkeypatch):
    """Make merges fail before they begin, with the error that a rule gives."""
    from mergekit_darwin.evolve import workers

    def install(rule):
        genuine = workers.Worker._model

        def model(self, candidate):
            error = rule(candidate) if candidate.yaml is not None else None
            if error is not None:
                raise error
            return genuine(self, candidate)

        monkeypatch.setattr(workers.Worker, "_model", model)

    return install


def run_in(family, folder, **options):
    """Run in this process, merging in memory."""
    keys = make_config(evolving.content(family))
    return evolve(keys, folder, RunOptions(quiet=True, in_memory=True, **options))


def test_a_genome_that_fails_is_recorded_and_does_not_end_the_run(
    family, tmp_path, failing
):
    failing(
        lambda child: (
            ValueError("acc is nan")
            if str(child.digest) > "8" and child.proxy
            else None
        )
    )
    done = run_in(family, tmp_path / "run")
    lines = read_log(tmp_path / "run" / "evaluations.jsonl").values()
    failed = [line for line in lines if line.error]
    assert failed and done.best.score is not None
    assert all("acc is nan" in str(line.error) for line in failed)
    assert all(line.score is None for line in failed)


def test_when_no_child_works_the_first_reason_is_told_and_nothing_logged(
    family, tmp_path, failing
):
    failing(lambda child: ValueError("acc is nan"))
    with pytest.raises(DarwinError, match=r"all 5 failed.*acc is nan"):
        run_in(family, tmp_path / "run")
    lines = read_log(tmp_path / "run" / "evaluations.jsonl").values()
    assert {line.phase for line in lines} == {"parent", "proxy"}


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("no room"),
        OSError(28, "No space left on device"),
        RuntimeError("CUDA error: no kernel image"),
    ],
)
def test_a_failure_of_the_world_stops_the_run_and_the_next_start_measures_again(
    family, finished, tmp_path, failing, error
):
    folder, begun = tmp_path / "run", []

    def later(child):
        begun.append(child)
        return error if len(begun) == 4 else None

    failing(later)
    with pytest.raises(DarwinError, match="not its own fault") as caught:
        run_in(family, folder)
    assert "\n" not in str(caught.value)
    lines = read_log(folder / "evaluations.jsonl")
    assert [line.error for line in lines.values()] == [None] * 7
    if isinstance(error, OSError):  # once is enough: the mended run ends as any other
        run_in(family, folder)
        assert outcome(folder) == outcome(finished)


def test_max_time_is_a_logged_decision_that_a_replay_repeats(family, tmp_path):
    keys = evolving.content(family)
    keys["search"] = {**keys["search"], "max_time": 0.01}
    config = make_config(keys)
    first = evolve(config, tmp_path / "run", RunOptions(quiet=True))
    lines = read_log(tmp_path / "run" / "evaluations.jsonl")
    stops = [line for line in lines.values() if line.phase == "stop"]
    assert len(stops) == 1
    real = [line for line in lines.values() if line.phase == "real"]
    assert {line.generation for line in real} == {0}
    again = evolve(config, tmp_path / "run", RunOptions(quiet=True))
    assert again.best == first.best
    assert read_log(tmp_path / "run" / "evaluations.jsonl") == lines


@pytest.mark.slow
def test_ctrl_c_writes_down_and_says_how_to_go_on(family, tmp_path):
    import yaml

    path = tmp_path / "evolve.yml"
    path.write_text(yaml.safe_dump(evolving.content(family)))
    folder = tmp_path / "run"
    arguments = [sys.executable, "-m", "mergekit_darwin.cli.evolve", str(path)]
    arguments += ["--storage-path", str(folder), "--num-threads", "1"]
    process = subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    log = folder / "evaluations.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if log.exists() and log.read_bytes().count(b"\n") >= 5:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "Go on with" in said and str(folder) in said
    assert log.read_bytes().endswith(b"\n")


@pytest.mark.slow
def test_ray_gives_what_serial_gives(family, finished, tmp_path):
    pytest.importorskip("ray")
    folder = tmp_path / "run"
    process = start(family, folder, strategy="ray", num_workers=2)
    process.join()
    assert outcome(folder) == outcome(finished)
