"""Recipes: the YAML says exactly what a genome means, and plain mergekit agrees."""

from __future__ import annotations

import pytest
import yaml

from mergekit_darwin.merge.recipe import Recipe, genome_yaml, recipe_hash, uniform_yamls
from mergekit_darwin.ratios.genome import make_genome

RECIPE = Recipe(
    "/m/father",
    "/m/mother",
    "/m/base",
    mds="/r/mds",
    mds_identity="0123456789abcdef",
    mri="attribution",
    mask_seed="7",
    head={"dtype": "bfloat16", "tokenizer": {"source": "base"}},
)


def test_yaml_holds_every_gene_as_a_scalar_and_every_option():
    genome = make_genome({"lambda": 1.25, "attn_ratio": 0.3169})
    found = yaml.safe_load(genome_yaml(RECIPE, genome))
    assert found["merge_method"] == "darwin_v6"
    assert found["base_model"] == "/m/base"
    assert [row["model"] for row in found["models"]] == ["/m/father", "/m/mother"]
    for name, value in genome.values.items():
        assert found["parameters"][name] == value
    assert found["parameters"]["mds"] == "/r/mds"
    assert found["parameters"]["mri"] == "attribution"
    assert found["parameters"]["mask_seed"] == 7
    assert found["dtype"] == "bfloat16"
    assert found["tokenizer"] == {"source": "base"}


def test_blocks_are_named_where_they_are_not_six():
    genome = make_genome({}, 3)
    assert yaml.safe_load(genome_yaml(RECIPE, genome))["parameters"]["blocks"] == 3
    assert (
        "blocks"
        not in yaml.safe_load(genome_yaml(RECIPE, make_genome({})))["parameters"]
    )


def test_hash_changes_with_a_gene_an_option_and_the_report():
    genome = make_genome({})
    plain = recipe_hash(RECIPE, genome)
    assert len(plain) == 16
    assert recipe_hash(RECIPE, genome.replaced({"lambda": 1.1})) != plain
    from dataclasses import replace

    assert recipe_hash(replace(RECIPE, mask_seed="8"), genome) != plain
    assert recipe_hash(replace(RECIPE, mds_identity="f" * 16), genome) != plain


@pytest.mark.parametrize("blocks", [6, 3])
def test_hash_is_the_one_that_the_merge_itself_computes(blocks):
    from dataclasses import replace

    from pydantic import TypeAdapter

    from mergekit_darwin.merge.options import OPTIONS, PARAMETERS, value_type
    from mergekit_darwin.merge.settings import settle

    recipe = replace(RECIPE, mds=None, mds_identity=None, mri="published")
    genome = make_genome({"ffn_ratio": 0.9}, blocks)
    given = yaml.safe_load(genome_yaml(recipe, genome))["parameters"]

    full = {option.name: option.default for option in OPTIONS} | given
    checked = {
        name: TypeAdapter(value_type(name)).validate_python(full[name])
        for name in PARAMETERS
        if name in full and full[name] is not None
    }
    assert settle(checked).genome_hash == recipe_hash(recipe, genome)


def test_uniform_merges_are_what_a_child_must_beat():
    found = {name: yaml.safe_load(text) for name, text in uniform_yamls(RECIPE).items()}
    assert list(found) == [
        "linear 0.5",
        "slerp 0.5",
        "dare_ties 0.5",
        "task arithmetic 1+1",
    ]
    weights = [m["parameters"]["weight"] for m in found["linear 0.5"]["models"]]
    assert weights == [0.5, 0.5]
    assert "base_model" not in found["linear 0.5"]
    assert found["slerp 0.5"]["parameters"] == {"t": 0.5}
    assert found["dare_ties 0.5"]["base_model"] == "/m/base"


def test_without_a_third_base_there_is_nothing_to_subtract():
    recipe = Recipe("/m/father", "/m/mother", "/m/father")
    assert list(uniform_yamls(recipe)) == ["linear 0.5", "slerp 0.5"]
