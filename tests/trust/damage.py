"""Ways to damage a model's folder: data for the matrix of bad inputs.

Every function takes the folder of a small Llama (config, model.safetensors, tokenizer,
card) and harms it in one way; DAMAGES names them.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

Damage = Callable[[Path], None]

MATRIX = "model.layers.1.mlp.up_proj.weight"
HEAD = "lm_head.weight"
WHOLE = "model-00001-of-00001.safetensors"
BOMB = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
)


def put(name: str, content: str | bytes, folder: Path) -> None:
    """Write a file anew, whatever was there."""
    remove(name, folder)
    data = content.encode() if isinstance(content, str) else content
    (folder / name).write_bytes(data)


def remove(name: str, folder: Path) -> None:
    """Take a file or folder away."""
    path = folder / name
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def make_folder(name: str, folder: Path) -> None:
    """Put an empty folder where a file should be."""
    remove(name, folder)
    (folder / name).mkdir()


def link(name: str, target: str, folder: Path) -> None:
    """Put a symbolic link where a file should be."""
    remove(name, folder)
    (folder / name).symlink_to(target)


def cut(name: str, share: float, folder: Path) -> None:
    """Keep only the first share of a file."""
    data = (folder / name).read_bytes()
    put(name, data[: int(share * len(data))], folder)


def config(change: dict[str, Any], folder: Path) -> None:
    """Change keys of config.json."""
    path = folder / "config.json"
    put("config.json", json.dumps({**json.loads(path.read_text()), **change}), folder)


def config_without(key: str, folder: Path) -> None:
    """Drop a key of config.json."""
    content = json.loads((folder / "config.json").read_text())
    content.pop(key)
    put("config.json", json.dumps(content), folder)


def header(change: Callable[[dict[str, Any]], Any], folder: Path) -> None:
    """Change the header of model.safetensors, its data as it was."""
    path = folder / "model.safetensors"
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    content = json.loads(data[8 : 8 + length])
    changed = change(content)
    text = json.dumps(content if changed is None else changed).encode()
    put(path.name, struct.pack("<Q", len(text)) + text + data[8 + length :], folder)


def raw_header(text: bytes, length: int | None, folder: Path) -> None:
    """Put other bytes where the header of model.safetensors should be."""
    size = len(text) if length is None else length
    put("model.safetensors", struct.pack("<Q", size) + text, folder)


def tensors(change: Callable[[dict[str, Any]], None], folder: Path) -> None:
    """Change the tensors of model.safetensors."""
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    state = load_file(path)
    change(state)
    remove(path.name, folder)
    save_file(state, path, metadata={"format": "pt"})


def as_type(dtype: str, state: dict[str, Any]) -> None:
    """Store one matrix in a type that is no weight's."""
    import torch

    state[MATRIX] = (state[MATRIX].float() * 100).to(getattr(torch, dtype))


def spoil(name: str, value: float, state: dict[str, Any]) -> None:
    """Put one value into a tensor that is not finite."""
    state[name].view(-1)[17] = value


def lose(name: str, state: dict[str, Any]) -> None:
    """Drop a tensor."""
    del state[name]


def reshape(name: str, state: dict[str, Any]) -> None:
    """Give a matrix one row less."""
    state[name] = state[name][1:].clone()


def index(shard: str, folder: Path) -> None:
    """Replace the weights by an index that sends every tensor to a shard."""
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", "pt") as stored:
        names = list(stored.keys())
    (folder / "model.safetensors").rename(folder / "moved.away")
    content = {"metadata": {}, "weight_map": dict.fromkeys(names, shard)}
    put("model.safetensors.index.json", json.dumps(content), folder)


def sharded(mapped: dict[str, Any], folder: Path) -> None:
    """Put an index in front of the weights that maps these names, all others well."""
    index(WHOLE, folder)
    (folder / "moved.away").rename(folder / WHOLE)
    path = folder / "model.safetensors.index.json"
    content = json.loads(path.read_text())
    content["weight_map"] = {**content["weight_map"], **mapped} if mapped else {}
    path.write_text(json.dumps(content))


def index_half(absent: str, folder: Path) -> None:
    """Put an index in front of the weights that sends one of them to no file."""
    sharded({MATRIX: absent}, folder)


def make_fifo(name: str, folder: Path) -> None:
    """Put a fifo that nobody writes to where a file should be."""
    remove(name, folder)
    os.mkfifo(folder / name)


def marked(name: str, folder: Path) -> None:
    """Put the mark of some editors in front of a file, and Windows' line ends in it."""
    text = (folder / name).read_text()
    (folder / name).write_bytes("\ufeff".encode() + text.replace("\n", "\r\n").encode())


def pickled(payload: bytes | None, folder: Path) -> None:
    """Replace the weights by a .bin: a payload's bytes, or an object that would run."""
    import pickle

    class Runs:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return (os.mkdir, (str(folder / "EXECUTED"),))

    remove("model.safetensors", folder)
    data = pickle.dumps(Runs()) if payload is None else payload
    put("pytorch_model.bin", data, folder)


def tokens(count: int, folder: Path) -> None:
    """Give the tokenizer more tokens than the embedding has rows, digits among them."""
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    for i in range(count):
        vocabulary[f"<more {i}>"] = len(vocabulary)
    size = len(vocabulary)
    moved = {name: (i - 60) % size for name, i in vocabulary.items()}
    content["model"]["vocab"] = moved
    put("tokenizer.json", json.dumps(content), folder)


def card(head: str, folder: Path) -> None:
    """Give the model a card with this front matter."""
    put("README.md", f"---\n{head}\n---\n# a model\n", folder)


def _overlap(rows: dict[str, Any]) -> None:
    rows[MATRIX]["data_offsets"] = rows[HEAD]["data_offsets"]


def _beyond(rows: dict[str, Any]) -> None:
    begin, end = rows[MATRIX]["data_offsets"]
    rows[MATRIX]["data_offsets"] = [begin + (1 << 40), end + (1 << 40)]


def _set(name: str, key: str, value: Any, rows: dict[str, Any]) -> None:
    rows[name][key] = value


def _rename(name: str, to: str, rows: dict[str, Any]) -> None:
    rows[to] = rows.pop(name)


def _drop_key(name: str, key: str, rows: dict[str, Any]) -> None:
    rows[name].pop(key)


DEEP = "[" * 200_000

DAMAGES: dict[str, Damage] = {
    "config missing": partial(remove, "config.json"),
    "config empty": partial(put, "config.json", ""),
    "config no JSON": partial(put, "config.json", "model_type: llama"),
    "config a list": partial(put, "config.json", "[1, 2]"),
    "config a number": partial(put, "config.json", "7"),
    "config null": partial(put, "config.json", "null"),
    "config cut": partial(cut, "config.json", 0.5),
    "config nested deeply": partial(put, "config.json", DEEP),
    "config other bytes": partial(put, "config.json", b"\xff\xfe\x00{"),
    "config a folder": partial(make_folder, "config.json"),
    "config a dangling link": partial(link, "config.json", "nowhere.json"),
    "model_type unknown": partial(config, {"model_type": "quatsch"}),
    "model_type missing": partial(config_without, "model_type"),
    "model_type a number": partial(config, {"model_type": 3}),
    "architectures a word": partial(config, {"architectures": "LlamaForCausalLM"}),
    "architectures empty": partial(config, {"architectures": []}),
    "architectures null": partial(config, {"architectures": None}),
    "architectures unknown": partial(config, {"architectures": ["Quatsch"]}),
    "hidden_size a word": partial(config, {"hidden_size": "wide"}),
    "hidden_size null": partial(config, {"hidden_size": None}),
    "hidden_size 0": partial(config, {"hidden_size": 0}),
    "hidden_size other": partial(config, {"hidden_size": 64}),
    "layers a word": partial(config, {"num_hidden_layers": "two"}),
    "layers -1": partial(config, {"num_hidden_layers": -1}),
    "layers 0": partial(config, {"num_hidden_layers": 0}),
    "layers 3 of 2": partial(config, {"num_hidden_layers": 3}),
    "layers a billion": partial(config, {"num_hidden_layers": 10**9}),
    "layers 2.5": partial(config, {"num_hidden_layers": 2.5}),
    "heads 3": partial(config, {"num_attention_heads": 3}),
    "heads 0": partial(config, {"num_attention_heads": 0}),
    "vocab_size a billion": partial(config, {"vocab_size": 10**9}),
    "vocab_size -5": partial(config, {"vocab_size": -5}),
    "dtype unknown": partial(config, {"dtype": "float7", "torch_dtype": "float7"}),
    "rope garbage": partial(config, {"rope_parameters": [1]}),
    "tied a word": partial(config, {"tie_word_embeddings": "perhaps"}),
    "auto_map to code": partial(
        config, {"auto_map": {"AutoConfig": "evil.Config"}, "model_type": "evil"}
    ),
    "architectures of numbers": partial(config, {"architectures": [3]}),
    "config with a mark": partial(marked, "config.json"),
    "config a device": partial(link, "config.json", "/dev/zero"),
    "tokenizer a fifo": partial(make_fifo, "tokenizer.json"),
    "card a fifo": partial(make_fifo, "README.md"),
    "weights a device": partial(link, "model.safetensors", "/dev/zero"),
    "weights missing": partial(remove, "model.safetensors"),
    "weights empty": partial(put, "model.safetensors", ""),
    "weights cut": partial(cut, "model.safetensors", 0.6),
    "weights cut in the header": partial(cut, "model.safetensors", 0.01),
    "weights a folder": partial(make_folder, "model.safetensors"),
    "weights a dangling link": partial(link, "model.safetensors", "nowhere"),
    "header of 2^62 bytes": partial(raw_header, b"{}", 1 << 62),
    "header no JSON": partial(raw_header, b"not a header at all", None),
    "header a list": partial(raw_header, b"[]", None),
    "header empty": partial(raw_header, b"{}", None),
    "header nested deeply": partial(raw_header, DEEP.encode(), None),
    "offsets of words": partial(header, partial(_set, MATRIX, "data_offsets", ["a"])),
    "shape of a half": partial(header, partial(_set, MATRIX, "shape", [1.5, 2])),
    "a name of controls": partial(header, partial(_rename, MATRIX, "\x1b[2J\nx")),
    "offsets overlap": partial(header, _overlap),
    "offsets beyond": partial(header, _beyond),
    "offsets missing": partial(header, partial(_drop_key, MATRIX, "data_offsets")),
    "dtype F7": partial(header, partial(_set, MATRIX, "dtype", "F7")),
    "shape lies": partial(header, partial(_set, MATRIX, "shape", [1 << 31, 1 << 31])),
    "shape negative": partial(header, partial(_set, MATRIX, "shape", [-1, 4])),
    "index to no shard": partial(index, "model-00001-of-00002.safetensors"),
    "index outside": partial(index, "../father/model.safetensors"),
    "index half absent": partial(index_half, "model-00002-of-00002.safetensors"),
    "index map empty": partial(sharded, {}),
    "index names a stranger": partial(sharded, {"no.such.weight": WHOLE}),
    "index maps to a number": partial(sharded, {MATRIX: 3}),
    "index a fifo": lambda folder: (
        remove("model.safetensors", folder),
        os.mkfifo(folder / "model.safetensors.index.json"),
    )[0],
    "index no JSON": lambda folder: (
        remove("model.safetensors", folder),
        put("model.safetensors.index.json", "{", folder),
    )[0],
    "index a list": lambda folder: (
        remove("model.safetensors", folder),
        put("model.safetensors.index.json", "[]", folder),
    )[0],
    "index without map": lambda folder: (
        remove("model.safetensors", folder),
        put("model.safetensors.index.json", "{}", folder),
    )[0],
    "bin garbage": partial(pickled, b"garbage"),
    "bin that runs": partial(pickled, None),
    "int8 matrix": partial(tensors, partial(as_type, "int8")),
    "uint8 matrix": partial(tensors, partial(as_type, "uint8")),
    "bool matrix": partial(tensors, partial(as_type, "bool")),
    "complex matrix": partial(tensors, partial(as_type, "complex64")),
    "NaN in a matrix": partial(tensors, partial(spoil, MATRIX, float("nan"))),
    "Inf in the head": partial(tensors, partial(spoil, HEAD, float("inf"))),
    "matrix missing": partial(tensors, partial(lose, MATRIX)),
    "matrix of other shape": partial(tensors, partial(reshape, MATRIX)),
    "tokenizer missing": lambda folder: (
        remove("tokenizer.json", folder),
        remove("tokenizer_config.json", folder),
    )[0],
    "tokenizer garbage": partial(put, "tokenizer.json", "garbage"),
    "tokenizer nested deeply": partial(put, "tokenizer.json", DEEP),
    "tokenizer_config a list": partial(put, "tokenizer_config.json", "[]"),
    "tokenizer class unknown": partial(
        put, "tokenizer_config.json", '{"tokenizer_class": "Quatsch"}'
    ),
    "longest text a word": partial(
        put, "tokenizer_config.json", '{"model_max_length": "x"}'
    ),
    "more tokens than rows": partial(tokens, 50),
    "card a bomb": partial(card, BOMB),
    "card nested deeply": partial(card, "mergekit_darwin: " + "[" * 5000),
    "card lies": partial(card, "mergekit_darwin: {generation: many}"),
    "card of itself": partial(card, "mergekit_darwin: &a {generation: 1, father: *a}"),
    "card other bytes": partial(put, "README.md", b"---\n\xff\xfe\n---\n"),
}
