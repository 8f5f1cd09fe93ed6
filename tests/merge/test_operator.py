"""`operator`: the same ratios, routes and record, blended another way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from mergekit_darwin.merge.export import plain_yaml
from mergekit_darwin.merge.parameters import settle
from mergekit_darwin.merge.preview import plan_run, ratio_rows
from mergekit_darwin.merge.roles import Roles
from mergekit_darwin.merge.settings import MergeSettings
from mergekit_darwin.merge.yaml import Common, genome_yaml, read_config
from mergekit_darwin.ratios.genome import make_genome
from tests.merging import darwin, differing, merge, record, tensors

SPREAD = {"attn_ratio": 0.05, "ffn_ratio": 0.6, "mri_trust": 0.1, "block_1_ratio": 0.1}


@pytest.mark.parametrize("base", ["base", "father"])
@pytest.mark.parametrize("operator", ["slerp", "linear"])
def test_an_operator_gives_what_its_exported_yaml_gives_plain_mergekit(
    trio: dict[str, str], operator: Any, base: str, tmp_path: Path
) -> None:
    config = darwin(trio, base, **SPREAD, operator=operator)
    child = merge(config, tmp_path / "child", write_model_card=False)
    path = tmp_path / "darwin.yml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    planned = plan_run(read_config(path))
    rows = ratio_rows(planned)
    text = plain_yaml(read_config(path), planned, rows, operator)
    plain = merge(yaml.safe_load(text), tmp_path / "plain", write_model_card=False)
    assert differing(child, plain) == set()
    assert {row.route for row in rows} == {"father", "blend"}
    blended = [row.name for row in rows if row.route == "blend"]
    father = tensors(trio["father"])
    assert not any(torch.equal(child[name], father[name]) for name in blended)
    written = record(tmp_path / "child")
    assert {row.name: str(row.ratio) for row in rows} == {
        name: row["ratio"] for name, row in written.items()
    }


@pytest.mark.parametrize(
    "given",
    [{"density_b": 0.9}, {"lambda": 1.0}, {"normalize": True}, {"rescale": False}],
)
def test_what_acts_on_task_vectors_is_refused_beside_slerp(
    given: dict[str, Any],
) -> None:
    with pytest.raises(Exception, match=f"{next(iter(given))} act on task vectors"):
        settle({**given, "operator": "slerp"})
    assert settle(given).operator == "dare_ties"


def test_hashes_of_the_first_release_stand() -> None:
    assert MergeSettings().hash == "bcc7b8c017e1573c"
    assert settle({"operator": "slerp"}).hash != MergeSettings().hash


def test_a_genome_with_densities_makes_a_yaml_that_slerp_takes() -> None:
    common = Common(Roles("b", "f", "m"), MergeSettings(operator="slerp"))
    genome = make_genome({"density_a": 0.4, "lambda": 1.7, "ffn_ratio": 0.3})
    given = yaml.safe_load(genome_yaml(common, genome))["parameters"]
    assert given["operator"] == "slerp" and "density_a" not in given
    assert settle(given).hash == common.settings_of(genome).hash
    other = genome.replaced({"density_a": 0.9})
    assert common.settings_of(other).hash == common.settings_of(genome).hash
