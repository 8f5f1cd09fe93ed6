"""Stopped at any point, a command run again ends with the bytes of one never stopped.

The process forks for every run, so that a kill costs no new imports. A kill comes at a
random time of a run; the moments are drawn from a fixed seed, what they hit is not.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from tqdm import tqdm

from tests.trust import stage
from tests.trust.matrix import COMMANDS
from tests.trust.play import invoke

pytestmark = [pytest.mark.full, pytest.mark.filterwarnings("ignore")]
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
FINISHED = (0, 3)  # 3: the child of random models may be unhealthy

KILLS = {"scan": 20, "merge": 20, "evolve": 14, "refit": 12, "delphi": 8}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = stage.build(tmp_path_factory.mktemp("kills") / "family")
    stage.write_yaml(folder)
    stage.write_evolve(folder)
    for name in KILLS:  # what is imported late is imported here
        invoke([COMMANDS[name].split()[0], "--help"])
    return folder


class Forked:
    """A command that runs in a fork of this process."""

    def __init__(self, words: list[str]):
        self.pid = os.fork()
        if self.pid == 0:
            code = 99
            try:
                signal.signal(signal.SIGINT, signal.default_int_handler)
                tqdm.set_lock(threading.RLock())  # forks share its own: a kill keeps it
                code = invoke(words).exit_code
            finally:
                os._exit(code)

    def wait(self) -> int:
        """Return the exit code, negative the signal that ended it."""
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status)

    def stop(self, after: float, how: signal.Signals) -> int:
        """Send a signal after some seconds, unless it has ended; return its code."""
        until = time.monotonic() + after
        while time.monotonic() < until:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.005)
        os.kill(self.pid, how)
        return self.wait()


def forked(words: list[str]) -> Forked:
    return Forked(words)


def outcome(folder: Path) -> dict[str, str]:
    """Return the content of what a command leaves, times and logs left out."""
    found = stage.state(folder)
    log = folder / "evaluations.jsonl"
    if log.exists():
        rows = [json.loads(line) for line in log.read_text().splitlines()]
        assert [row["index"] for row in rows] == list(range(len(rows)))
        for row in rows:
            row["merge_s"] = row["eval_s"] = None
        found[log.name] = json.dumps(rows)
    report = folder / "refit.json"
    if report.exists():
        found[report.name] = re.sub(r'"seconds": [\d.e-]+', "", report.read_text())
    spoken = ("log.txt", "report.md", "report.html", "lock", "README.md")
    kept = {n: c for n, c in found.items() if not n.endswith((*spoken, ".png"))}
    assert not [name for name in kept if ".part" in name or "scratch/" in name]
    assert not [path for path in folder.parent.iterdir() if ".part" in path.name]
    return kept


def logged(folder: Path) -> bytes:
    """Return the finished lines of a run's log, their times too; b"" without one."""
    logs = [folder / name for name in ("evaluations.jsonl", "samples.jsonl")]
    content = b"".join(log.read_bytes() for log in logs if log.exists())
    return content[: content.rfind(b"\n") + 1]


def place(built: Path, name: str) -> tuple[list[str], Path, str]:
    """Return a command's words and its output folder, which is not there yet."""
    words = COMMANDS[name].format(S=built).split()
    out = built / "out"
    if out.exists():
        subprocess.run(["rm", "-rf", str(out)], check=True)
    return words, out, name


@pytest.mark.parametrize("name", KILLS)
def test_killed_anywhere_and_run_again_gives_the_same_bytes(
    built: Path, name: str
) -> None:
    words, out, _ = place(built, name)
    began = time.monotonic()
    assert forked(words).wait() in FINISHED
    length = time.monotonic() - began
    whole = outcome(out)
    draw, hit, before = random.Random(name), 0, b""
    place(built, name)
    for _ in range(KILLS[name]):
        how = draw.choice(SIGNALS)
        code = forked(words).stop(draw.uniform(0.02, 0.9) * length, how)
        hit += code < 0 or code == 130
        now = logged(out)
        assert now.startswith(before)  # nothing lost, nothing done twice
        before = now
        if code in FINISHED:  # it was done before the signal: begin anew
            assert outcome(out) == whole
            place(built, name)
            before = b""
    assert forked(words).wait() in FINISHED
    assert logged(out).startswith(before)
    assert outcome(out) == whole
    assert hit >= KILLS[name] // 4
    print(f"{name}: {length:.1f} s, {hit} of {KILLS[name]} kills hit it")


@pytest.fixture
def small_disk(tmp_path: Path):
    """A disk of 96 KiB, where this process may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_one_line_and_with_room_the_scan_goes_on(
    built: Path, small_disk: Path
) -> None:
    scan = COMMANDS["scan"].format(S=built).split()
    expected = place(built, "scan")[1]
    assert forked(scan).wait() == 0
    out = small_disk / "out"
    scan[scan.index("--out") + 1] = str(out)
    filler = small_disk / "filler"
    with open(filler, "wb", buffering=0) as stream:
        try:
            while stream.write(bytes(4096)):
                pass
        except OSError:
            pass
    done = invoke(scan)
    assert done.exit_code == 1
    assert "room" in done.stderr or "space" in done.stderr, done.stderr
    assert done.stderr.count("\n") == 1
    assert not (out / "mds.json").exists()
    filler.unlink()
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    assert invoke(scan).exit_code == 0
    assert (out / "mds.json").read_bytes() == (expected / "mds.json").read_bytes()
    assert sorted(os.listdir(out)) == sorted(os.listdir(expected))


def test_a_table_on_a_full_disk_leaves_the_old_one(
    built: Path, small_disk: Path
) -> None:
    table = small_disk / "ratios.json"
    table.write_text("old")
    (small_disk / "filler").write_bytes(bytes(80 * 1024))
    words = ["mergekit-darwin-ratios", str(built / "darwin.yml"), "--json", "--quiet"]
    rows = invoke(words).stdout
    (small_disk / "more").write_bytes(bytes(max(0, 12 * 1024 - len(rows) // 2)))
    done = invoke([*words, "--out", str(table)])
    assert done.exit_code == 1, "the disk was not full"
    assert "room" in done.stderr and done.stderr.count("\n") == 1
    assert table.read_text() == "old"
    assert sorted(os.listdir(small_disk)) == ["filler", "more", "ratios.json"]


if __name__ == "__main__":
    sys.exit(pytest.main([__file__, "-m", "full"]))
