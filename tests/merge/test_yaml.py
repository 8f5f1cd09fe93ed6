"""The YAML says exactly what a genome means, and plain mergekit agrees."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import yaml

from mergekit_darwin.merge.loaded import LoadedReport
from mergekit_darwin.merge.parameters import check_value, settle
from mergekit_darwin.merge.roles import Roles
from mergekit_darwin.merge.settings import MergeSettings
from mergekit_darwin.merge.yaml import Common, genome_yaml, uniform_yamls
from mergekit_darwin.ratios.genome import Genome, make_genome
from mergekit_darwin.scan.report import ModelReport, Report

SIDE = ModelReport(model="m", digest="d")
REPORT = LoadedReport(
    "/r/mds", Report(father=SIDE, mother=SIDE), "0123456789abcdef", {}
)
FAMILY = Common(
    Roles("/m/base", "/m/father", "/m/mother"),
    MergeSettings(mds=REPORT, mri="attribution", mask_seed=7),
    head={"dtype": "bfloat16", "tokenizer": {"source": "base"}},
)


def hash_of(genome: Genome, **changes: Any) -> str:
    """Return the genome_hash of the family's merge with some options changed."""
    settings = FAMILY.settings.model_copy(update=changes)
    return replace(FAMILY, settings=settings).settings_of(genome).hash


def test_yaml_holds_every_gene_as_a_scalar_and_every_option():
    genome = make_genome({"lambda": 1.25, "attn_ratio": 0.3169})
    found = yaml.safe_load(genome_yaml(FAMILY, genome))
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
    assert yaml.safe_load(genome_yaml(FAMILY, genome))["parameters"]["blocks"] == 3
    assert (
        "blocks"
        not in yaml.safe_load(genome_yaml(FAMILY, make_genome({})))["parameters"]
    )


def test_hash_changes_with_a_gene_an_option_and_the_report():
    genome = make_genome({})
    plain = hash_of(genome)
    assert len(plain) == 16
    assert hash_of(genome.replaced({"lambda": 1.1})) != plain
    assert hash_of(genome, mask_seed=8) != plain
    assert hash_of(genome, rescale=False) != plain
    assert hash_of(genome, mds=replace(REPORT, identity="f" * 16)) != plain


@pytest.mark.parametrize("blocks", [6, 3])
def test_hash_is_the_one_that_the_merge_itself_computes(blocks):
    common = Common(FAMILY.roles, MergeSettings(mask_seed=7, normalize=True))
    genome = make_genome({"ffn_ratio": 0.9}, blocks)
    given = yaml.safe_load(genome_yaml(common, genome))["parameters"]
    checked = {name: check_value(name, value) for name, value in given.items()}
    assert settle(checked).hash == common.settings_of(genome).hash


def test_uniform_merges_are_what_a_child_must_beat():
    found = {name: yaml.safe_load(text) for name, text in uniform_yamls(FAMILY).items()}
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
    common = Common(Roles("/m/father", "/m/father", "/m/mother"))
    assert list(uniform_yamls(common)) == ["linear 0.5", "slerp 0.5"]
