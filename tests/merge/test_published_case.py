"""The published 31B pair at toy width, in the exact layout of Gemma 4 31B."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForImageTextToText

from mergekit_darwin.ratios.genome import published_genes
from tests.merging import PUBLISHED, merge, record, tensors
from tests.tiny import GEMMA4_TENSORS, nudged, tiny_gemma4

EXAMPLE = Path(__file__).parents[2] / "examples" / "darwin-31b-opus.yml"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("gemma")
    tiny_gemma4(root / "father", 1, dtype=torch.bfloat16)
    nudged(root / "father", root / "mother", 2)
    return {name: str(root / name) for name in ("father", "mother")}


def example(pair: dict[str, str]) -> dict:
    config = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
    for entry, role in zip(config["models"], ("father", "mother"), strict=True):
        entry["model"] = pair[role]
    config["base_model"] = pair["father"]
    return config


def test_the_example_has_the_fourteen_published_genes() -> None:
    config = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
    assert config["parameters"] == PUBLISHED
    assert list(config["parameters"]) == [gene.name for gene in published_genes()]


def test_all_1188_tensors_are_merged_each_with_its_own_ratio(
    pair: dict[str, str], tmp_path: Path
) -> None:
    child = merge(example(pair), tmp_path / "out")
    father = tensors(pair["father"])
    rows = record(tmp_path / "out")
    assert len(child) == len(father) == len(rows) == GEMMA4_TENSORS
    assert set(child) == set(father) == set(rows)
    stacks = Counter(row["stack"] for row in rows.values())
    vision = [stack for stack in stacks if "vision" in stack]
    assert len(vision) == 1
    assert {row["layer"] for row in rows.values() if row["stack"] == vision[0]} == {
        str(layer) for layer in range(27)
    }
    text = next(name for name in rows if ".layers.59.mlp.up_proj" in name)
    assert rows[text]["block"] == "5"
    # 60 layers, 6 blocks of 10, by hand: trust * mri + (1 - trust) * mean of genes
    mri = float(rows[text]["mri_ratio"])
    expected = 0.3631 * mri + (1 - 0.3631) * (0.9316 + 0.8583) / 2
    assert float(rows[text]["ratio"]) == pytest.approx(expected)
    load_and_run(tmp_path / "out")


def load_and_run(folder: Path) -> None:
    model, notes = AutoModelForImageTextToText.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    assert not notes["missing_keys"] and not notes["unexpected_keys"]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[5, 6, 7]])).logits
    assert logits.shape[:2] == (1, 3) and bool(torch.isfinite(logits).all())


def test_a_text_only_mother_leaves_the_vision_tower_untouched(
    pair: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from safetensors.torch import save_file

    mother = Path(nudged(pair["mother"], tmp_path / "mother", 3))
    content = {
        name: tensor for name, tensor in tensors(mother).items() if "vision" not in name
    }
    save_file(content, mother / "model.safetensors", metadata={"format": "pt"})
    child = merge(example({**pair, "mother": str(mother)}), tmp_path / "out")
    father, rows = tensors(pair["father"]), record(tmp_path / "out")
    tower = [name for name in father if "vision" in name]
    assert len(tower) > 300 and len(child) == GEMMA4_TENSORS
    for name in tower:
        assert torch.equal(child[name], father[name])
        assert rows[name]["route"] == "father"
    assert f"missing: {len(tower)} tensors not in the Mother" in caplog.text
    text = next(name for name in father if ".layers.7.mlp.up_proj" in name)
    assert not torch.equal(child[text], father[text])
