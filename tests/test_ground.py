"""The ground: foreign errors in a line, files whole or not at all, Ctrl-C in a word."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner
from pydantic import BaseModel

from mergekit_darwin import talk
from mergekit_darwin.errors import DarwinError, about, plain, reason
from mergekit_darwin.files import read_bytes, read_text, whole, write_whole
from mergekit_darwin.talk import verbosity


class Two(BaseModel):
    """A schema with one key."""

    two: int


def raised(action) -> Exception:
    try:
        action()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


FOREIGN = {
    "No such file or directory: /nowhere/x": lambda: open("/nowhere/x"),
    "no JSON: Expecting value in line 1, column 2": lambda: json.loads("[oops"),
    "no YAML:": lambda: yaml.safe_load("a: [1"),
    "no UTF-8 text:": lambda: b"\xff\xfe".decode(),
    "nested too deeply": lambda: json.loads("[" * 10**6),
    "the key 'genes' is missing": lambda: {}["genes"],
    "two: Input should be a valid integer": lambda: Two(two="many"),
    "could not convert string to float": lambda: float("much"),
    "ZeroDivisionError: division by zero": lambda: 1 / 0,
}


@pytest.mark.parametrize("words", FOREIGN)
def test_a_foreign_error_becomes_a_phrase_of_one_line(words: str) -> None:
    said = reason(raised(FOREIGN[words]))
    assert said.startswith(words)
    assert said == plain(said)


def test_controls_and_odd_bytes_are_shown_as_question_marks() -> None:
    odd = os.fsdecode(b"f\xffther\n\x1b[31m")
    assert plain(odd) == "f?ther ?[31m"
    assert DarwinError(f"no {odd}").message.encode() == b"no f?ther ?[31m"


def test_about_names_the_place_and_lets_our_own_errors_pass() -> None:
    with pytest.raises(DarwinError, match=r"^--mds is read \(nested too deeply\)\. Do"):
        with about("--mds is read", "Do."):
            raise RecursionError
    own = DarwinError("said already.")
    with pytest.raises(DarwinError) as found, about("--mds is read"):
        raise own
    assert found.value is own


def command_that(error: BaseException) -> click.Command:
    @click.command()
    @verbosity
    def run(verbose: int, quiet: bool) -> None:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "x"), "room to write"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), "denied: x"),
        (MemoryError(), "out of memory"),
        (AttributeError("no such thing"), "AttributeError: no such thing"),
    ],
)
def test_a_command_ends_any_error_as_one_line_and_1(
    error: Exception, words: str
) -> None:
    done = CliRunner().invoke(command_that(error))
    assert isinstance(done.exception, SystemExit)
    assert done.exit_code == 1
    assert words in done.stderr
    assert done.stderr.startswith("Error: ") and done.stderr.count("\n") == 1


def test_a_package_that_comes_with_an_extra_is_named_with_it() -> None:
    error = ModuleNotFoundError("No module named 'lm_eval'", name="lm_eval.tasks")
    words = "This needs lm_eval; install it: pip install 'mergekit-darwin[evolve]'."
    assert talk._last_word(error) == words
    assert "extra" not in talk._last_word(ModuleNotFoundError("no x", name="x"))


def test_verbose_shows_the_traceback_above_the_line() -> None:
    done = CliRunner().invoke(command_that(AttributeError("oops")), ["-v"])
    assert "Traceback (most recent call last)" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("Error: ")


def test_ctrl_c_ends_with_a_word_and_130() -> None:
    done = CliRunner().invoke(command_that(KeyboardInterrupt()))
    assert done.exit_code == 130
    assert done.stderr.startswith("Stopped")


def test_a_failed_write_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    write_whole(path, "old")
    with pytest.raises(KeyError), whole(path) as aside:
        aside.write_text("new")
        raise KeyError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["table.csv"]


def link(path: Path) -> None:
    (path.parent / "kept").write_text("kept")
    path.symlink_to("kept")


def model_file(path: Path) -> None:
    (path.parent / "config.json").write_text("{}")
    path.write_text("{}")


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("a fifo", os.mkfifo),
        ("a folder", os.mkdir),
        ("a link", link),
        ("weights.safetensors", lambda path: path.write_text("w")),
        ("tokenizer.json", model_file),
    ],
)
def test_what_is_not_ours_is_not_replaced(tmp_path: Path, name: str, make) -> None:
    path = tmp_path / name
    make(path)
    before = {file: os.lstat(tmp_path / file) for file in os.listdir(tmp_path)}
    with pytest.raises(DarwinError, match="regular file"):
        write_whole(path, "text")
    now = {file: os.lstat(tmp_path / file) for file in os.listdir(tmp_path)}
    assert now.keys() == before.keys()
    assert all(now[f].st_mtime_ns == before[f].st_mtime_ns for f in before)


def test_a_device_is_not_written_to() -> None:
    with pytest.raises(DarwinError, match="no regular file"):
        write_whole(Path("/dev/full"), "text")


def test_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(DarwinError, match="no regular file"):
        read_bytes(tmp_path / "fifo", "It must be read")


def test_text_is_read_without_the_mark_of_utf_8(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes("\ufeffname".encode())
    assert read_text(tmp_path / "text", "It must be read") == "name"
    (tmp_path / "text").write_bytes(b"\xff")
    with pytest.raises(DarwinError, match=r"It must be read \(no UTF-8"):
        read_text(tmp_path / "text", "It must be read")


def test_commands_let_idle_threads_sleep_unless_the_user_chose() -> None:
    code = (
        "import os\n"
        "from mergekit_darwin.talk import setup_logging\n"
        "setup_logging(1, False)\n"
        "import torch\n"
        "print(os.environ.get('OMP_WAIT_POLICY'), os.environ.get('GOMP_SPINCOUNT'))\n"
    )
    bare = {k: v for k, v in os.environ.items() if k not in talk._WAITING}
    for given, told, said in (
        ({}, "passive None", "OMP_WAIT_POLICY=passive"),
        ({"OMP_WAIT_POLICY": "active"}, "active None", "OMP_WAIT_POLICY=active"),
        ({"GOMP_SPINCOUNT": "9"}, "None 9", "GOMP_SPINCOUNT=9"),
    ):
        run = subprocess.run(
            [sys.executable, "-c", code],
            env={**bare, **given},
            capture_output=True,
            text=True,
            check=True,
        )
        assert run.stdout.strip() == told
        assert said in run.stderr
