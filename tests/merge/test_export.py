"""A plain YAML for another method gives every tensor the same ratio."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from mergekit.config import ConditionalParameter, MergeConfiguration, evaluate_setting
from mergekit.merge_methods import merge_tensors

from mergekit_darwin.cli.ratios import main
from mergekit_darwin.errors import DarwinError
from mergekit_darwin.merge.export import plain_yaml
from mergekit_darwin.merge.filters import METHODS, Setting, filtered
from mergekit_darwin.merge.preview import plan_run, ratio_rows
from mergekit_darwin.merge.yaml import read_config
from mergekit_darwin.models.plan import model_loads, planned_tasks
from mergekit_darwin.ratios.rules import Prescription
from tests.merging import darwin, merge, tensors
from tests.tiny import nudged, tiny_gemma4, tiny_llama

DENSE = {"density_a": 1.0, "density_b": 1.0}
VARIED = {
    "attn_ratio": [0.1, 0.9],
    "ffn_ratio": 0.7,
    "mri_trust": 0.05,
    "ratio": [
        {"filter": "layers.0.mlp", "value": 0.97},
        {"filter": "layers.3.mlp.up", "value": 0.04},
    ],
}


def value_of(name: str, setting: Setting) -> float:
    """Return what mergekit makes of a setting for a tensor."""
    if isinstance(setting, list):
        conditions = [ConditionalParameter.model_validate(row) for row in setting]
        return evaluate_setting(name, conditions, validate=float)
    return evaluate_setting(name, setting, validate=float)


def exported(
    config: dict[str, Any], method: Any, folder: Path
) -> tuple[dict[str, Any], list[Prescription]]:
    """Return the YAML for a method, read back, and the rows it came from."""
    path = folder / "darwin.yml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    planned = plan_run(read_config(path))
    rows = ratio_rows(planned)
    text = plain_yaml(read_config(path), planned, rows, method)
    return yaml.safe_load(text), rows


def ratio_of(row: Prescription) -> float:
    """Return a row's ratio, 0 or 1 for a transplant."""
    return {"father": 0.0, "mother": 1.0, "blend": row.ratio}[row.route]


NAMES = (
    "lm_head.weight",
    "x.lm_head.weight",
    "x.lm_head.weight.scale",
    "layers.1.q.weight",
    "layers.11.q.weight",
    "s.layers.1.q.weight",
    "a",
    "aa",
    "ba",
)


@pytest.mark.parametrize("apart", [*NAMES, None])
def test_a_name_inside_another_gets_its_own_value(apart: str | None) -> None:
    values = {name: 0.9 if name == apart else 0.5 for name in NAMES}
    setting = filtered(values)
    assert {name: value_of(name, setting) for name in NAMES} == values
    assert isinstance(setting, float) == (apart is None)


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(
        st.text("ab.1", min_size=1, max_size=6), st.sampled_from([0.0, 0.25, 1.0])
    ).filter(len)
)
def test_any_names_and_values_come_back_from_mergekits_filters(
    values: dict[str, float],
) -> None:
    setting = filtered(values)
    assert {name: value_of(name, setting) for name in values} == values


def test_a_setting_lists_no_more_than_it_must() -> None:
    names = {f"layers.{i}.q.weight": 0.5 for i in range(50)}
    assert filtered(names) == 0.5
    setting = filtered({**names, "layers.7.q.weight": 1.0})
    assert setting == [{"filter": "layers.7.q.weight", "value": 1.0}, {"value": 0.5}]
    with pytest.raises(ValueError, match="no tensors"):
        filtered({})


def expected(
    method: str, row: Prescription, trio: dict[str, Any], base: bool
) -> torch.Tensor:
    """Return one tensor merged alone by mergekit's method with a row's ratio."""
    ratio = ratio_of(row)
    father, mother = trio["father"][row.name], trio["mother"][row.name]
    pair = {"weight": [1.0 - ratio, ratio]}
    if method == "slerp":
        return merge_tensors(
            [father, mother], "slerp", parameters={"t": ratio}, base_index=0
        )
    if method == "linear":
        return merge_tensors([father, mother], "linear", parameters=pair)
    three = [father, mother, trio["base"][row.name]]
    if method == "nuslerp":
        if base:
            weight = {"weight": {0: 1.0 - ratio, 1: ratio}}
            return merge_tensors(three, method, parameters=weight, base_index=2)
        return merge_tensors([father, mother], method, parameters=pair)
    switches = {"normalize": False, "density": 1.0}
    if base:
        weight = {"weight": {0: 1.0 - ratio, 1: ratio}, **switches}
        return merge_tensors(three, method, parameters=weight, base_index=2)
    weight = {"weight": {1: ratio}, **switches}
    return merge_tensors([father, mother], method, parameters=weight, base_index=0)


@pytest.mark.parametrize("base", ["base", "father"])
@pytest.mark.parametrize("method", METHODS)
def test_unmodified_mergekit_gives_every_tensor_its_ratio(
    method: str, base: str, trio: dict[str, str], tmp_path: Path
) -> None:
    config = darwin(trio, base, **VARIED, **DENSE)
    plain, rows = exported(config, method, tmp_path)
    assert plain["merge_method"] == method and plain["dtype"] == "bfloat16"
    child = merge(plain, tmp_path / "child", write_model_card=False)
    weights = {
        role: {name: load.execute() for name, load in model_loads(path).items()}
        for role, path in trio.items()
    }
    assert len({row.ratio for row in rows}) > 20
    assert {row.route for row in rows} == {"father", "mother", "blend"}
    for row in rows:
        alone = expected(method, row, weights, base == "base")
        assert torch.equal(child[row.name], alone), row.name


def test_linear_is_the_weighted_mean_and_transplants_are_the_parents(
    trio: dict[str, str], tmp_path: Path
) -> None:
    plain, rows = exported(darwin(trio, **VARIED), "linear", tmp_path)
    child = merge(plain, tmp_path / "child", write_model_card=False)
    father, mother = tensors(trio["father"]), tensors(trio["mother"])
    for row in rows:
        if row.route != "blend":
            parent = father if row.route == "father" else mother
            assert torch.equal(child[row.name], parent[row.name])
            continue
        left, right = father[row.name].double(), mother[row.name].double()
        mean = (1.0 - row.ratio) * left + row.ratio * right
        torch.testing.assert_close(
            child[row.name].double(), mean, rtol=2**-8, atol=1e-9
        )


@pytest.mark.parametrize("method", ["ties", "dare_ties"])
def test_densities_lambda_and_switches_are_the_genomes(
    method: str, trio: dict[str, str], tmp_path: Path
) -> None:
    options = {"density_a": 0.3, "density_b": 0.6, "lambda": 1.5, "normalize": True}
    plain, rows = exported(darwin(trio, **VARIED, **options), method, tmp_path)
    config = MergeConfiguration.model_validate(plain)
    tasks = {task.output_weight.name: task for task in planned_tasks(config)}
    for row in rows:
        task = tasks[row.name]
        found = {str(model): given for model, given in task.input_parameters.items()}
        father, mother = found[trio["father"]], found[trio["mother"]]
        ratio = ratio_of(row)
        assert (father["weight"], mother["weight"]) == (1.0 - ratio, ratio)
        whole = row.route != "blend" or "norm" in row.name
        densities = (1.0, 1.0) if whole else (0.3, 0.6)
        assert (father["density"], mother["density"]) == densities
        assert task.parameters["lambda"] == (1.5 if row.route == "blend" else 1.0)
        assert task.parameters["normalize"] is True
        if method == "dare_ties":
            assert task.parameters["rescale"] is True


def test_mergekits_own_command_runs_the_yaml_without_this_package(
    trio: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "darwin.yml").write_text(yaml.safe_dump(darwin(trio, **VARIED)))
    written = tmp_path / "slerp.yml"
    arguments = ["--as", "slerp", "--out", str(written), "--quiet"]
    result = CliRunner().invoke(main, [str(tmp_path / "darwin.yml"), *arguments])
    assert result.exit_code == 0 and result.stdout == "", result.output
    code = "from mergekit.scripts.run_yaml import main; main()"
    run = [str(written), str(tmp_path / "child"), "--quiet", "--no-write-model-card"]
    done = subprocess.run(
        [sys.executable, "-c", code, *run],
        env={**os.environ, "MERGEKIT_DARWIN_AUTOLOAD": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    here = merge(
        yaml.safe_load(written.read_text("utf-8")),
        tmp_path / "here",
        write_model_card=False,
    )
    there = tensors(tmp_path / "child")
    assert set(there) == set(here)
    assert all(torch.equal(there[name], here[name]) for name in here)


def test_twelve_layers_keep_apart_what_one_and_eleven_share(tmp_path: Path) -> None:
    father = tiny_llama(tmp_path / "father", 1, layers=12, hidden=16)
    mother = nudged(father, tmp_path / "mother", 2)
    ratios = [{"filter": f"layers.{i}.", "value": i / 12} for i in range(12)]
    models = {"father": str(father), "mother": str(mother)}
    limits = {"transplant_low": 0, "transplant_high": 1}
    config = darwin(models, "father", ratio=ratios, mri_trust=0, **limits)
    plain, rows = exported(config, "slerp", tmp_path)
    tasks = planned_tasks(MergeConfiguration.model_validate(plain))
    found = {task.output_weight.name: task.parameters["t"] for task in tasks}
    assert found == {row.name: row.ratio for row in rows}
    assert found["model.layers.11.mlp.up_proj.weight"] == 11 / 12


def test_a_tensor_one_parent_lacks_passes_through_or_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    mother = tiny_gemma4(tmp_path / "mother", 1, 6, vision_layers=2)
    father = nudged(mother, tmp_path / "father", 2)
    file = mother / "model.safetensors"
    kept = {name: t for name, t in load_file(file).items() if "vision" not in name}
    save_file(kept, file, metadata={"format": "pt"})
    models = {"father": str(father), "mother": str(mother)}
    for method in ("slerp", "linear", "ties"):
        plain, rows = exported(darwin(models, "father"), method, tmp_path)
        plain["dtype"] = "float32"
        child = merge(plain, tmp_path / method, write_model_card=False)
        whole = tensors(father)
        lone = [row.name for row in rows if "vision" in row.name]
        assert lone and all(torch.equal(child[name], whole[name]) for name in lone)
    swapped = darwin({"father": str(mother), "mother": str(father)}, "father")
    with pytest.raises(DarwinError, match="ties needs every tensor in the base; 31"):
        exported(swapped, "ties", tmp_path)


def test_slices_and_a_moved_tokenizer_are_refused(
    trio: dict[str, str], tmp_path: Path
) -> None:
    config = darwin(trio, tokenizer_source="base")
    config["parameters"].pop("tokenizer_source")
    config["tokenizer"] = {"source": "base"}
    with pytest.raises(DarwinError, match="tokenizer source 'base'"):
        exported(config, "slerp", tmp_path)
    assert exported(config, "ties", tmp_path)[0]["tokenizer"]["source"] == "base"
    sources = [
        {"model": trio[role], "layer_range": [0, 4]}
        for role in ("father", "mother", "base")
    ]
    sliced = {**darwin(trio), "slices": [{"sources": sources}]}
    del sliced["models"]
    with pytest.raises(DarwinError, match="whole models"):
        exported(sliced, "linear", tmp_path)
