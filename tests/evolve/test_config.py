"""EVOLVE.yml: every fault is named, paths are found, benchmarks need the flag."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.evolve.reading import (
    check_benchmarks,
    config_yaml,
    make_config,
    read_config,
)

LEAST = {"father": "org/father", "mother": "org/mother", "tasks": ["one"]}


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"sead": 1}, "there is no key 'sead'"),
        ({"blocs": 6}, "Did you mean 'blocks'"),
        ({"search": {"sigma": 1}}, "Did you mean 'sigma0'"),
        ({"search": {"seed": 0}}, "0 would mean the clock"),
        ({"search": {"proxy_steps": 20}}, "search.proxy_steps"),
        ({"tasks": [{"name": "x", "wieght": 1}]}, "Did you mean 'weight'"),
        ({"tasks": []}, "tasks"),
        ({"heldout": ["one"]}, "both searched on and held out"),
        ({"heldout": 1.5}, "heldout"),
        ({"genes": "all"}, "'published' or 'extended'"),
        ({"mother": "org/father"}, "two different models"),
        ({"transplant_low": 0.9}, "must not exceed"),
        ({"heldout": []}, "heldout"),
        ({"model_args": {"batch_size": 8}}, "use --batch-size"),
        ({"model_args": {"pretrained": "x"}}, "use father and mother"),
        ({"model_args": {"dtype": "float16"}}, "use --eval-dtype"),
        ({"operator": "slurp"}, "operator"),
    ],
)
def test_a_bad_config_names_the_key_and_what_is_near(keys, said):
    with pytest.raises(DarwinError) as caught:
        make_config({**LEAST, **keys})
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_key_is_named():
    with pytest.raises(DarwinError, match="'mother' is required"):
        make_config({"father": "a", "tasks": ["x"]})


def test_genes_are_extended_where_there_is_a_third_base():
    assert make_config(LEAST).gene_kind == "published"
    assert make_config({**LEAST, "base_model": "org/base"}).gene_kind == "extended"
    fathers = make_config({**LEAST, "base_model": "org/father"})
    assert fathers.gene_kind == "published" and fathers.third_base is None
    forced = make_config({**LEAST, "genes": "extended"})
    assert forced.gene_kind == "extended"


def test_paths_are_relative_to_the_yaml_and_hub_names_stay(tmp_path):
    (tmp_path / "models" / "father").mkdir(parents=True)
    (tmp_path / "tasks").mkdir()
    keys = {"father": "models/father", "mother": "org/mother"}
    keys |= {"tasks": ["one"], "include_path": "tasks"}
    path = tmp_path / "evolve.yml"
    path.write_text(yaml.safe_dump(keys))
    config = read_config(path)
    assert config.father == str(tmp_path / "models" / "father")
    assert config.mother == "org/mother"
    assert config.include_path == [str(tmp_path / "tasks")]


def test_a_frozen_config_reads_back_as_itself():
    config = make_config({**LEAST, "heldout": [{"name": "two", "weight": 2}]})
    assert make_config(yaml.safe_load(config_yaml(config))) == config


def test_the_example_is_a_config():
    example = Path(__file__).parents[2] / "examples" / "evolve.yml"
    config = read_config(example)
    assert len(config.tasks) == 5 and isinstance(config.heldout, list)


def test_public_benchmarks_need_the_flag():
    config = make_config({**LEAST, "tasks": ["gsm8k", "own_task"]})
    with pytest.raises(DarwinError, match="--allow-benchmark-tasks"):
        check_benchmarks(config, allowed=False)
    assert check_benchmarks(config, allowed=True) == ["gsm8k"]
    assert check_benchmarks(make_config(LEAST), allowed=False) == []
