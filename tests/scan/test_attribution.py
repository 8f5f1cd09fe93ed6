"""Gains against finite differences, in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from mergekit_darwin.models.checkpoint import model_loads
from mergekit_darwin.scan import attribution
from mergekit_darwin.scan.attribution import measure_gains
from mergekit_darwin.scan.importance import ProbeOptions
from mergekit_darwin.scan.probes import Probe, ProbeItem, encode
from tests import tiny

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


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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
    for gains, parent in zip(
        measure_gains(base, father, mother, PROBES, DOUBLE),
        (father, mother),
        strict=True,
    ):
        for probe in PROBES:
            expected = slope(base, parent, probe, names)
            total = sum(gains[probe.name].values())
            assert total == pytest.approx(expected, rel=2e-2, abs=2e-4)
            assert abs(expected) > 1e-3


def test_each_tensors_gain_is_its_own_slope(
    families: dict[str, tuple[str, ...]],
) -> None:
    base, father, mother = families["tied"]
    gains, _ = measure_gains(base, father, mother, PROBES[:1], DOUBLE)
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
    gains, _ = measure_gains(base, father, mother, PROBES[:1], DOUBLE)
    assert "lm_head.weight" not in gains["SUMS"]
    assert gains["SUMS"]["model.embed_tokens.weight"] != 0.0


def test_names_are_those_of_a_merge_and_a_vision_tower_gains_nothing(
    families: dict[str, tuple[str, ...]],
) -> None:
    base, father, mother = families["gemma4"]
    gains, _ = measure_gains(base, father, mother, PROBES[:1], DOUBLE)
    assert set(gains["SUMS"]) == set(model_loads(base))
    for name, gain in gains["SUMS"].items():
        text = "language_model" in name
        assert (gain != 0.0) == text, name


def test_parent_equal_to_base_gains_nothing(
    families: dict[str, tuple[str, ...]],
) -> None:
    base, father, _ = families["llama"]
    none, some = measure_gains(base, base, father, PROBES, DOUBLE)
    assert {gain for row in none.values() for gain in row.values()} == {0.0}
    assert any(gain for row in some.values() for gain in row.values())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", list(MODELS))
def test_streaming_from_disk_changes_no_bit(
    families: dict[str, tuple[str, ...]], name: str
) -> None:
    options = ProbeOptions(batch_size=2)
    streamed = ProbeOptions(batch_size=2, stream=True)
    assert measure_gains(*families[name], PROBES, options) == measure_gains(
        *families[name], PROBES, streamed
    )


def test_groups_of_items_add_up(
    families: dict[str, tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = measure_gains(*families["llama"], PROBES, DOUBLE)
    monkeypatch.setattr(attribution, "_MOST_STATES", 1)
    parts = measure_gains(*families["llama"], PROBES, DOUBLE)
    for side, other in zip(whole, parts, strict=True):
        for probe in side:
            assert other[probe] == pytest.approx(side[probe], rel=1e-9, abs=1e-12)


def test_progress_reaches_its_total(families: dict[str, tuple[str, ...]]) -> None:
    steps: list[tuple[int, int]] = []
    measure_gains(*families["llama"], PROBES, DOUBLE, lambda *now: steps.append(now))
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
