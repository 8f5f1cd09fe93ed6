"""Gains against finite differences, in float64."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from mergekit_darwin.models.plan import model_loads
from mergekit_darwin.scan import attribution, backward
from mergekit_darwin.scan.attribution import measure_gains
from mergekit_darwin.scan.probes import Probe, ProbeItem, encode
from mergekit_darwin.scan.whole import open_whole
from mergekit_darwin.talk import ProbeOptions
from tests import tiny
from tests.matrix import models as matrix

pytestmark = pytest.mark.usefixtures("one_thread")
PROBES = [
    Probe("SUMS", (ProbeItem("12 + 30 =", " 42"), ProbeItem("7*8=", "56")), 0.5),
    Probe(
        "WORDS",
        (ProbeItem("", "abcab"), ProbeItem("수도", "는"), ProbeItem("q", "r")),
        0.5,
    ),
]
DOUBLE = ProbeOptions(dtype="float64", batch_size=2)
MODELS: dict[str, Callable[..., Path]] = {
    "llama": lambda folder, seed: tiny.tiny_llama(folder, seed, tied=False),
    "tied": lambda folder, seed: tiny.tiny_llama(folder, seed, tied=True),
    "gemma4": lambda folder, seed: tiny.tiny_gemma4(
        folder, seed, layers=6, vision_layers=1
    ),
    "hybrid": tiny.tiny_hybrid,
}


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, ...]]:
    """Paths of base, Father and Mother of each kind."""
    root = tmp_path_factory.mktemp("families")
    found = {}
    for name, make in MODELS.items():
        base = make(root / name / "base", 1)
        father = tiny.nudged(base, root / name / "father", 2)
        mother = tiny.nudged(base, root / name / "mother", 3)
        found[name] = (str(base), str(father), str(mother))
    return found


def load(path: str) -> nn.Module:
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64).eval()


@torch.no_grad()
def loss(model: nn.Module, path: str, probe: Probe) -> float:
    """Return the probe's loss item by item: nats a token, mean over items."""
    found = []
    for item in encode(AutoTokenizer.from_pretrained(path), probe.items, 256):
        logits = model(input_ids=torch.tensor([item.ids]), use_cache=False).logits[0]
        places = range(item.start, len(item.ids))
        each = [-logits[p - 1].log_softmax(-1)[item.ids[p]] for p in places]
        found.append(float(sum(each) / len(each)))
    return sum(found) / len(found)


def slope(path: str, parent: str, probe: Probe, names: list[str]) -> float:
    """Return how fast the loss falls as the named tensors leave base for parent."""
    model, other = load(path), load(parent).state_dict()
    start: dict[str, Tensor] = {k: v.clone() for k, v in model.state_dict().items()}
    step = 1e-3

    def at(way: float) -> float:
        moved = {
            k: v + way * (other[k] - v) if k in names else v for k, v in start.items()
        }
        model.load_state_dict(moved)
        return loss(model, path, probe)

    return (at(-step) - at(step)) / (2 * step)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", list(MODELS))
def test_gains_add_up_to_the_slope_along_the_whole_task_vector(
    families: dict[str, tuple[str, ...]], name: str
) -> None:
    base, father, mother = families[name]
    names = list(load(base).state_dict())
    for found, parent in zip(
        measure_gains(base, father, mother, PROBES, DOUBLE),
        (father, mother),
        strict=True,
    ):
        gains = found.gain
        for probe in PROBES:
            expected = slope(base, parent, probe, names)
            total = sum(gains[probe.name].values())
            assert total == pytest.approx(expected, rel=2e-2, abs=2e-4)
            assert abs(expected) > 1e-3


def test_each_tensors_gain_is_its_own_slope(
    families: dict[str, tuple[str, ...]],
) -> None:
    base, father, mother = families["tied"]
    gains = measure_gains(base, father, mother, PROBES[:1], DOUBLE)[0].gain
    for name in (
        "model.embed_tokens.weight",
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.1.mlp.down_proj.weight",
        "model.layers.1.input_layernorm.weight",
        "model.norm.weight",
    ):
        shared = [name, "lm_head.weight"] if "embed" in name else [name]
        expected = slope(base, father, PROBES[0], shared)
        assert gains["SUMS"][name] == pytest.approx(expected, rel=1e-2, abs=1e-5)


def test_a_tied_head_is_counted_once(families: dict[str, tuple[str, ...]]) -> None:
    base, father, mother = families["tied"]
    gains = measure_gains(base, father, mother, PROBES[:1], DOUBLE)[0].gain
    assert "lm_head.weight" not in gains["SUMS"]
    assert gains["SUMS"]["model.embed_tokens.weight"] != 0.0


def test_names_are_those_of_a_merge_and_a_vision_tower_gains_nothing(
    families: dict[str, tuple[str, ...]],
) -> None:
    base, father, mother = families["gemma4"]
    gains = measure_gains(base, father, mother, PROBES[:1], DOUBLE)[0].gain
    assert set(gains["SUMS"]) == set(model_loads(base))
    for name, gain in gains["SUMS"].items():
        text = "language_model" in name
        assert (gain != 0.0) == text, name


def test_parent_equal_to_base_gains_nothing(
    families: dict[str, tuple[str, ...]],
) -> None:
    base, father, _ = families["llama"]
    none, some = measure_gains(base, base, father, PROBES, DOUBLE)
    assert {gain for row in none.gain.values() for gain in row.values()} == {0.0}
    assert any(gain for row in some.gain.values() for gain in row.values())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", list(MODELS))
def test_streaming_from_disk_changes_nothing(
    families: dict[str, tuple[str, ...]], name: str
) -> None:
    whole = measure_gains(*families[name], PROBES, ProbeOptions())
    streamed = measure_gains(*families[name], PROBES, ProbeOptions(stream=True))
    for side, other in zip(whole, streamed, strict=True):
        for probe, row in side.gain.items():  # a BLAS may round by where memory lies
            assert other.gain[probe] == pytest.approx(row, rel=1e-4, abs=1e-8)


def test_groups_of_items_add_up(
    families: dict[str, tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = measure_gains(*families["llama"], PROBES, DOUBLE)
    monkeypatch.setattr(backward, "_MOST_STATES", 1)
    parts = measure_gains(*families["llama"], PROBES, DOUBLE)
    for side, other in zip(whole, parts, strict=True):
        for probe, row in side.gain.items():
            assert other.gain[probe] == pytest.approx(row, rel=1e-9, abs=1e-12)


def test_progress_reaches_its_total(families: dict[str, tuple[str, ...]]) -> None:
    steps: list[tuple[int, int]] = []
    measure_gains(*families["llama"], PROBES, DOUBLE, lambda *now: steps.append(now))
    items = sum(len(probe.items) for probe in PROBES)
    assert steps == [(items * n, 4 * items) for n in range(1, 5)]


def test_curvature_is_the_mean_of_the_items_own_squared_gains(
    families: dict[str, tuple[str, ...]],
) -> None:
    probe = PROBES[0]
    single = [Probe(str(i), (item,), 1.0) for i, item in enumerate(probe.items)]
    together = measure_gains(*families["tied"], [probe], DOUBLE)
    apart = measure_gains(*families["tied"], single, DOUBLE)
    for side, each in zip(together, apart, strict=True):
        for name, curvature in side.curvature[probe.name].items():
            squares = [each.gain[one.name][name] ** 2 for one in single]
            expected = sum(squares) / len(squares)
            assert curvature == pytest.approx(expected, rel=1e-9, abs=1e-18)


def test_whole_passes_give_the_gains_of_layers(
    families: dict[str, tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = measure_gains(*families["tied"], PROBES, DOUBLE)
    monkeypatch.setattr(attribution, "open_way", lambda source, _: open_whole(source))
    whole = measure_gains(*families["tied"], PROBES, DOUBLE)
    for side, other in zip(layers, whole, strict=True):
        assert (side.passes, other.passes) == ("layers", "whole")
        for probe, row in side.gain.items():
            assert other.gain[probe] == pytest.approx(row, rel=1e-9, abs=1e-12)


def test_experts_stored_one_by_one_gain_under_the_childs_names(tmp_path: Path) -> None:
    base = matrix.write("qwen3_moe", tmp_path / "base")
    father = tiny.nudged(base, tmp_path / "father", 2)
    found, _ = measure_gains(str(base), str(father), str(base), PROBES[:1], DOUBLE)
    experts = [name for name in found.gain["SUMS"] if ".experts." in name]
    assert len(experts) == 2 * 3  # gate_up_proj and down_proj of three layers
    assert all(found.gain["SUMS"][name] != 0.0 for name in experts)


@pytest.mark.parametrize("name", ["gemma4_e2b", "t5", "bert"])
def test_a_model_that_cannot_be_run_by_layers_gains_by_an_ordinary_backward_pass(
    tmp_path: Path, name: str
) -> None:
    base = matrix.write(name, tmp_path / "base")
    father = tiny.nudged(base, tmp_path / "father", 2)
    found, other = measure_gains(str(base), str(father), str(base), PROBES[:1], DOUBLE)
    assert found.passes == "whole"
    assert any(found.gain["SUMS"].values())
    assert not any(other.gain["SUMS"].values())
