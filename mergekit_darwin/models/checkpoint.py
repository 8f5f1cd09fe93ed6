"""Models on disk, through mergekit's own loaders: their headers and identity.

Nothing here reads a whole model: headers cost kilobytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from mergekit.common import ModelReference
from mergekit.io import ShardedTensorIndex
from mergekit.io.tasks import LoaderCache
from mergekit.options import MergeOptions

from mergekit_darwin.errors import DarwinError, about, some
from mergekit_darwin.models.checks import check_config, check_files, check_shards

_SAMPLE = 64  # bytes taken from the middle of every tensor for the digest
_AGAIN = "Download or save the model again."
_NO_WEIGHTS = {  # as safetensors and torch name them
    *("i8", "u8", "i16", "u16", "i32", "u32", "bool", "c64"),
    *("int8", "uint8", "int16", "uint16", "int32", "uint32"),
    *("complex64", "complex128", "quint8", "qint8", "qint32"),
}
_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}


@dataclass(frozen=True)
class TensorHeader:
    """One tensor as its file declares it; dtype by torch's name (or the file's)."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Checkpoint:
    """One model's files: where they lie and what their headers say."""

    reference: ModelReference
    path: str
    headers: Mapping[str, TensorHeader]
    safetensors: bool

    @cached_property
    def kind(self) -> str | None:
        """The model_type of its configuration, which says how layouts are converted."""
        trusted = LoaderCache().trust_remote_code
        config: Any = self.reference.config(trust_remote_code=trusted)
        kind: str | None = config.model_type
        return kind

    @cached_property
    def digest(self) -> str:
        """16 hex digits over names, shapes, dtypes, sizes and a sample of every tensor.

        The sample (64 bytes from the middle of each tensor; of other files the
        checksums they carry, or all bytes) tells siblings apart, which share names,
        shapes and sizes. Source: our choice.
        """
        mark = hashlib.sha256()
        for name in sorted(self.headers):
            header = self.headers[name]
            row = [name, header.dtype, list(header.shape)]
            mark.update(json.dumps(row).encode())
        if self.safetensors:
            for file in sorted(Path(self.path).glob("*.safetensors")):
                _sample_file(file, self.headers, mark)
        else:
            for file in sorted(Path(self.path).glob("*.bin")):
                _sum_file(file, mark)
        return mark.hexdigest()[:16]


def integers(headers: Iterable[TensorHeader]) -> list[str]:
    """Return the matrices that are no numbers to mix: quantised, packed or complex.

    Counters and position tables (int64) are not among them, nor are causal masks of the
    form [1, 1, n, n].
    """
    return [
        row.name
        for row in headers
        if row.dtype.lower() in _NO_WEIGHTS
        and len(row.shape) > 1
        and not (len(row.shape) == 4 and row.shape[:2] == (1, 1))
    ]


def _read_header(file: Path) -> tuple[dict[str, dict[str, Any]], int]:
    """Return a safetensors file's header by tensor and where its data begins."""
    with about(f"{file} must be whole; its header cannot be read", _AGAIN):
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(length))
    if not isinstance(header, dict) or not all(map(_is_row, header.items())):
        raise DarwinError(
            f"{file} must be whole; its header is no table of tensors. {_AGAIN}"
        )
    header.pop("__metadata__", None)
    return header, 8 + length


def _is_row(item: tuple[str, object]) -> bool:
    name, row = item
    if name == "__metadata__":
        return True
    if not isinstance(row, dict) or not isinstance(row.get("dtype"), str):
        return False
    offsets: Any = row.get("data_offsets")
    numbers = all(
        isinstance(value, list) and all(type(n) is int and n >= 0 for n in value)
        for value in (row.get("shape"), offsets)
    )
    return numbers and len(offsets) == 2 and bool(offsets[0] <= offsets[1])


def _sample_file(
    file: Path, headers: Mapping[str, TensorHeader], mark: hashlib._Hash
) -> None:
    rows, offset = _read_header(file)
    with file.open("rb") as stream:
        for name in sorted(rows):
            if name not in headers:
                continue
            begin, end = rows[name]["data_offsets"]
            stream.seek(offset + begin + max(0, (end - begin) // 2 - _SAMPLE // 2))
            mark.update(stream.read(min(_SAMPLE, end - begin)))


def _sum_file(file: Path, mark: hashlib._Hash) -> None:
    """Add what tells a pickled file from its siblings: every byte, if by checksum."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            rows = archive.infolist()
        sums = [
            [row.filename.split("/", 1)[-1], row.file_size, row.CRC] for row in rows
        ]
        if all(size == 0 or checksum != 0 for _, size, checksum in sums):
            mark.update(json.dumps(sorted(sums)).encode())
            return
    with file.open("rb") as stream:
        while piece := stream.read(1 << 24):
            mark.update(piece)


def parse_model(model: str | ModelReference) -> ModelReference:
    """Return mergekit's reference of a model given as path, hub name, or model+lora.

    Raises DarwinError for a folder that mergekit would take for something else.
    """
    if isinstance(model, ModelReference):
        return model
    _refuse_signs(model)
    with about(f"{model!r} must name a model: a folder, or a name on the hub"):
        model.encode()
        return ModelReference.parse(model)


def _refuse_signs(model: str) -> None:
    """Refuse a folder whose name mergekit reads as something else."""
    if set(model) & {"+", "@"} and os.path.exists(model):
        raise DarwinError(
            "A model's path must have neither + (a LoRA follows) nor @ (a revision"
            f" does) in it, as mergekit reads it; got {model!r}. Rename the folder, or"
            " give a link to it."
        )


def open_checkpoint(
    model: str | ModelReference, options: MergeOptions | None = None
) -> Checkpoint:
    """Return a model's checkpoint; a hub name is downloaded, a LoRA merged first.

    Raises DarwinError if there is no model at that place.
    """
    reference = parse_model(model)
    _refuse_signs(str(reference))
    cache = LoaderCache()
    if options is not None:
        cache.setup(options)
    if reference.lora is not None and not cache.lora_cache_dir:
        raise DarwinError(
            f"{reference} is a model with a LoRA, which is merged into a copy first;"
            " --lora-merge-cache must name a folder for that copy."
        )
    check_files(reference.model.path)
    with about(
        f"{reference} must be a folder with safetensors (or .bin) weights, or a model"
        " on the hub; it cannot be opened"
    ):
        index = cache.get(reference).index
    check_shards(reference, index.tensor_paths)
    headers = _headers(index)
    absent = sorted(set(index.tensor_paths) - set(headers))
    if absent or not headers:
        raise DarwinError(
            f"The files of {reference} must hold what its index names; they lack"
            f" {some(absent, 2) or 'all tensors'}. Download or save the model again."
        )
    check_config(reference, index.base_path, len(headers), cache.trust_remote_code)
    return Checkpoint(reference, index.base_path, headers, index.is_safetensors)


def _headers(index: ShardedTensorIndex) -> dict[str, TensorHeader]:
    """Return what a model's files say of their tensors, by name."""
    headers: dict[str, TensorHeader] = {}
    for shard in sorted(set(index.tensor_paths.values())):
        file = Path(index.base_path) / shard
        if index.is_safetensors:
            for name, row in _read_header(file)[0].items():
                dtype = _DTYPES.get(row["dtype"], row["dtype"])
                headers[name] = TensorHeader(name, dtype, tuple(row["shape"]))
            continue
        with about(f"{file} must be a whole file of weights", _AGAIN):
            state = torch.load(file, map_location="meta", weights_only=True)
            state = state.get("state_dict", state)
            for name in filter(state.__contains__, index.tensor_paths):
                dtype = str(state[name].dtype).removeprefix("torch.")
                headers[name] = TensorHeader(name, dtype, tuple(state[name].shape))
    return headers


def refuse_integers(checkpoint: Checkpoint) -> None:
    """Raise DarwinError if a model's matrices are no floating-point numbers."""
    found = integers(checkpoint.headers.values())
    if found:
        raise DarwinError(
            f"Weights must be floating-point numbers; {checkpoint.reference} holds"
            f" {some(found, 2)} as {checkpoint.headers[found[0]].dtype}. It is"
            " quantised or packed: dequantise it to bfloat16 first."
        )
