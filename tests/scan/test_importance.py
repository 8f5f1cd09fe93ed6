"""All layers from one pass, against one plain forward pass a skipped layer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.scan import importance, skipping
from mergekit_darwin.scan.importance import (
    Importance,
    cosine_distance,
    measure_importance,
)
from mergekit_darwin.scan.probes import Probe, ProbeItem, encode
from mergekit_darwin.talk import ProbeOptions
from tests import tiny

pytestmark = pytest.mark.usefixtures("one_thread")
PROBES = [
    Probe("SUMS", (ProbeItem("12 + 30 =", " 42"), ProbeItem("7*8=", "56")), 0.5),
    Probe("KOREAN", (ProbeItem("수도는", " 서울"), ProbeItem("A", "b c d e f")), 0.5),
]
MODELS: dict[str, Callable[..., Path]] = {
    "llama": tiny.tiny_llama,
    "qwen3": tiny.tiny_qwen3,
    "gemma4": lambda folder, seed: tiny.tiny_gemma4(
        folder, seed, layers=12, vision_layers=2
    ),
    "hybrid": tiny.tiny_hybrid,
    "mamba2": tiny.tiny_mamba2,
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("models")
    return {name: str(make(root / name, 1)) for name, make in MODELS.items()}


class Skip(nn.Module):
    """A layer that does nothing; it keeps what the model reads of a layer."""

    def __init__(self, layer: nn.Module, bare: bool) -> None:
        super().__init__()
        self.bare = bare
        for name in ("layer_type", "attention_type", "block_type"):
            if hasattr(layer, name):
                setattr(self, name, getattr(layer, name))

    def forward(self, hidden: torch.Tensor, *args: object, **kwargs: object) -> object:
        return hidden if self.bare else (hidden, None)


def naive(path: str, probe: Probe) -> tuple[list[float], list[float]]:
    """Return distances [L] and losses [1 + L] by whole forward passes, item by item."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(path)
    text = getattr(model.base_model, "language_model", model.base_model)
    layers = text.layers
    bare = "Bamba" not in type(model).__name__
    items = encode(tokenizer, probe.items, 256)
    runs = [[run(model, item) for item in items]]
    for place, layer in enumerate(list(layers)):
        layers[place] = Skip(layer, bare)
        runs.append([run(model, item) for item in items])
        layers[place] = layer
    distances = [
        sum(
            float((1 - torch.cosine_similarity(a, b, dim=-1)).mean())
            for (a, _), (b, _) in zip(runs[0], skipped, strict=True)
        )
        / len(items)
        for skipped in runs[1:]
    ]
    return distances, [sum(loss for _, loss in row) / len(items) for row in runs]


@torch.no_grad()
def run(model: nn.Module, item: object) -> tuple[torch.Tensor, float]:
    ids = torch.tensor([item.ids])
    seen = {}
    head = model.get_output_embeddings()
    hook = head.register_forward_hook(lambda m, args, out: seen.update(h=args[0]))
    logits = model(input_ids=ids, use_cache=False).logits[0].double()
    hook.remove()
    places = range(item.start, len(item.ids))
    surprise = [-logits[p - 1].log_softmax(-1)[item.ids[p]] for p in places]
    return seen["h"][0].double(), float(sum(surprise) / len(surprise))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", list(MODELS))
def test_one_pass_equals_a_forward_pass_for_every_skipped_layer(
    models: dict[str, str], name: str
) -> None:
    found = measure_importance(models[name], PROBES, ProbeOptions(batch_size=3))
    for probe in PROBES:
        distances, losses = naive(models[name], probe)
        assert len(distances) == found.layers
        assert found.distances[probe.name] == pytest.approx(distances, abs=2e-4)
        loss = found.loss[probe.name]
        assert [loss.full, *loss.skipped] == pytest.approx(losses, abs=2e-4)
        assert max(distances) > 0.01


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", list(MODELS))
def test_streaming_from_disk_changes_no_bit(models: dict[str, str], name: str) -> None:
    whole = measure_importance(models[name], PROBES, ProbeOptions(batch_size=3))
    streamed = measure_importance(
        models[name], PROBES, ProbeOptions(batch_size=3, stream=True)
    )
    assert streamed == whole


def test_stack_is_named_as_in_a_merge(models: dict[str, str]) -> None:
    found = measure_importance(models["gemma4"], PROBES[:1], ProbeOptions())
    assert (found.stack, found.layers) == ("model.language_model.layers", 12)


def test_batch_size_changes_nothing_but_rounding(models: dict[str, str]) -> None:
    one, many = (
        measure_importance(models["llama"], PROBES, ProbeOptions(batch_size=size))
        for size in (1, 4)
    )
    for probe in PROBES:
        assert one.distances[probe.name] == pytest.approx(
            many.distances[probe.name], abs=1e-6
        )


def test_groups_of_items_change_nothing(
    models: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ProbeOptions(batch_size=2)
    whole = measure_importance(models["llama"], PROBES, options)
    monkeypatch.setattr(skipping, "_MOST_STREAMS", 1)
    assert measure_importance(models["llama"], PROBES, options) == whole


def test_layers_cost_half_a_forward_pass_each(
    models: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    count = []
    real = skipping.apply_layer
    monkeypatch.setattr(
        skipping, "apply_layer", lambda *args: count.append(args[1]) or real(*args)
    )
    monkeypatch.setattr(importance, "check_driving", lambda *args: None)
    measure_importance(models["gemma4"], PROBES[:1], ProbeOptions(batch_size=2))
    assert len(count) == 12 * 13 / 2
    assert count == sorted(count)  # each layer's weights are needed once, in order


def test_a_layer_that_does_nothing_is_at_distance_zero(tmp_path: Path) -> None:
    path = tiny.tiny_llama(tmp_path, 3, layers=3)
    weights = load_file(path / "model.safetensors")
    for name in ("self_attn.o_proj", "mlp.down_proj"):
        weights[f"model.layers.1.{name}.weight"].zero_()
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    found: Importance = measure_importance(str(path), PROBES[:1], ProbeOptions())
    assert found.distances["SUMS"][1] == 0.0
    assert found.loss["SUMS"].skipped[1] == found.loss["SUMS"].full
    assert min(found.distances["SUMS"][0], found.distances["SUMS"][2]) > 0.01


def test_cosine_distance_of_right_angles_opposites_and_tiny_turns() -> None:
    first = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    second = torch.tensor([[0.0, 2.0], [-3.0, 0.0], [1.0, 1e-6], [0.0, 0.0]])
    expected = [1.0, 2.0, 0.5e-12, 0.0]
    assert cosine_distance(first, second).tolist() == pytest.approx(expected, rel=1e-6)


def test_nan_in_hidden_states_names_model_and_layer(tmp_path: Path) -> None:
    path = tiny.tiny_llama(tmp_path, 3, layers=3)
    weights = load_file(path / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"][0, 0] = float("nan")
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    for stream in (False, True):
        with pytest.raises(DarwinError, match=r"layer 1\.") as error:
            measure_importance(str(path), PROBES, ProbeOptions(stream=stream))
        assert str(path) in error.value.message


def test_missing_tokenizer_is_a_clear_error(tmp_path: Path) -> None:
    path = tiny.tiny_llama(tmp_path, 3, tokenizer=False)
    with pytest.raises(DarwinError, match="must have a tokenizer"):
        measure_importance(str(path), PROBES, ProbeOptions())


def test_missing_weights_are_a_clear_error(tmp_path: Path) -> None:
    path = tiny.tiny_llama(tmp_path, 3)
    weights = load_file(path / "model.safetensors")
    del weights["model.layers.1.mlp.down_proj.weight"]
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    for stream in (False, True):
        with pytest.raises(DarwinError, match="down_proj"):
            measure_importance(str(path), PROBES, ProbeOptions(stream=stream))
