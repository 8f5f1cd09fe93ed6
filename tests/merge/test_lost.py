"""No weight is lost in silence: mergekit's plan against what transformers expects."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml
from click.testing import CliRunner
from mergekit.config import MergeConfiguration
from safetensors.torch import load_file, save_file

from mergekit_darwin.cli.ratios import main
from mergekit_darwin.errors import DarwinError
from mergekit_darwin.merge.headers import fit_of
from tests.matrix.models import ROWS, write
from tests.merging import darwin, merge, record
from tests.tiny import nudged

LOSING = ("deepseek_v2_dense_first", "jamba", "llava")


def pair(name: str, folder: Path) -> dict[str, str]:
    """Write two siblings of an architecture."""
    father = write(name, folder / "father")
    mother = nudged(father, folder / "mother", 2)
    return {"father": str(father), "mother": str(mother)}


def stops(config: dict[str, Any]) -> list[str]:
    """Return the rules that stop a merge of this configuration."""
    found = fit_of(MergeConfiguration.model_validate(config))
    return [row.rule for row in found if row.severity == "stops"]


@pytest.mark.parametrize("name", LOSING)
def test_what_a_plan_would_lose_stops_the_merge_and_the_table(
    name: str, tmp_path: Path
) -> None:
    config = darwin(pair(name, tmp_path), "father", mri_trust=0.0)
    assert stops(config) == ["lost"]
    with pytest.raises(DarwinError, match=r"would not write .*allow_missing"):
        merge(config, tmp_path / "child")
    assert not (tmp_path / "child").exists()


@pytest.mark.parametrize("name", [*LOSING, "qwen3_moe", "mixtral"])
def test_what_is_said_to_be_lost_is_what_transformers_misses_in_the_child(
    name: str, tmp_path: Path
) -> None:
    config = darwin(pair(name, tmp_path), "father", mri_trust=0.0, allow_missing=True)
    (finding,) = [
        row
        for row in fit_of(MergeConfiguration.model_validate(config))
        if row.rule == "lost"
    ] or [None]
    merge(config, tmp_path / "child", write_model_card=False)
    kind = getattr(transformers, ROWS[name].model)
    level = logging.getLogger("transformers").level
    logging.getLogger("transformers").setLevel(logging.ERROR)
    try:
        _, info = kind.from_pretrained(tmp_path / "child", output_loading_info=True)
    finally:
        logging.getLogger("transformers").setLevel(level)
    missing = sorted(info["missing_keys"])
    if name not in LOSING:
        assert finding is None and missing == []
        return
    assert finding is not None and finding.severity == "note"
    assert finding.found.startswith(f"{len(missing)} tensors") and missing[0] in str(
        finding
    )


def test_the_command_says_it_in_a_line_and_goes_on_where_that_is_allowed(
    tmp_path: Path,
) -> None:
    config = darwin(pair("jamba", tmp_path), "father", mri_trust=0.0)
    path = tmp_path / "darwin.yml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    result = CliRunner().invoke(main, [str(path), "--csv", "--quiet"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert "stops lost: 4 tensors" in result.stderr and result.stderr.count("\n") == 1
    allowed = CliRunner().invoke(main, [str(path), "--csv", "--allow-missing"])
    assert allowed.exit_code == 0, allowed.output
    assert "without them (allow_missing)" in allowed.stderr


def test_tensors_that_a_plan_names_twice_are_one_row(tmp_path: Path) -> None:
    config = darwin(pair("qwen2_5_vl", tmp_path), "father", mri_trust=0.0)
    child = merge(config, tmp_path / "child", write_model_card=False)
    assert set(record(tmp_path / "child")) == set(child)


def test_what_mergekit_cannot_plan_is_one_line_without_the_configuration(
    tmp_path: Path,
) -> None:
    found = fit_of(
        MergeConfiguration.model_validate(darwin(pair("qwen2_vl", tmp_path), "father"))
    )
    (row,) = [row for row in found if row.severity == "stops"]
    assert row.found.startswith("mergekit cannot plan these models: ")
    assert "architectures" not in row.found and len(row.found) < 150


def test_a_definition_that_asks_for_what_no_model_has_is_named(tmp_path: Path) -> None:
    config = darwin(pair("cohere", tmp_path), "father")
    (row, *_) = fit_of(MergeConfiguration.model_validate(config))
    assert row.effect == (
        "mergekit's definition of CohereForCausalLM asks for what no such model has"
    )


def test_names_that_only_transformers_renames_are_told_from_lost_ones(
    tmp_path: Path,
) -> None:
    """A prefix left out, as models saved without their head have it."""
    trio = pair("llama", tmp_path)
    for folder in trio.values():
        file = Path(folder) / "model.safetensors"
        short = {k.removeprefix("model."): v for k, v in load_file(file).items()}
        save_file(short, file, metadata={"format": "pt"})
    (row, *_) = fit_of(MergeConfiguration.model_validate(darwin(trio, "father")))
    assert row.severity == "stops"
    assert row.effect.endswith("load each model with transformers and save it again")


def rewritten(folder: str, **changes: Any) -> None:
    """Change or add tensors of a checkpoint."""
    file = Path(folder) / "model.safetensors"
    save_file({**load_file(file), **changes}, file, metadata={"format": "pt"})


@pytest.mark.parametrize("kind", ["int8", "uint8", "bool"])
def test_matrices_of_integers_are_no_weights(kind: str, tmp_path: Path) -> None:
    models = pair("llama", tmp_path)
    name = "model.layers.1.mlp.up_proj.weight"
    shape = load_file(Path(models["mother"]) / "model.safetensors")[name].shape
    rewritten(models["mother"], **{name: torch.ones(shape).to(getattr(torch, kind))})
    config = darwin(models, "father")
    assert "dtype" in stops(config)
    with pytest.raises(DarwinError, match=r"of the Mother in .*dequantise"):
        merge(config, tmp_path / "child")
