"""Ways to break a merged model, and merges that are good: data for tests and tables.

A family is a folder with base, father and mother, sibling models of one shape. Every
case writes a whole child into a folder; `broken` ones are a fair merge (the mean of the
parents) with one fault put in.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file

State = dict[str, torch.Tensor]
Fault = Callable[[State, Path, Path], None]  # tensors, child's folder, family

GENOMES: dict[str, dict[str, Any]] = {
    "neutral": {},
    "attention of Father, FFN of Mother": {
        "attn_ratio": 0.05,
        "ffn_ratio": 0.95,
        "mri_trust": 0.0,
    },
    "thin": {"density_a": 0.5, "density_b": 0.6, "ffn_ratio": 0.7},
    "both task vectors whole": {"lambda": 2.0, "density_a": 1.0, "density_b": 1.0},
    "mostly transplants": {
        "mri_trust": 0.0,
        "block_0_ratio": 0.0,
        "block_1_ratio": 0.0,
        "block_2_ratio": 1.0,
        "attn_ratio": 0.1,
        "ffn_ratio": 0.9,
    },
}


def recipe(family: Path, method: str, base: bool = True, **parameters: Any) -> dict:
    """Return a mergekit configuration over the family; `weight` goes to each parent."""
    weight = parameters.pop("weight", None)
    density = parameters.pop("density", None)
    own = {
        key: value
        for key, value in (("weight", weight), ("density", density))
        if value is not None
    }
    models = [
        {"model": str(family / name), **({"parameters": dict(own)} if own else {})}
        for name in ("father", "mother")
    ]
    config: dict[str, Any] = {"merge_method": method, "models": models}
    if base:
        config["base_model"] = str(family / "base")
    if parameters:
        config["parameters"] = parameters
    return config


def good_recipes(family: Path) -> dict[str, dict]:
    """Return merges that are fine, by name."""
    slerp = recipe(family, "slerp", base=False, t=0.5)
    slerp["base_model"] = str(family / "father")
    halves = recipe(family, "linear", base=False, weight=0.5)
    rows = {
        "linear 0.5": halves,
        "slerp 0.5": slerp,
        "nuslerp": recipe(family, "nuslerp", base=False, weight=0.5),
        "task arithmetic 1+1": recipe(family, "task_arithmetic", weight=1.0),
        "task arithmetic 0.5": recipe(family, "task_arithmetic", weight=0.5),
        "ties 0.5": recipe(family, "ties", weight=0.5, density=0.5),
        "dare_ties 0.5": recipe(family, "dare_ties", weight=0.5, density=0.5),
        "dare_linear 0.3": recipe(family, "dare_linear", weight=0.5, density=0.3),
        "dare_ties 1+1": recipe(family, "dare_ties", weight=1.0, density=0.8),
        "della": recipe(family, "della", weight=0.5, density=0.5, epsilon=0.1),
        "breadcrumbs": recipe(family, "breadcrumbs", weight=0.5, density=0.9),
        "model_stock": recipe(family, "model_stock"),
    }
    for name, genes in GENOMES.items():
        rows[f"darwin_v6 {name}"] = recipe(family, "darwin_v6", **genes)
    return rows


def merge(config: dict, out: Path) -> Path:
    """Run mergekit on a configuration; returns the child's folder."""
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    from mergekit_darwin.merge.method import register

    register()
    text = yaml.safe_dump(config, sort_keys=False)
    run_merge(
        MergeConfiguration.model_validate(config),
        str(out),
        options=MergeOptions(copy_tokenizer=True, quiet=True, random_seed=1),
        config_source=text,
    )
    return out


def states(family: Path, name: str) -> State:
    """Return a family member's tensors."""
    return load_file(family / name / "model.safetensors")


def write_child(state: State, family: Path, out: Path) -> Path:
    """Write tensors with the Father's config and tokenizer; returns the folder."""
    out.mkdir(parents=True)
    for file in (family / "father").iterdir():
        if file.is_file() and not file.name.startswith("model"):
            shutil.copy(file, out / file.name)
    tensors = {name: row.contiguous().clone() for name, row in state.items()}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    return out


def edit_config(folder: Path, **values: Any) -> None:
    """Set values in a child's config.json."""
    file = folder / "config.json"
    config = json.loads(file.read_text())
    config.update(values)
    file.write_text(json.dumps(config))


def layer_names(state: State, layer: int, part: str = "") -> list[str]:
    """Return the names of one layer's tensors, those of a part only."""
    place = f"model.layers.{layer}."
    return [name for name in state if name.startswith(place) and part in name]


def _noise(like: torch.Tensor, seed: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(like.shape, generator=draw)


def _zero_layer(state: State, out: Path, family: Path) -> None:
    for name in layer_names(state, 2):
        state[name] = torch.zeros_like(state[name])


def _negate_layer(state: State, out: Path, family: Path) -> None:
    for name in layer_names(state, 3):
        state[name] = -state[name]


def _swap_layers(state: State, out: Path, family: Path) -> None:
    for name in layer_names(state, 1):
        other = name.replace(".1.", ".4.")
        state[name], state[other] = state[other], state[name]


def _duplicate_layer(state: State, out: Path, family: Path) -> None:
    for name in layer_names(state, 2):
        state[name.replace(".2.", ".3.")] = state[name]


def _one_nan(state: State, out: Path, family: Path) -> None:
    state["model.layers.1.mlp.up_proj.weight"].view(-1)[17] = torch.nan


def _one_inf(state: State, out: Path, family: Path) -> None:
    state["model.layers.4.self_attn.v_proj.weight"].view(-1)[5] = torch.inf


def _head_order(state: State, out: Path, family: Path) -> None:
    heads = json.loads((out / "config.json").read_text())["num_attention_heads"]
    name = "model.layers.2.self_attn.q_proj.weight"
    rows = state[name]
    split = rows.view(heads, -1, rows.shape[1])
    state[name] = split.roll(1, dims=0).reshape(rows.shape)


def _permute_embedding(state: State, out: Path, family: Path) -> None:
    name = "model.embed_tokens.weight"
    order = torch.randperm(
        state[name].shape[0], generator=torch.Generator().manual_seed(5)
    )
    state[name] = state[name][order]


def _transpose(state: State, out: Path, family: Path) -> None:
    name = "model.layers.3.self_attn.o_proj.weight"
    state[name] = state[name].T.contiguous()


def _norms_by_three(state: State, out: Path, family: Path) -> None:
    for name in state:
        if "norm" in name:
            state[name] = 3 * state[name]


def _all_father(state: State, out: Path, family: Path) -> None:
    state.update(states(family, "father"))


def _all_base(state: State, out: Path, family: Path) -> None:
    state.update(states(family, "base"))


def _mother_ffn_doubled_norms(state: State, out: Path, family: Path) -> None:
    state.update(states(family, "father"))
    for name, row in states(family, "mother").items():
        if ".mlp." in name:
            state[name] = row
    for name in state:
        if "layernorm" in name:
            state[name] = 2 * state[name]


def _three_bits(state: State, out: Path, family: Path) -> None:
    for name, row in state.items():
        mantissa, exponent = torch.frexp(row.float())
        state[name] = torch.ldexp((mantissa * 16).round() / 16, exponent).to(row.dtype)


def _noisy_layer(state: State, out: Path, family: Path) -> None:
    for name in layer_names(state, 3, "proj"):
        row = state[name].float()
        state[name] = (row + 0.5 * row.std() * _noise(row, 3)).to(state[name].dtype)


def _scale_layer(state: State, out: Path, family: Path) -> None:
    for name in layer_names(state, 4, "down_proj"):
        state[name] = 6 * state[name]


def _drop_tensor(state: State, out: Path, family: Path) -> None:
    del state["model.layers.2.mlp.down_proj.weight"]


def _flip_tying(state: State, out: Path, family: Path) -> None:
    tied = json.loads((out / "config.json").read_text())["tie_word_embeddings"]
    edit_config(out, tie_word_embeddings=not tied)


def _other_tokenizer(state: State, out: Path, family: Path) -> None:
    file = out / "tokenizer.json"
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    names = sorted(vocabulary, key=lambda name: (vocabulary[name] >= 256, name[::-1]))
    content["model"]["vocab"] = {name: i for i, name in enumerate(names)}
    file.write_text(json.dumps(content, ensure_ascii=False))


def _rope(state: State, out: Path, family: Path) -> None:
    config = json.loads((out / "config.json").read_text())
    values = dict(config.get("rope_parameters") or {})
    values["rope_theta"] = 64 * float(values.get("rope_theta", 10000.0))
    edit_config(out, rope_parameters=values)


def _zero_rows(state: State, out: Path, family: Path) -> None:
    state["model.layers.2.mlp.down_proj.weight"][8:16] = 0.0


def _swap_two_heads(state: State, out: Path, family: Path) -> None:
    heads = json.loads((out / "config.json").read_text())["num_attention_heads"]
    name = "model.layers.4.self_attn.o_proj.weight"
    split = state[name].clone().view(state[name].shape[0], heads, -1)
    split[:, [0, 1]] = split[:, [1, 0]]
    state[name] = split.reshape(state[name].shape)


def _shift_last_rows(state: State, out: Path, family: Path) -> None:
    rows = state["model.embed_tokens.weight"]
    rows[-16:] = rows[-16:].roll(1, dims=0)


@dataclass(frozen=True)
class Broken:
    """A fault, and the rules of which one at least must find it."""

    fault: Fault
    rules: frozenset[str]


def _case(fault: Fault, *rules: str) -> Broken:
    return Broken(fault, frozenset(rules))


BROKEN: dict[str, Broken] = {
    "one layer zeroed": _case(_zero_layer, "dead_tensor"),
    "one layer negated": _case(_negate_layer, "turned"),
    "two layers swapped": _case(_swap_layers, "turned", "stray"),
    "a layer duplicated over another": _case(_duplicate_layer, "duplicate"),
    "one NaN": _case(_one_nan, "nan"),
    "one Inf": _case(_one_inf, "inf"),
    "q_proj with another head order": _case(_head_order, "turned", "stray"),
    "embedding rows permuted": _case(_permute_embedding, "turned", "stray"),
    "o_proj transposed": _case(_transpose, "turned", "stray"),
    "eight rows zeroed": _case(_zero_rows, "lines"),
    "two heads swapped in o_proj": _case(_swap_two_heads, "lines", "turned"),
    "the last 16 embedding rows shifted": _case(_shift_last_rows, "lines"),
    "norms scaled by 3": _case(_norms_by_three, "norm_range", "stray"),
    "everything from the Father": _case(_all_father, "nothing_changed"),
    "everything from the base": _case(_all_base, "nothing_changed"),
    "Mother's FFN, Father's norms doubled": _case(_mother_ffn_doubled_norms, "stray"),
    "rounded to 3 mantissa bits": _case(_three_bits, "coarse"),
    "noise of half a std on one layer": _case(_noisy_layer, "stray"),
    "down_proj of one layer times 6": _case(_scale_layer, "std_range", "stray"),
    "a tensor missing": _case(_drop_tensor, "missing_tensor"),
    "head tied or untied wrongly": _case(_flip_tying, "head_tying", "missing_tensor"),
    "tokenizer of another model": _case(_other_tokenizer, "tokenizer"),
    "another RoPE base": _case(_rope, "config"),
}


def break_child(name: str, family: Path, out: Path) -> Path:
    """Write the mean of the parents with one fault in it; returns the folder."""
    father, mother = states(family, "father"), states(family, "mother")
    state = {
        key: ((father[key].float() + mother[key].float()) / 2).to(father[key].dtype)
        for key in father
    }
    write_child(state, family, out)
    BROKEN[name].fault(state, out, family)
    tensors = {key: row.contiguous().clone() for key, row in state.items()}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    return out
