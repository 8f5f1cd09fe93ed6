"""What a refit promises: exact where it can be, whole or not at all, one line else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from mergekit_darwin.api.breeding import refit_child
from mergekit_darwin.errors import DarwinError
from mergekit_darwin.models.opened import open_model
from mergekit_darwin.refit.order import find_stages
from mergekit_darwin.refit.report import Losses, read_refit, verdict_of
from mergekit_darwin.refit.solve import Moments, add_gram, change, gram, mirror, product
from mergekit_darwin.scan.decoder import open_decoder
from mergekit_darwin.scan.probes import Probe, ProbeItem
from mergekit_darwin.talk import ProbeOptions
from tests.tiny import nudged, save, tiny_llama

LETTERS = "etaoin shrdlu cmfwyp vbgkqj xz.,;ETAOIN"


def noise(seed: int, items: int, length: int) -> tuple[ProbeItem, ...]:
    """Return texts of random letters, so that few tokens span all directions."""
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randint(len(LETTERS), (items, length), generator=draw).tolist()
    texts = ["".join(LETTERS[i] for i in row) for row in rows]
    return tuple(ProbeItem(text[:4], text[4:]) for text in texts)


def probe(name: str, seed: int, items: int = 40, length: int = 40) -> Probe:
    """Return a probe of random letters."""
    return Probe(name, noise(seed, items, length), 1.0)


@pytest.fixture(scope="module")
def general(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """General texts: a folder with one probe."""
    folder = tmp_path_factory.mktemp("keep")
    rows = noise(9, 30, 60)
    lines = [json.dumps({"prompt": r.prompt, "completion": r.completion}) for r in rows]
    (folder / "plain.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A base, two float32 siblings of 2 layers, their mean, Father with her maps."""
    root = tmp_path_factory.mktemp("refit")
    tiny_llama(root / "base", 1, layers=2, hidden=16)
    nudged(root / "base", root / "father", 2)
    nudged(root / "base", root / "mother", 3)
    for name in ("mean", "maps"):
        nudged(root / "base", root / name, 2)
    one, two = (
        load_file(root / name / "model.safetensors") for name in ("father", "mother")
    )
    maps = {name: two[name] if "proj" in name else one[name] for name in one}
    save_file(maps, root / "maps" / "model.safetensors", {"format": "pt"})
    mean = {name: (one[name] + two[name]) / 2 for name in one}
    save_file(mean, root / "mean" / "model.safetensors", {"format": "pt"})
    return {n: str(root / n) for n in ("base", "father", "mother", "mean", "maps")}


def weights(folder: object) -> dict[str, torch.Tensor]:
    """Return all tensors of a checkpoint of one file."""
    return load_file(Path(str(folder)) / "model.safetensors")


def test_change_is_the_textbook_solution() -> None:
    """With shares of 1 / tokens it is ridge regression in units of the inputs."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(50, 6, generator=draw, dtype=torch.float64) * torch.arange(1, 7)
    r = torch.randn(50, 3, generator=draw, dtype=torch.float64)
    held = torch.randn(80, 6, generator=draw, dtype=torch.float64)
    parts = [
        (1 / 50, Moments(gram(x), product(x, r))),
        (2 / 80, Moments(gram(held))),
    ]
    scale = ((x**2).mean(0) + 2 * (held**2).mean(0)).sqrt()
    rows = [x / 50**0.5, (2 / 80) ** 0.5 * held, 0.1 * torch.diag(scale)]
    wanted = torch.zeros(50 + 80 + 6, 3, dtype=torch.float64)
    wanted[:50] = r / 50**0.5
    solution = torch.linalg.lstsq(torch.cat(rows), wanted).solution
    torch.testing.assert_close(change(parts, 0.01), solution.T, rtol=1e-9, atol=1e-12)


def test_dead_inputs_and_too_few_tokens_get_the_ridges_answer() -> None:
    """A zero input is not used; three tokens for six inputs give a finite change."""
    x = torch.zeros(3, 6, dtype=torch.float64)
    draw = torch.Generator().manual_seed(0)
    x[:, :4] = torch.randn(3, 4, generator=draw, dtype=torch.float64)
    r = torch.ones(3, 2, dtype=torch.float64)
    found = change([(1 / 3, Moments(gram(x), product(x, r)))], 1e-6)
    assert torch.equal(found[:, 4:], torch.zeros(2, 2, dtype=torch.float64))
    torch.testing.assert_close(x @ found.T, r, rtol=0.0, atol=1e-3)


@pytest.mark.parametrize("size", [1, 255, 256, 257, 700])
def test_a_gram_matrix_is_the_product_with_itself(size):
    x = torch.randn(4100, size, generator=torch.Generator().manual_seed(size))
    assert torch.allclose(gram(x), x.double().T @ x.double(), rtol=1e-12, atol=1e-9)
    half = add_gram(gram(x), x, 0.5)
    assert torch.allclose(mirror(half), 1.5 * gram(x), rtol=1e-12, atol=1e-9)
    assert torch.equal(gram(x), gram(x).T)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused(bad: float) -> None:
    """Moments with NaN or Inf give one line, no weights."""
    xx = torch.eye(2, dtype=torch.float64)
    with pytest.raises(DarwinError, match="finite"):
        change([(1.0, Moments(xx, torch.full((2, 2), bad, dtype=torch.float64)))], 0.0)


def test_singular_moments_without_a_ridge_are_refused() -> None:
    """Two equal inputs leave no single answer."""
    ones = torch.ones(2, 2, dtype=torch.float64)
    with pytest.raises(DarwinError, match="singular"):
        change([(1.0, Moments(ones, ones))], 0.0)


def test_child_that_is_its_parents_stays_bit_for_bit(
    pair: dict[str, str], general: Path, tmp_path: Path
) -> None:
    """Nothing is lacking, so that every change is zero, or rounds to nothing."""
    report = refit_child(
        pair["father"],
        pair["father"],
        pair["father"],
        out=tmp_path / "out",
        probes=[probe("ONE", 1, 6)],
        keep_texts=general,
        targets="output",
    )
    before, after = weights(pair["father"]), weights(tmp_path / "out")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert report.maps == 2 and len(report.left) == 6
    assert report.general.before == report.general.after


def test_with_one_parent_alone_the_child_becomes_it(
    pair: dict[str, str], general: Path, tmp_path: Path
) -> None:
    """With other maps, all else his, enough tokens, no general text: his outputs."""
    report = refit_child(
        pair["maps"],
        pair["father"],
        pair["father"],
        out=tmp_path / "out",
        probes=[probe("ONE", 1, 60)],
        keep_texts=general,
        keep_weight=0.0,
        ridge=1e-9,
        maps="all",
    )
    first, last = report.layers[0], report.layers[-1]
    assert first.father_before > 0.02
    assert last.father_after < 1e-4
    wanted = pytest.approx(report.father_texts.father, abs=1e-5)
    assert report.father_texts.after == wanted


def test_two_parents_are_both_nearer_than_before_and_bytes_repeat(
    pair: dict[str, str], general: Path, tmp_path: Path
) -> None:
    """Refit of the mean: nearer to each parent on its texts; the same bytes again."""
    probes = [probe("ONE", 1), probe("TWO", 2)]
    for name in ("out", "again"):
        report = refit_child(
            pair["mean"],
            pair["father"],
            pair["mother"],
            out=tmp_path / name,
            probes=probes,
            father_probes=["one"],
            mother_probes=["TWO"],
            keep_texts=general,
        )
    for row in report.layers:
        assert row.father_after < row.father_before
        assert row.mother_after < row.mother_before
    first, second = (
        (tmp_path / name / "model.safetensors").read_bytes()
        for name in ("out", "again")
    )
    assert first == second
    assert read_refit(tmp_path / "out").texts["father"].probes.keys() == {"ONE"}
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert {"README.md", "refit.json", "refit.png", "manifest.json"} <= names
    moved = weights(tmp_path / "out")
    kept = weights(pair["mean"])
    same = {name for name in kept if torch.equal(kept[name], moved[name])}
    assert same == {name for name in kept if "down_proj" not in name}


def test_streamed_and_whole_models_give_the_same_weights(
    pair: dict[str, str], general: Path, tmp_path: Path
) -> None:
    """One layer in memory at a time changes no bit."""
    for name, stream in (("whole", False), ("stream", True)):
        refit_child(
            pair["mean"],
            pair["father"],
            pair["mother"],
            pair["base"],
            out=tmp_path / name,
            probes=[probe("ONE", 1, 10), probe("TWO", 2, 10)],
            father_probes=["ONE"],
            mother_probes=["TWO"],
            keep_texts=general,
            rho=1.5,
            maps="writers",
            stream=stream,
        )
    one, two = weights(tmp_path / "whole"), weights(tmp_path / "stream")
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_errors_leave_nothing_behind(pair: dict[str, str], tmp_path: Path) -> None:
    """An unknown probe, a taken folder, another shape: one line, no output."""
    other = tiny_llama(tmp_path / "other", 4, layers=2, hidden=32)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    cases = (
        ({"father_probes": ["ONES"]}, pair["father"], "out", "Did you mean"),
        ({}, pair["father"], "taken", "new or an empty folder"),
        ({}, str(other), "out", "must have the same weights"),
        ({"ridge": -1.0}, pair["father"], "out", "ridge must be"),
        ({"rigde": 1.0}, pair["father"], "out", "no option 'rigde'"),
        ({"rho": 2.0}, pair["father"], "out", "needs the --base"),
    )
    for options, father, out, words in cases:
        with pytest.raises(DarwinError, match=words):
            refit_child(
                pair["mean"],
                father,
                pair["mother"],
                out=tmp_path / out,
                probes=[probe("ONE", 1, 2)],
                **options,
            )
    assert {file.name for file in tmp_path.iterdir()} == {"other", "taken"}


def test_general_text_is_lost_above_five_per_cent_of_the_worse_parents_loss() -> None:
    """The worse parent is the line, not the better one or the child before."""
    near = Losses(father=3.0, mother=4.0, before=3.0, after=4.19)
    far = Losses(father=3.0, mother=4.0, before=5.0, after=4.21)
    assert (verdict_of(near), verdict_of(far)) == ("sound", "general text lost")


def test_writers_of_the_stream_are_found_by_pushing(pair: dict[str, str]) -> None:
    """In a Llama they are o and down; q, of the hidden size too, is none."""
    with torch.no_grad():
        decoder = open_decoder(open_model(pair["base"], ProbeOptions()))
        stages = find_stages(decoder, 1)
        assert [stage.maps for stage in stages] == [
            ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
            ("self_attn.o_proj",),
            ("mlp.gate_proj", "mlp.up_proj"),
            ("mlp.down_proj",),
        ]
        scales = [stage.scales for stage in stages]
        assert scales[0] == (None, None, None) and scales[2] == (None, None)
        assert scales[1][0] == pytest.approx(1.0, abs=1e-3)
        assert scales[3][0] == pytest.approx(1.0, abs=1e-3)
    assert isinstance(decoder.layers[0].get_submodule("mlp.up_proj"), nn.Linear)


def toy(kind: str) -> PreTrainedModel:
    """Return a tiny random model whose layers are built in another way."""
    sizes = {"vocab_size": 260, "bos_token_id": 257, "eos_token_id": 258}
    common = {
        **sizes,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "pad_token_id": 256,
    }
    if kind == "gpt2":
        return GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=2, n_head=2, **sizes))
    if kind == "mixtral":
        return MixtralForCausalLM(MixtralConfig(num_local_experts=3, **common))
    if kind == "qwen3_moe":
        moe = {"moe_intermediate_size": 8, "num_experts": 4, "num_experts_per_tok": 2}
        return Qwen3MoeForCausalLM(Qwen3MoeConfig(**common, **moe))
    return Gemma3ForCausalLM(Gemma3TextConfig(**common))


@pytest.mark.parametrize("kind", ["gpt2", "mixtral", "qwen3_moe", "gemma3"])
def test_layers_of_other_kinds_become_the_parents(
    kind: str, general: Path, tmp_path: Path
) -> None:
    """Conv1D with biases, fused experts, norms behind maps: all maps are found."""
    save(toy(kind), tmp_path / "father", 1, scale=0.2)
    for name, seed in (("mother", 3), ("child", 3)):
        nudged(tmp_path / "father", tmp_path / name, seed)
    one, two = (weights(tmp_path / name) for name in ("father", "mother"))
    rest = ("norm", "ln_", "wte", "wpe", "embed", "head", ".gate.weight")
    child = {n: one[n] if any(x in n for x in rest) else two[n] for n in one}
    save_file(child, tmp_path / "child" / "model.safetensors", {"format": "pt"})
    report = refit_child(
        *(str(tmp_path / name) for name in ("child", "father", "father")),
        out=tmp_path / "out",
        probes=[probe("ONE", 1, 60)],
        keep_texts=general,
        keep_weight=0.0,
        ridge=1e-9,
        maps="all",
    )
    last = report.layers[-1]
    assert last.father_before > 0.02
    assert last.father_after < 0.01 * last.father_before
    after = weights(tmp_path / "out")
    assert {n: t.shape for n, t in after.items()} == {
        n: t.shape for n, t in child.items()
    }
    assert not any("expert" in n and torch.equal(after[n], child[n]) for n in after)
    assert all(torch.equal(after[n], one[n]) for n in one if child[n] is one[n])
