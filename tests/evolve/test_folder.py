"""The run folder: locked, and never one that holds what a run did not write."""

from __future__ import annotations

import pytest

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.evolve.folder import claim, scratch_of
from mergekit_darwin.locks import locked


def test_the_lock_is_let_go(tmp_path):
    with locked(tmp_path, "--out"), pytest.raises(DarwinError, match="in use"):
        with locked(tmp_path, "--out"):
            pass
    with locked(tmp_path, "--out"):
        pass


def test_a_folder_with_foreign_files_is_refused_and_left_as_it_is(tmp_path):
    (tmp_path / "final_model").mkdir()
    (tmp_path / "best.yml").write_text("mine")
    with pytest.raises(DarwinError, match=r"holds 'best\.yml', 'final_model'"):
        claim(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"best.yml", "final_model"}


def test_an_empty_or_new_folder_is_claimed_and_known_again(tmp_path):
    for folder in (tmp_path / "new" / "deep", tmp_path / "empty"):
        if folder.name == "empty":
            folder.mkdir()
        claim(folder)
        (folder / "report.md").write_text("ours")
        kept = {path.name for path in folder.iterdir()}
        claim(folder)
        assert {path.name for path in folder.iterdir()} == kept > {"report.md"}


def test_a_shared_scratch_is_cleared_of_this_run_alone(tmp_path):
    given = tmp_path / "ram"
    ours = scratch_of(tmp_path / "run", str(given))
    other = scratch_of(tmp_path / "other", str(given))
    for scratch in (ours, other):
        (given / scratch / "candidate-1").mkdir(parents=True)
    (given / "mine").mkdir()
    assert scratch_of(tmp_path / "run", str(given)) == ours
    left = {str(path.relative_to(given)) for path in given.rglob("*")}
    names = {ours, other}
    assert left == {"mine", *(name.rsplit("/", 1)[1] for name in names)} | {
        other.rsplit("/", 1)[1] + "/candidate-1"
    }
