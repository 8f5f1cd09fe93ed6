"""Ray: as serial, on two nodes too, and when one of them is killed on the way."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("lm_eval")
pytest.importorskip("ray")

import ray

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.evolve.config import RunOptions
from mergekit_darwin.evolve.log import read_log
from mergekit_darwin.evolve.reading import make_config
from mergekit_darwin.evolve.run import evolve
from tests import evolving


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def start(*words):
    """Start one `ray start` process that stays in the foreground; return it."""
    command = [str(Path(sys.executable).parent / "ray"), "start", "--block", *words]
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


def wait_for(address, nodes):
    """Return once so many nodes are up."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        try:
            ray.init(address=address, log_to_driver=False)
            alive = sum(node["Alive"] for node in ray.nodes())
            ray.shutdown()
            if alive >= nodes:
                return
        except ConnectionError:
            pass
        time.sleep(1)
    raise TimeoutError("the nodes did not come up")


@pytest.fixture
def cluster():
    """Two nodes of one CPU each: (address, the process of the second)."""
    port = free_port()
    head = start("--head", "--port", str(port), "--include-dashboard", "false")
    address, second = f"127.0.0.1:{port}", None
    try:
        wait_for(address, 1)
        second = start("--address", address)
        wait_for(address, 2)
        yield address, second
    finally:
        ray.shutdown()
        for process in filter(None, (second, head)):
            stop(process)


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


def test_a_cluster_that_is_not_there_is_named(tmp_path):
    family = evolving.write_family(tmp_path / "f")
    options = RunOptions(
        strategy="ray", ray_address=f"127.0.0.1:{free_port()}", quiet=True
    )
    with pytest.raises(DarwinError, match="--ray-address"):
        evolve(make_config(evolving.content(family)), tmp_path / "run", options)
