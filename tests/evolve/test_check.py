"""What a config can get wrong is refused before the scan, in one line that names it."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple

import pytest

pytest.importorskip("lm_eval")

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.evolve import check as checks
from mergekit_darwin.evolve.options import RunOptions
from mergekit_darwin.evolve.reading import make_config
from mergekit_darwin.evolve.run import check, evolve
from mergekit_darwin.evolve.workers import Worker
from tests import evolving


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return evolving.write_family(tmp_path_factory.mktemp("family") / "f")


def copied(family, tmp_path, who):
    """Return a copy of one of the family that a test may damage."""
    return shutil.copytree(family / who, tmp_path / who)


def refused(family, tmp_path, options=None, **changes):
    """Return the one line that a run is refused with, before it scanned anything."""
    folder = tmp_path / "run"
    config = make_config(evolving.content(family, **changes))
    with pytest.raises(DarwinError) as caught:
        evolve(config, folder, options or RunOptions(quiet=True))
    assert "\n" not in caught.value.message
    assert not (folder / "mds").exists() and not (folder / "config.yml").exists()
    return caught.value.message


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dtype": "bfloat61"}, "dtype must be a torch type"),
        ({"model_type": "hff"}, "model_type must be"),
        ({"father": "/nowhere/father"}, "/nowhere/father"),
        ({"tasks": ["toy_sums", "toy_lettres"]}, "Did you mean 'toy_letters'"),
    ],
)
def test_a_wrong_word_is_named(family, tmp_path, changes, said):
    assert said in refused(family, tmp_path, **changes)


def test_a_device_that_is_not_there_is_named(family, tmp_path):
    said = refused(family, tmp_path, RunOptions(device="cuda:77", quiet=True))
    assert "--device" in said and "cuda:77" in said


def test_a_missing_tokenizer_is_named(family, tmp_path):
    mother = copied(family, tmp_path, "mother")
    for file in mother.glob("tokenizer*"):
        file.unlink()
    assert "tokenizer" in refused(family, tmp_path, mother=str(mother))


def test_a_tokenizer_larger_than_the_embedding_is_named(family, tmp_path):
    mother = copied(family, tmp_path, "mother")
    file = mother / "tokenizer.json"
    content = json.loads(file.read_text())
    content["added_tokens"].append(
        {
            "id": 99999,
            "content": "<far>",
            **dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False),
            "special": True,
        }
    )
    file.write_text(json.dumps(content))
    assert "embedding" in refused(family, tmp_path, mother=str(mother))


def test_parents_of_other_shapes_are_named(family, tmp_path):
    import torch

    from tests import tiny

    tiny.tiny_llama(tmp_path / "wide", 1, dtype=torch.bfloat16, hidden=96)
    said = refused(family, tmp_path, mother=str(tmp_path / "wide"))
    assert "must fit" in said


def test_a_full_disk_is_found_before_anything_begins(family, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda path: usage(9, 8, 1000))
    assert "There must be room" in refused(family, tmp_path)


def test_a_task_that_cannot_be_scored_is_found_on_its_first_item(family, tmp_path):
    tasks = shutil.copytree(family / "tasks", tmp_path / "tasks")
    file = tasks / "toy_sums.yaml"
    file.write_text(
        file.read_text().replace("doc_to_choice: choices", "doc_to_choice: chices")
    )
    said = refused(family, tmp_path, include_path=str(tasks))
    assert "toy_sums" in said or "Every task must score" in said


def test_a_repaired_config_may_go_on_in_the_same_folder(family, tmp_path):
    assert "bfloat61" in refused(family, tmp_path, dtype="bfloat61")
    said = refused(family, tmp_path, model_type="hff")
    assert "hff" in said  # not: "written with another dtype"


def test_check_says_what_fits_and_how_long_it_takes(family, tmp_path):
    options = RunOptions(scratch=str(tmp_path / "scratch"))
    said = list(check(make_config(evolving.content(family)), options))
    assert "Models fit: father, mother, base" in said[0]
    assert "24 items to search on, 24 held out" in said[1]
    assert "on the first 20 items" in said[2]
    assert "at most 8 of them" in said[3]


def test_memory_decides_where_candidates_are_merged(family, tmp_path, monkeypatch):
    import psutil

    config = make_config(evolving.content(family))
    memory = namedtuple("memory", "available")
    for available, inside in ((1000, False), (10**12, True)):
        monkeypatch.setattr(psutil, "virtual_memory", lambda a=available: memory(a))
        worker = Worker(config, RunOptions(), str(tmp_path), tasks={})
        assert worker._inside is inside
