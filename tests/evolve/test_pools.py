"""Ray: as serial, on two nodes too, and when one of them is killed on the way."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
import yaml

pytest.importorskip("lm_eval")
pytest.importorskip("ray")

import ray

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.evolve.log import read_log
from mergekit_darwin.evolve.options import RunOptions
from mergekit_darwin.evolve.reading import make_config
from mergekit_darwin.evolve.run import evolve
from tests import evolving

# Given, since a node asks its agents for them only for some seconds, and then dies.
PORTS = ("dashboard-agent-grpc", "dashboard-agent-listen", "runtime-env-agent")


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def start(*words):
    """Start one `ray start` process that stays in the foreground; return it."""
    command = [str(Path(sys.executable).parent / "ray"), "start", "--block", *words]
    for port in (*PORTS, "metrics-export"):
        command += [f"--{port}-port", str(free_port())]
    return subprocess.Popen(
        [*command, "--num-cpus", "1", "--disable-usage-stats"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def stop(process):
    """Kill a node with all that it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(address, count, process):
    """Return whether so many nodes came up; the last of them is of this process."""
    while process.poll() is None:
        try:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
            alive = sum(node["Alive"] for node in ray.nodes())
            ray.shutdown()
            if alive >= count:
                return True
        except (ConnectionError, ray.exceptions.RpcError):
            pass
        time.sleep(2)
    return False


def start_node(nodes, address, *words):
    """Start a node and add its process; again where a busy machine was too slow."""
    for _ in range(4):
        process = start(*words)
        if wait_for(address, len(nodes) + 1, process):
            nodes.append(process)
            return
        stop(process)
    raise TimeoutError("the nodes did not come up")


@pytest.fixture
def cluster():
    """Two nodes of one CPU each: (address, the process of the second)."""
    port, nodes = free_port(), []
    address = f"127.0.0.1:{port}"
    # where no other run on this machine takes it for its own
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    try:
        head = ("--head", "--port", str(port), "--include-dashboard", "false")
        start_node(nodes, address, *head, "--temp-dir", folder)
        start_node(nodes, address, "--address", address)
        yield address, nodes[1]
    finally:
        ray.shutdown()
        for process in reversed(nodes):
            stop(process)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.full
def test_a_node_that_is_killed_costs_no_candidate_and_changes_no_line(
    tmp_path, cluster
):
    address, second = cluster
    family = evolving.write_family(tmp_path / "f")
    config = make_config(evolving.content(family))
    log = tmp_path / "ray" / "evaluations.jsonl"

    def kill_in_time():
        while not (log.exists() and log.read_bytes().count(b"\n") >= 5):
            time.sleep(0.1)
        stop(second)

    killer = threading.Thread(target=kill_in_time, daemon=True)
    killer.start()
    shared = {"quiet": True, "num_threads": 1}
    options = RunOptions(strategy="ray", ray_address=address, num_workers=2, **shared)
    evolve(config, tmp_path / "ray", options)
    killer.join(1)
    assert second.poll() is not None, "the node was to be killed on the way"
    evolve(config, tmp_path / "serial", RunOptions(**shared))
    left, right = (
        read_log(tmp_path / name / "evaluations.jsonl") for name in ("ray", "serial")
    )
    assert [left[i].timeless() for i in sorted(left)] == [
        right[i].timeless() for i in sorted(right)
    ]


@pytest.mark.full
def test_a_driver_with_another_token_is_told_what_must_agree(tmp_path, cluster):
    """A process of its own, since Ray reads its token once."""
    address, _ = cluster
    family = evolving.write_family(tmp_path / "f")
    (tmp_path / "evolve.yml").write_text(yaml.safe_dump(evolving.content(family)))
    code = "from mergekit_darwin.cli.evolve import main; main()"
    words = ["evolve.yml", "--storage-path", "run", "--quiet", "--strategy", "ray"]
    run = subprocess.run(
        [sys.executable, "-c", code, *words, "--ray-address", address],
        env={**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert run.returncode == 1, run.stderr
    *chatter, line = run.stderr.strip().splitlines()  # Ray writes past Python
    assert "RAY_AUTH_TOKEN" in line and address in line and line.startswith("Error: ")
    assert not any("Traceback" in said for said in chatter)


def test_a_cluster_that_is_not_there_is_named(tmp_path):
    family = evolving.write_family(tmp_path / "f")
    options = RunOptions(
        strategy="ray", ray_address=f"127.0.0.1:{free_port()}", quiet=True
    )
    with pytest.raises(DarwinError, match="--ray-address"):
        evolve(make_config(evolving.content(family)), tmp_path / "run", options)
