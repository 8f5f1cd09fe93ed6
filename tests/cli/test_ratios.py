"""mergekit-darwin-ratios prints what the merge does, and says why."""

from __future__ import annotations

import csv
import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from matplotlib.figure import Figure
from mergekit.io.tasks import LoadTensor
from tokenizers import AddedToken
from transformers import AutoTokenizer

from mergekit_darwin.api.merging import ratio_table
from mergekit_darwin.cli.ratios import main
from mergekit_darwin.kernel.profile import profile_tensor
from mergekit_darwin.models.checkpoint import open_checkpoint
from mergekit_darwin.models.names import stack_depths
from mergekit_darwin.models.plan import model_loads
from mergekit_darwin.ratios.picture import plot_ratios
from mergekit_darwin.ratios.table import COLUMNS
from mergekit_darwin.scan.report import (
    ModelReport,
    ProbeSetting,
    Report,
    Settings,
)
from tests.merging import PUBLISHED, darwin, merge
from tests.tiny import GEMMA4_TENSORS, nudged, tiny_gemma4, tiny_llama

Q1 = "model.layers.1.self_attn.q_proj.weight"
PROBES = ("CODE", "MATH")


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """Undo what the command does to the root logger."""
    root = logging.getLogger()
    names = ("mergekit_darwin", "mergekit")
    before = root.level, root.handlers[:], [logging.getLogger(n).level for n in names]
    yield
    root.setLevel(before[0])
    root.handlers[:] = before[1]
    for name, level in zip(names, before[2], strict=True):
        logging.getLogger(name).setLevel(level)


@pytest.fixture(scope="module")
def report(trio: dict[str, str]) -> Report:
    """A report of the session's parents: two probes, and random gains."""
    return report_of(trio["father"], trio["mother"])


def report_of(father: str, mother: str) -> Report:
    """Return a report with true profiles and invented probes and gains."""
    draw = np.random.default_rng(7)

    def model(path: str) -> ModelReport:
        loads = model_loads(path)
        depths = stack_depths(loads)
        stack = max(depths, key=lambda name: depths[name])
        return ModelReport(
            model=path,
            digest=open_checkpoint(path).digest,
            layers=depths[stack],
            stack=stack,
            tensors={
                name: profile_tensor(load.execute()) for name, load in loads.items()
            },
            probes={p: draw.uniform(0, 1, depths[stack]).tolist() for p in PROBES},
            gain={p: {name: float(draw.normal()) for name in loads} for p in PROBES},
        )

    probes = {p: ProbeSetting(digest="d", items=8, weight=0.5) for p in PROBES}
    return Report(
        settings=Settings(probes=probes), father=model(father), mother=model(mother)
    )


def save(content: Any, path: Path) -> str:
    """Write a configuration as YAML, a report as JSON; return the path."""
    if isinstance(content, Report):
        path.write_text(content.model_dump_json(), encoding="utf-8")
    else:
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return str(path)


def run(*arguments: object) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def printed(*arguments: object) -> str:
    """Return what a run that must succeed prints to stdout."""
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def assert_same_as_merge(config: dict[str, Any], folder: Path, **options: Any) -> str:
    """Merge for real and compare every row; return the text of the table."""
    text = printed(save(config, folder / "darwin.yml"), "--csv", "--quiet")
    merge(config, folder / "child", write_model_card=False, **options)
    assert text == (folder / "child" / "darwin_ratios.csv").read_text("utf-8")
    assert text.count("\n") > 20
    return text


GRADIENT = {"attn_ratio": [0.0, 1.0], "block_1_ratio": 0.9}
FILTERED = {
    **PUBLISHED,
    "ffn_ratio": [{"filter": "layers.2.", "value": 1.0}, {"value": 0.4}],
    "block_2_ratio": [{"filter": "mlp", "value": 1.0}, {"value": 0.2}],
    "mri_trust": [{"filter": "lm_head", "value": 0.0}, {"value": 0.1}],
}
EXPLICIT = {
    "ratio": [
        {"filter": "q_proj", "value": [0.0, 0.3, 1.0]},
        {"filter": "embed", "value": 0.99},
    ]
}


@pytest.mark.parametrize("base", ["base", "father", None])
@pytest.mark.parametrize(
    "parameters", [PUBLISHED, GRADIENT, FILTERED, EXPLICIT, {"mri_trust": 0.0}]
)
def test_the_table_is_what_the_merge_did(
    trio: dict[str, str], base: str | None, parameters: dict[str, Any], tmp_path: Path
) -> None:
    assert_same_as_merge(darwin(trio, base, **parameters), tmp_path)


@pytest.mark.parametrize("mri", ["published", "relative", "attribution"])
@pytest.mark.parametrize("parameters", [PUBLISHED, FILTERED, EXPLICIT])
def test_the_table_is_what_the_merge_did_with_a_report(
    trio: dict[str, str],
    report: Report,
    mri: str,
    parameters: dict[str, Any],
    tmp_path: Path,
) -> None:
    mds = save(report, tmp_path / "mds.json")
    config = darwin(trio, **parameters, mds=mds, mri=mri)
    text = assert_same_as_merge(config, tmp_path)
    assert re.search(r"attn,0\.\d+,0\.\d+,0\.\d+,0\.\d+,0\.\d+", text)


def test_with_a_report_no_weight_is_read(
    trio: dict[str, str],
    report: Report,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mds = save(report, tmp_path / "mds.json")

    def refuse(self: LoadTensor) -> None:
        raise AssertionError(f"{self.tensor} was read")

    monkeypatch.setattr(LoadTensor, "execute", refuse)
    path = save(darwin(trio, **FILTERED, mds=mds), tmp_path / "darwin.yml")
    assert printed(path, "--csv").startswith("name,stack,layer")
    assert "blend" in printed(path, "--explain", Q1)
    bare = save(darwin(trio, **FILTERED), tmp_path / "bare.yml")
    refused = run(bare, "--csv")
    assert refused.exit_code == 1
    assert "AssertionError" in refused.stderr


def test_all_tensors_of_the_31b_layout_are_as_merged(tmp_path: Path) -> None:
    father = tiny_gemma4(tmp_path / "father", 1, dtype=torch.bfloat16)
    mother = nudged(father, tmp_path / "mother", 2)
    models = {"father": str(father), "mother": str(mother)}
    mds = save(report_of(*models.values()), tmp_path / "mds.json")
    config = darwin(models, "father", **PUBLISHED, mds=mds, mri="relative")
    rows = _rows(assert_same_as_merge(config, tmp_path))
    assert len(rows) == GEMMA4_TENSORS
    probed = [name for name, row in rows.items() if row["probe_father"]]
    assert probed and all("language_model.layers." in name for name in probed)


def test_a_tensor_that_one_parent_lacks_is_the_others_as_in_the_merge(
    tmp_path: Path,
) -> None:
    from safetensors.torch import load_file, save_file

    father = tiny_gemma4(tmp_path / "father", 1, 6, vision_layers=2)
    mother = nudged(father, tmp_path / "mother", 2)
    file = mother / "model.safetensors"
    kept = {name: t for name, t in load_file(file).items() if "vision" not in name}
    save_file(kept, file, metadata={"format": "pt"})
    models = {"father": str(father), "mother": str(mother)}
    rows = _rows(assert_same_as_merge(darwin(models, "father"), tmp_path))
    lone = [row for name, row in rows.items() if "vision" in name]
    assert lone and {(row["ratio"], row["route"]) for row in lone} == {
        ("0.0", "father")
    }
    assert all(row["mri_ratio"] == "" for row in lone)
    (tmp_path / "headers").mkdir()
    text = assert_same_as_merge(
        darwin(models, "father", mri_trust=0.0), tmp_path / "headers"
    )
    assert {name for name, row in _rows(text).items() if not row["genome_ratio"]} == {
        row["name"] for row in lone
    }


def test_types_that_differ_are_promoted_as_in_the_merge(tmp_path: Path) -> None:
    father = tiny_llama(tmp_path / "father", 1, dtype=torch.float16)
    mother = tiny_llama(tmp_path / "mother", 2)
    config = darwin({"father": str(father), "mother": str(mother)}, "father")
    del config["dtype"]
    assert_same_as_merge(config, tmp_path)


def test_vocabularies_are_aligned_as_in_the_merge(tmp_path: Path) -> None:
    father = tiny_llama(tmp_path / "father", 1)
    mother = tiny_llama(tmp_path / "mother", 2, vocab_size=262)
    tokenizer = AutoTokenizer.from_pretrained(mother)
    tokenizer.add_tokens([AddedToken("<one>"), AddedToken("<two>")])
    tokenizer.save_pretrained(mother)
    config = darwin({"father": str(father), "mother": str(mother)}, "father")
    config["tokenizer"] = {"source": "union"}
    assert_same_as_merge(config, tmp_path)


def test_slices_are_numbered_as_in_the_merge(
    trio: dict[str, str], tmp_path: Path
) -> None:
    def piece(start: int, end: int, **parameters: Any) -> dict[str, Any]:
        sources = [
            {"model": trio[role], "layer_range": [start, end]}
            for role in ("father", "mother", "base")
        ]
        return {"sources": sources, "parameters": parameters}

    config = darwin(trio, **PUBLISHED)
    del config["models"]
    config["slices"] = [piece(0, 4), piece(1, 4, attn_ratio=0.9, block_5_ratio=1)]
    rows = _rows(assert_same_as_merge(config, tmp_path))
    assert rows["model.layers.6.self_attn.q_proj.weight"]["block"] == "5"


def _rows(text: str) -> dict[str, dict[str, str]]:
    return {row["name"]: row for row in csv.DictReader(text.splitlines())}


def test_json_and_csv_hold_the_same_rows(trio: dict[str, str], tmp_path: Path) -> None:
    path = save(darwin(trio, **PUBLISHED), tmp_path / "darwin.yml")
    objects = json.loads(printed(path, "--json"))
    rows = list(csv.DictReader(printed(path, "--csv").splitlines()))
    assert [tuple(found) for found in objects] == [COLUMNS] * len(rows)
    for found, row in zip(objects, rows, strict=True):
        assert {k: "" if v is None else str(v) for k, v in found.items()} == row
    assert [tuple(found.values()) for found in objects] == [
        tuple(row.columns().values()) for row in ratio_table(path)
    ]


def test_a_table_edited_by_hand_is_followed(
    trio: dict[str, str], tmp_path: Path
) -> None:
    config = darwin(trio, **PUBLISHED)
    table = tmp_path / "mine.csv"
    path = save(config, tmp_path / "darwin.yml")
    printed(path, "--csv", "--out", table)
    before = _rows(table.read_text("utf-8"))
    edited = {**before, Q1: {**before[Q1], "ratio": "0.0"}}
    with table.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows(edited.values())
    config["parameters"]["ratios"] = str(table)
    after = _rows(assert_same_as_merge(config, tmp_path))
    assert {name: row["ratio"] for name, row in after.items()} == {
        name: row["ratio"] for name, row in edited.items()
    }
    assert after[Q1]["route"] == "father"
    child = merge(config, tmp_path / "again", write_model_card=False)
    father = {n: load.execute() for n, load in model_loads(trio["father"]).items()}
    assert torch.equal(child[Q1], father[Q1])


@pytest.mark.parametrize("mri", ["published", "relative", "attribution"])
def test_the_formulas_of_an_explanation_add_up(
    trio: dict[str, str], report: Report, mri: str, tmp_path: Path
) -> None:
    mds = save(report, tmp_path / "mds.json")
    path = save(darwin(trio, **PUBLISHED, mds=mds, mri=mri), tmp_path / "darwin.yml")
    text = printed(path, "--explain", "layers.1.self_attn.q_proj")
    sums = [line for line in text.splitlines() if _is_sum(line)]
    assert len(sums) >= {"published": 6, "relative": 5, "attribution": 4}[mri]
    for line in sums:
        left, right = line.split(":")[-1].rsplit(" = ", 1)
        assert eval(left.split(" = ")[-1], {"min": min}) == pytest.approx(
            float(right), abs=2e-5, rel=2e-5
        ), line
    (row,) = (row for row in ratio_table(path) if row.name == Q1)
    for value in (row.mri_ratio, row.genome_ratio, row.ratio):
        assert f"= {value:.6f}" in text
    assert f"CODE{0.5:>16.4g}" in text
    assert row.route == "blend" and "below 58963 of 65536" in text


def _is_sum(line: str) -> bool:
    """Whether a line's last two sides are numbers only, and the left one a formula."""
    parts = line.split(":")[-1].rsplit(" = ", 2)[-2:]
    plain = re.fullmatch(r"[\d\s.e()+*/,-]+", parts[0].replace("min", "")) is not None
    return len(parts) == 2 and plain and re.search(r"[+*/]", parts[0]) is not None


def test_an_explanation_without_a_report_measures_that_tensor(
    trio: dict[str, str], tmp_path: Path
) -> None:
    path = save(darwin(trio, **PUBLISHED), tmp_path / "darwin.yml")
    text = printed(path, "--explain", Q1)
    father = profile_tensor(model_loads(trio["father"])[Q1].execute())
    assert f"{father.norm:.9g}" in text and f"= {father.static:.8f}" in text
    assert "probe score" not in text
    norm = printed(path, "--explain", "model.norm.weight")
    assert "no masks: of vectors and scalars every entry is kept" in norm


def test_an_explanation_of_an_unknown_tensor_suggests_one(
    trio: dict[str, str], tmp_path: Path
) -> None:
    path = save(darwin(trio), tmp_path / "darwin.yml")
    result = run(path, "--explain", "model.layers.1.self_attn.qproj.weight")
    assert result.exit_code == 1 and f"Did you mean {Q1!r}?" in result.stderr
    several = run(path, "--explain", "q_proj")
    assert several.exit_code == 1 and "4 names contain it" in several.stderr


def test_the_summary_counts_routes_and_means(
    trio: dict[str, str], tmp_path: Path
) -> None:
    path = save(darwin(trio, **EXPLICIT), tmp_path / "darwin.yml")
    rows = ratio_table(path)
    text = printed(path)
    fathers = sum(row.route == "father" for row in rows)
    mothers = sum(row.route == "mother" for row in rows)
    blends = len(rows) - fathers - mothers
    assert fathers >= 1 and mothers >= 2
    assert (
        f"{len(rows)} tensors: {fathers} Father's, {mothers} Mother's,"
        f" {blends} blended" in text
    )
    ffn = [row for row in rows if row.site.component == "ffn"]
    mean = f"{np.mean([row.ratio for row in ffn]):.5f}"
    assert re.search(rf"^  ffn +{len(ffn)} .* {mean} +0 +0 +{len(ffn)}$", text, re.M)
    assert all(f" {row.ratio:.5f}  " in text for row in rows)
    assert text.count("FATHER") == fathers and text.count("MOTHER") == mothers
    found = [row.mri_ratio for row in rows if row.mri_ratio is not None]
    assert f"a spread of {max(found) - min(found):.4f}" in text


def test_the_picture_holds_the_mean_ratio_of_every_cell(
    trio: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    real = Figure.savefig
    monkeypatch.setattr(
        Figure,
        "savefig",
        lambda self, *a, **k: (drawn.append(self), real(self, *a, **k)),
    )
    path = save(darwin(trio, **EXPLICIT), tmp_path / "darwin.yml")
    printed(path, "--plot", tmp_path / "ratios.png", "--quiet")
    assert (tmp_path / "ratios.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(file.suffix for file in tmp_path.iterdir()) == [".png", ".yml"]
    layers, loose, *_ = drawn[0].axes
    image = layers.images[0].get_array()
    rows = ratio_table(path)
    for place, component in enumerate(("attn", "ffn", "global")):
        for layer in range(4):
            inside = [
                row.ratio
                for row in rows
                if (row.site.layer, row.site.component) == (layer, component)
            ]
            assert image[place, layer] == pytest.approx(np.mean(inside))
    marks = [text.get_text() for text in (*layers.texts, *loose.texts)]
    assert sum("·" in mark for mark in marks) == 2  # q_proj at both ends of [0, 1]
    assert sum(mark.startswith("M ") for mark in marks) == 1  # the embedding


def test_a_picture_of_an_unknown_format_is_refused(
    trio: dict[str, str], tmp_path: Path
) -> None:
    path = save(darwin(trio, **PUBLISHED), tmp_path / "darwin.yml")
    result = run(path, "--plot", tmp_path / "ratios.xyz")
    assert result.exit_code == 1 and "must end in one of" in result.stderr
    with pytest.raises(Exception, match="must end"):
        plot_ratios(ratio_table(path), tmp_path / "none")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"layers": 3}, "stops depth: model.layers has 2 layers in the Father, 3 in"),
        ({"vocab_size": 300}, "add  tokenizer: {source: base}  to align the rows"),
        ({"hidden": 64}, "stops shape:"),
    ],
)
def test_parents_that_do_not_fit_end_with_one_line_and_exit_1(
    change: dict[str, int], line: str, tmp_path: Path
) -> None:
    father = tiny_llama(tmp_path / "father", 1)
    mother = tiny_llama(tmp_path / "mother", 2, **change)
    config = darwin({"father": str(father), "mother": str(mother)}, "father")
    result = run(save(config, tmp_path / "darwin.yml"), "--csv", "--quiet")
    assert (result.exit_code, result.stdout) == (1, "")
    assert line in result.stderr and result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"merge_method": "linear"}, "must have merge_method: darwin_v6"),
        ({"parameters": {"atn_ratio": 0.5}}, "Did you mean 'attn_ratio'?"),
        ({"parameters": {"attn_ratio": 1.5}}, "must be a number in [0, 1]"),
        ({"models": [{"model": "./nowhere"}]}, "exactly two parents"),
        ({"models": None}, "must be a mergekit configuration"),
    ],
)
def test_a_bad_configuration_is_one_line(
    trio: dict[str, str], change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    config = {**darwin(trio, None), **change}
    result = run(save(config, tmp_path / "darwin.yml"), "--csv", "--quiet")
    assert result.exit_code == 1 and result.stdout == ""
    assert message in result.stderr and result.stderr.count("\n") == 1


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    result = run(tmp_path / "none.yml")
    assert result.exit_code == 1 and "cannot be read as YAML" in result.stderr


@pytest.mark.parametrize("option", ["--out", "--plot"])
def test_a_place_that_cannot_be_written_is_one_line(
    trio: dict[str, str], option: str, tmp_path: Path
) -> None:
    path = save(darwin(trio, mri_trust=0), tmp_path / "darwin.yml")
    result = run(path, "--quiet", option, Path(path) / "ratios.png")
    assert result.exit_code == 1 and result.stdout == ""
    assert "must be a folder that can be written" in result.stderr
    assert result.stderr.count("\n") == 1


def test_each_darwin_step_of_a_mergekit_multi_file_is_looked_at(
    trio: dict[str, str], tmp_path: Path
) -> None:
    first = {"name": "first", **darwin(trio, mri_trust=0)}
    other = {"name": "mean", **darwin(trio, "father"), "merge_method": "linear"}
    last = darwin({**trio, "father": "first"}, None, mri_trust=0)
    path = tmp_path / "multi.yml"
    path.write_text(yaml.safe_dump_all([first, other, last]), encoding="utf-8")
    result = run(path)
    assert result.exit_code == 0, result.output
    assert "39 tensors" in result.stdout
    assert "step 'final' merges the result of 'first'" in result.stderr
    results = tmp_path / "results"
    merge(darwin(trio), results / "first", write_model_card=False)
    both = printed(path, "-I", results)
    assert "step first" in both and "step final" in both
    assert run(path, "-I", results, "--csv").exit_code == 2
    table = printed(path, "-I", results, "--csv", "--step", "first")
    assert len(_rows(table)) == 39
    unknown = run(path, "--step", "frist")
    assert unknown.exit_code == 1 and "Did you mean 'first'?" in unknown.stderr


def test_lambda_one_with_a_third_base_is_hinted_at(
    trio: dict[str, str], tmp_path: Path
) -> None:
    path = save(darwin(trio, mri_trust=0), tmp_path / "darwin.yml")
    assert "note  lambda: 1" in run(path).stderr
    for config in (
        darwin(trio, "father", mri_trust=0),
        darwin(trio, mri_trust=0, **{"lambda": 2}),
        darwin(trio, mri_trust=0, operator="slerp"),
    ):
        assert "lambda: 1" not in run(save(config, tmp_path / "darwin.yml")).stderr


def test_two_forms_at_once_are_a_usage_error(
    trio: dict[str, str], tmp_path: Path
) -> None:
    path = save(darwin(trio), tmp_path / "darwin.yml")
    assert run(path, "--csv", "--explain", Q1).exit_code == 2


def test_help_needs_neither_torch_nor_mergekit() -> None:
    code = (
        "import sys; from mergekit_darwin.cli.ratios import main\n"
        "main(['--help'], standalone_mode=False)\n"
        "bad = {'torch', 'mergekit', 'matplotlib', 'transformers'} & set(sys.modules)\n"
        "sys.exit(f'loaded {bad}' if bad else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "--explain TENSOR" in done.stdout
