"""darwin_v6 through the unmodified mergekit, on real files."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from mergekit.common import ModelReference
from mergekit.merge_methods import merge_tensors
from safetensors.torch import save_file

from mergekit_darwin.kernel.dare_ties import Blend, merge_three
from mergekit_darwin.kernel.profile import profile_tensor
from mergekit_darwin.merge.parameters import settle
from mergekit_darwin.models.checkpoint import open_checkpoint
from mergekit_darwin.models.plan import model_loads
from mergekit_darwin.ratios.genome import genome_json, make_genome
from mergekit_darwin.ratios.scores import published_scores
from mergekit_darwin.scan.report import (
    ModelReport,
    ProbeSetting,
    Report,
    Settings,
)
from tests.merging import PUBLISHED, darwin, differing, merge, record, tensors

Q1 = "model.layers.1.self_attn.q_proj.weight"
NORM = "model.norm.weight"


def report_of(trio: dict[str, str], probe: float = 0.5) -> Report:
    """Return a report of the session's parents; Mother's probe distances are 2x."""

    def model(path: str, distance: float) -> ModelReport:
        return ModelReport(
            model=path,
            digest=open_checkpoint(path).digest,
            layers=4,
            stack="model.layers",
            tensors={
                name: profile_tensor(load.execute())
                for name, load in model_loads(path).items()
            },
            probes={"CODE": [distance * (layer + 1) / 4 for layer in range(4)]},
        )

    return Report(
        settings=Settings(probes={"CODE": ProbeSetting(digest="d", items=8, weight=1)}),
        father=model(trio["father"], probe / 2),
        mother=model(trio["mother"], probe),
    )


def genome_of(row: dict[str, str]) -> float:
    return float(row["genome_ratio"])


def test_a_blended_tensor_is_what_the_formulas_give(
    trio: dict[str, str], tmp_path: Path
) -> None:
    child = merge(darwin(trio, **PUBLISHED), tmp_path / "out")
    base, father, mother = (tensors(trio[n]) for n in ("base", "father", "mother"))
    scores = published_scores(profile_tensor(father[Q1]), profile_tensor(mother[Q1]))
    genes = 0.5 * (PUBLISHED["attn_ratio"] + PUBLISHED["block_1_ratio"])
    ratio = 0.3631 * scores.mri_ratio + (1 - 0.3631) * genes
    row = record(tmp_path / "out")[Q1]
    assert float(row["ratio"]) == pytest.approx(ratio, rel=1e-15)
    seed = settle(PUBLISHED).hash
    blend = Blend(ratio, 0.8997, 0.9539, 0.6897, 1.0, True, False, seed, Q1)
    assert torch.equal(child[Q1], merge_three(base[Q1], father[Q1], mother[Q1], blend))


def test_the_record_has_a_row_for_every_tensor(
    trio: dict[str, str], tmp_path: Path
) -> None:
    child = merge(darwin(trio, **PUBLISHED), tmp_path / "out")
    rows = record(tmp_path / "out")
    assert set(rows) == set(child) == set(tensors(trio["father"]))
    assert all(0 <= float(row["ratio"]) <= 1 for row in rows.values())


@pytest.mark.parametrize("base", ["base", "father", None])
def test_transplants_are_the_parents_bit_for_bit(
    trio: dict[str, str], tmp_path: Path, base: str | None
) -> None:
    ratio = [
        {"filter": "q_proj", "value": 0.05},
        {"filter": "mlp", "value": 0.95},
        {"value": 0.5},
    ]
    child = merge(darwin(trio, base, ratio=ratio), tmp_path / "out")
    father, mother = tensors(trio["father"]), tensors(trio["mother"])
    for name, tensor in child.items():
        if "q_proj" in name:
            assert torch.equal(tensor, father[name])
        elif "mlp" in name:
            assert torch.equal(tensor, mother[name])
        else:
            assert not torch.equal(tensor, father[name])


def test_limits_of_zero_and_one_switch_transplanting_off(
    trio: dict[str, str], tmp_path: Path
) -> None:
    config = darwin(trio, ratio=0.05, transplant_low=0.0, transplant_high=1.0)
    child = merge(config, tmp_path / "out")
    assert {row["route"] for row in record(tmp_path / "out").values()} == {"blend"}
    assert Q1 in differing(child, tensors(trio["father"]))


def test_norms_are_never_masked(trio: dict[str, str], tmp_path: Path) -> None:
    config = darwin(trio, ratio=0.5, density_a=0.1, density_b=0.1)
    config["dtype"] = "float32"
    child = merge(config, tmp_path / "out")
    base, father, mother = (tensors(trio[n]) for n in ("base", "father", "mother"))
    left = 0.5 * (father[NORM].float() - base[NORM].float())
    right = 0.5 * (mother[NORM].float() - base[NORM].float())
    total = left + right
    largest = torch.maximum(torch.maximum(left.abs(), right.abs()), total.abs())
    expected = base[NORM].float() + largest.copysign(total)
    assert torch.allclose(child[NORM], expected, rtol=0, atol=1e-7)


def test_filters_and_gradients_reach_genes_and_ratio(
    trio: dict[str, str], tmp_path: Path
) -> None:
    gene = [{"filter": "q_proj", "value": [0.2, 0.8]}, {"value": 0.4}]
    merge(darwin(trio, mri_trust=0, attn_ratio=gene), tmp_path / "gene")
    rows = record(tmp_path / "gene")
    found = [
        2 * genome_of(rows[f"model.layers.{i}.self_attn.q_proj.weight"]) - 0.5
        for i in range(4)
    ]
    assert found == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert genome_of(rows[Q1.replace("q_proj", "k_proj")]) == pytest.approx(0.45)
    merge(darwin(trio, ratio=[0.2, 0.8]), tmp_path / "ratio")
    rows = record(tmp_path / "ratio")
    assert float(rows[Q1]["ratio"]) == pytest.approx(0.4)


def test_a_table_of_ratios_wins_over_genes_and_loses_to_ratio(
    trio: dict[str, str], tmp_path: Path
) -> None:
    table = tmp_path / "table.csv"
    table.write_text(f"name,ratio\n{Q1},0.3\n{NORM},0.2\n", encoding="utf-8")
    ratio = [{"filter": NORM, "value": 0.7}]
    merge(darwin(trio, ratios=str(table), ratio=ratio), tmp_path / "out")
    rows = record(tmp_path / "out")
    assert float(rows[Q1]["ratio"]) == 0.3
    assert float(rows[NORM]["ratio"]) == 0.7
    assert float(rows["lm_head.weight"]["ratio"]) != 0.3


def test_a_genome_file_is_used_and_genes_beside_it_override(
    trio: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "genome.json"
    genome = make_genome({"attn_ratio": 0.3, "block_1_ratio": 0.7, "mri_trust": 0.0})
    path.write_text(genome_json(genome, "0" * 16), encoding="utf-8")
    merge(darwin(trio, genome=str(path), block_1_ratio=0.4), tmp_path / "out")
    assert float(record(tmp_path / "out")[Q1]["ratio"]) == pytest.approx(0.35)


def test_a_report_gives_profiles_and_probe_distances(
    trio: dict[str, str], tmp_path: Path
) -> None:
    report = report_of(trio)
    (tmp_path / "mds").mkdir()
    (tmp_path / "mds" / "mds.json").write_text(report.model_dump_json())
    merge(darwin(trio, mds=str(tmp_path / "mds"), mri_trust=1.0), tmp_path / "out")
    row = record(tmp_path / "out")[Q1]
    left = 0.4 * float(row["static_father"]) + 0.6 * 0.25 * 2 / 4
    right = 0.4 * float(row["static_mother"]) + 0.6 * 0.5 * 2 / 4
    assert float(row["ratio"]) == pytest.approx(right / (left + right))


def test_static_profiles_are_the_same_from_a_report_and_on_the_fly(
    trio: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "mds.json"
    path.write_text(report_of(trio).model_dump_json())
    merge(darwin(trio, mds=str(path)), tmp_path / "with")
    merge(darwin(trio), tmp_path / "without")
    with_report, without = record(tmp_path / "with"), record(tmp_path / "without")
    for name, row in without.items():
        assert with_report[name]["static_father"] == row["static_father"]
        assert with_report[name]["static_mother"] == row["static_mother"]


def test_a_report_of_other_models_is_refused(
    trio: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "mds.json"
    path.write_text(report_of(trio).model_dump_json())
    swapped = {**trio, "father": trio["mother"], "mother": trio["father"]}
    assert_refused(darwin(swapped, mds=str(path)), tmp_path, "the other way round")
    other = {**trio, "mother": trio["base"]}
    assert_refused(darwin(other, None, mds=str(path)), tmp_path, "of the models merged")


def test_a_report_that_lacks_a_tensor_is_refused(
    trio: dict[str, str], tmp_path: Path
) -> None:
    content = json.loads(report_of(trio).model_dump_json())
    del content["father"]["tensors"][Q1]
    (tmp_path / "mds.json").write_text(json.dumps(content))
    assert_refused(darwin(trio, mds=str(tmp_path)), tmp_path, Q1)


def test_readings_other_than_published_need_a_report(
    trio: dict[str, str], tmp_path: Path
) -> None:
    assert_refused(darwin(trio, mri="relative"), tmp_path, "needs an MDS report")


def assert_refused(
    config: dict[str, Any], folder: Path, message: str, **options: Any
) -> None:
    """Check that a merge is refused with a message and leaves no model behind."""
    from mergekit_darwin.errors import DarwinError

    out = folder / "refused"
    with pytest.raises(DarwinError, match=message):
        merge(config, out, **options)
    assert not (out / "config.json").exists()
    assert not list(out.glob("*.safetensors"))


def test_typos_name_the_nearest_parameter(trio: dict[str, str], tmp_path: Path) -> None:
    assert_refused(darwin(trio, raito=0.1), tmp_path, "'raito'.*Did you mean 'ratio'")


def test_parameters_of_one_model_are_refused(
    trio: dict[str, str], tmp_path: Path
) -> None:
    config = darwin(trio)
    config["models"][1]["parameters"] = {"weight": 0.3}
    assert_refused(config, tmp_path, "not for one model")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("attn_ratio", 1.2, "attn_ratio must be a number in"),
        ("density_b", 0, "density_b"),
        ("mri", "relativ", "Did you mean 'relative'"),
        ("mask_seed", "often", "whole number"),
        ("ratio", -0.1, "ratio must be a number in"),
        ("rescale", "maybe", "true or false"),
        ("block_7_ratio", 0.5, "Set blocks"),
        ("mds", "nowhere", "mergekit-darwin-scan"),
        ("genome", "nowhere.json", "cannot be read"),
        ("transplant_low", 0.9, "must not exceed"),
        ("operator", "sleerp", "Did you mean 'slerp'"),
        ("blocks", 2.5, "blocks must be a whole number in .1, 32."),
        ("mri", 1, "one of published"),
        ("ratio", True, "ratio must be a number in"),
        ("ratios", 0.5, "path of a file"),
    ],
)
def test_a_bad_value_is_one_clear_error(
    trio: dict[str, str], tmp_path: Path, name: str, value: object, message: str
) -> None:
    assert_refused(darwin(trio, **{name: value}), tmp_path, message)


def test_mergekit_pytorch_merges_files_and_is_checked_alike(
    trio: dict[str, str], tmp_path: Path
) -> None:
    from mergekit.graph import Executor
    from mergekit.options import MergeOptions
    from mergekit.scripts.merge_raw_pytorch import (
        RawPyTorchMergeConfig,
        plan_flat_merge,
    )

    from mergekit_darwin.errors import DarwinError

    files = {name: f"{path}/model.safetensors" for name, path in trio.items()}
    raw = {key: v for key, v in darwin(files, **PUBLISHED).items()}

    def run(config: dict[str, Any], out: Path) -> None:
        plan = RawPyTorchMergeConfig.model_validate(config)
        tasks = plan_flat_merge(plan, str(out), False, False, MergeOptions())
        Executor(tasks).execute()

    run(raw, tmp_path / "flat")
    child = merge(darwin(trio, **PUBLISHED), tmp_path / "graph")
    assert differing(tensors(tmp_path / "flat"), child) == set()
    assert set(record(tmp_path / "flat")) == set(child)
    with pytest.raises(DarwinError, match="'raito'"):
        run({**raw, "parameters": {"raito": 0.5}}, tmp_path / "typo")


def test_slices_work_and_shifted_ones_refuse_a_report(
    trio: dict[str, str], tmp_path: Path
) -> None:
    def sliced(*ranges: tuple[int, int], **parameters: Any) -> dict[str, Any]:
        config = darwin(trio, "father", **parameters)
        models = [entry["model"] for entry in config.pop("models")]
        config["slices"] = [
            {"sources": [{"model": m, "layer_range": list(r)} for m in models]}
            for r in ranges
        ]
        return config

    deep = merge(sliced((0, 3), (2, 4), **PUBLISHED), tmp_path / "deep")
    assert set(record(tmp_path / "deep")) == set(deep)
    assert "model.layers.4.mlp.up_proj.weight" in deep
    (tmp_path / "mds.json").write_text(report_of(trio).model_dump_json())
    assert_refused(
        sliced((1, 4), mds=str(tmp_path)), tmp_path, "keep every layer's place"
    )


def test_wrong_roles_are_refused(trio: dict[str, str], tmp_path: Path) -> None:
    assert_refused(darwin(trio, "mother"), tmp_path, "must be the Father")
    config = darwin(trio)
    config["models"].append({"model": trio["base"]})
    del config["base_model"]
    assert_refused(config, tmp_path, "exactly two")
    config = darwin(trio, None)
    config["models"].pop()
    assert_refused(config, tmp_path, "exactly two parents")


def altered(source: str, folder: Path, **changes: torch.Tensor | None) -> str:
    """Copy a checkpoint, with some tensors replaced or (None) left out."""
    import shutil

    shutil.copytree(source, folder)
    content = tensors(source)
    for name, tensor in changes.items():
        if tensor is None:
            del content[name]
        else:
            content[name] = tensor
    save_file(content, folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("parent", ["father", "mother", "base"])
def test_a_tensor_that_is_not_finite_is_named(
    trio: dict[str, str], tmp_path: Path, parent: str, value: float
) -> None:
    bad = tensors(trio[parent])[Q1].clone()
    bad[3, 4] = value
    models = {**trio, parent: altered(trio[parent], tmp_path / "bad", **{Q1: bad})}
    assert_refused(darwin(models), tmp_path, Q1)


@pytest.mark.parametrize(
    ("parent", "base"),
    [
        ("father", "base"),
        ("mother", "base"),
        ("base", "base"),
        ("father", None),
        ("mother", None),
    ],
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_mask_does_not_hide_what_is_not_finite(
    trio: dict[str, str], tmp_path: Path, parent: str, value: float, base: str | None
) -> None:
    bad = tensors(trio[parent])[Q1].clone()
    bad[3, 4] = value
    models = {**trio, parent: altered(trio[parent], tmp_path / "bad", **{Q1: bad})}
    sparse = {"ratio": 0.5, "density_a": 0.001, "density_b": 0.001}
    assert_refused(darwin(models, base, **sparse), tmp_path, Q1)


def test_a_shape_mismatch_is_named_before_anything_runs(
    trio: dict[str, str], tmp_path: Path
) -> None:
    longer = torch.zeros(300, 64, dtype=torch.bfloat16)
    head = {"lm_head.weight": longer, "model.embed_tokens.weight": longer.clone()}
    models = {**trio, "mother": altered(trio["mother"], tmp_path / "bad", **head)}
    assert_refused(darwin(models), tmp_path, "tokenizer: ")
    square = {Q1: torch.zeros(32, 32, dtype=torch.bfloat16)}
    models = {**trio, "mother": altered(trio["mother"], tmp_path / "bad2", **square)}
    assert_refused(darwin(models), tmp_path, "of other shape in the Mother")


def test_a_merge_that_changes_nothing_is_refused(
    trio: dict[str, str], tmp_path: Path
) -> None:
    assert_refused(darwin(trio, ratio=0.0), tmp_path, "must change something.*Father")
    assert_refused(darwin(trio, ratio=1.0), tmp_path, "must change something.*Mother")
    clone = altered(trio["father"], tmp_path / "clone")
    twins = {**trio, "mother": clone}
    assert_refused(darwin(twins, None), tmp_path, "must change something")


def test_the_log_says_what_a_user_should_know(
    trio: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "mergekit_darwin"):
        merge(darwin(trio, "father"), tmp_path / "out")
    text = caplog.text
    assert text.count("density_a has nothing to act on") == 1
    assert text.count("static profiles, measured in this pass") == 1
    caplog.clear()
    clone = altered(trio["father"], tmp_path / "near")
    near = {**trio, "mother": clone}
    with caplog.at_level(logging.INFO, "mergekit_darwin"):
        merge(darwin(near, "base", mri_trust=0.5), tmp_path / "near-out")
    assert caplog.text.count("spreads over 0.0000 only") == 1


def test_a_tied_head_meets_an_untied_one_as_mergekit_loads_it(
    trio: dict[str, str], tmp_path: Path
) -> None:
    father = altered(trio["father"], tmp_path / "f", **{"lm_head.weight": None})
    path = Path(father) / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "tie_word_embeddings": True}))
    models = {**trio, "father": father}
    ratio = [{"filter": "lm_head", "value": 0.0}, {"value": 0.5}]
    child = merge(darwin(models, None, ratio=ratio), tmp_path / "out")
    embedding = tensors(father)["model.embed_tokens.weight"]
    assert torch.equal(child["lm_head.weight"], embedding)


def test_a_required_tensor_that_is_missing_is_named(
    trio: dict[str, str], tmp_path: Path
) -> None:
    mother = altered(trio["mother"], tmp_path / "m", **{Q1: None})
    assert_refused(
        darwin({**trio, "mother": mother}),
        tmp_path,
        f"not in the Mother: {Q1!r}; mergekit requires",
    )


def test_changing_one_tensors_ratio_changes_exactly_that_tensor(
    trio: dict[str, str], tmp_path: Path
) -> None:
    one = merge(darwin(trio, **PUBLISHED), tmp_path / "one")
    ratio = [{"filter": Q1, "value": 0.33}]
    other = merge(darwin(trio, **PUBLISHED, ratio=ratio), tmp_path / "other")
    assert differing(one, other) == {Q1}
    method = {"merge_method": "dare_ties", "dtype": "bfloat16"}
    dares = []
    for name, weight in (("a", 0.5), ("b", [{"filter": Q1, "value": 0.33}, 0.5])):
        models = [
            {
                "model": trio[p],
                "parameters": {"weight": _weights(weight), "density": 0.9},
            }
            for p in ("father", "mother")
        ]
        config = {**method, "models": models, "base_model": trio["base"]}
        dares.append(merge(config, tmp_path / name))
    assert len(differing(*dares)) > 20


def _weights(weight: Any) -> Any:
    if isinstance(weight, list):
        return [weight[0], {"value": weight[1]}]
    return weight


def test_bytes_are_the_same_however_the_merge_is_run(
    trio: dict[str, str], tmp_path: Path
) -> None:
    config = darwin(trio, **PUBLISHED)
    first = merge(config, tmp_path / "first")
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        single = merge(config, tmp_path / "single")
    finally:
        torch.set_num_threads(before)
    sharded = merge(config, tmp_path / "sharded", out_shard_size=20_000)
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 3
    written = merge(config, tmp_path / "async", async_write=True)
    again = merge(config, tmp_path / "again")
    for other in (single, sharded, written, again):
        assert differing(first, other) == set()
    genome = merge(darwin(trio, **{**PUBLISHED, "ffn_ratio": 0.9}), tmp_path / "genome")
    assert Q1 in differing(first, genome)  # another genome_hash: other masks


def test_bytes_are_the_same_in_another_process(
    trio: dict[str, str], tmp_path: Path
) -> None:
    import yaml

    config = darwin(trio, **PUBLISHED)
    first = merge(config, tmp_path / "first")
    path = tmp_path / "darwin.yml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    command = [sys.executable, "-m", "mergekit.scripts.run_yaml"]
    run = subprocess.run(
        [*command, str(path), str(tmp_path / "other"), "--quiet"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": "77", "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr
    assert differing(first, tensors(tmp_path / "other")) == set()


def test_a_tensor_merged_alone_equals_the_one_in_the_graph(
    trio: dict[str, str], tmp_path: Path
) -> None:
    child = merge(darwin(trio, **PUBLISHED), tmp_path / "out")
    base, father, mother = (tensors(trio[n]) for n in ("base", "father", "mother"))
    for name in (Q1, NORM, "lm_head.weight", "model.layers.3.mlp.up_proj.weight"):
        alone = merge_tensors(
            [father[name], mother[name], base[name]],
            "darwin_v6",
            base_index=2,
            name=name,
            parameters={**PUBLISHED, "layers": 4},
        )
        assert torch.equal(alone, child[name])


def test_merged_alone_the_inputs_are_borrowed_and_the_output_is_a_copy() -> None:
    parents = [torch.randn(4, 4) for _ in range(2)]
    for ratio, expected in ((0.0, parents[0]), (1.0, parents[1])):
        child = merge_tensors(
            parents, "darwin_v6", name="x", parameters={"ratio": ratio}
        )
        assert torch.equal(child, expected)
        assert child.data_ptr() != expected.data_ptr()


def test_mask_seed_lets_two_genomes_share_their_masks(
    trio: dict[str, str], tmp_path: Path
) -> None:
    common = {"mask_seed": 7, "density_a": 0.5, "density_b": 0.5, "mri_trust": 0}
    shared = merge(darwin(trio, **common, ffn_ratio=0.4), tmp_path / "a")
    other = merge(darwin(trio, **common, ffn_ratio=0.6), tmp_path / "b")
    assert torch.equal(shared[Q1], other[Q1])
    own = {**common, "mask_seed": "genome"}
    one = merge(darwin(trio, **own, ffn_ratio=0.4), tmp_path / "c")
    two = merge(darwin(trio, **own, ffn_ratio=0.6), tmp_path / "d")
    assert not torch.equal(one[Q1], two[Q1])


def test_float16_and_mixed_types_merge(trio: dict[str, str], tmp_path: Path) -> None:
    wide = {name: tensor.float() for name, tensor in tensors(trio["mother"]).items()}
    models = {**trio, "mother": altered(trio["mother"], tmp_path / "wide", **wide)}
    config = darwin(models, **PUBLISHED)
    del config["dtype"]
    child = merge(config, tmp_path / "out")
    assert child[Q1].dtype == torch.float32
    half = merge({**config, "dtype": "float16"}, tmp_path / "half")
    assert half[Q1].dtype == torch.float16


def test_the_reference_of_a_model_is_mergekits_own(trio: dict[str, str]) -> None:
    assert open_checkpoint(trio["father"]).reference == ModelReference.parse(
        trio["father"]
    )
