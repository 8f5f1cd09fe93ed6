"""The refitted child on disk: a checkpoint like the one it came from."""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from mergekit.io import LazyTensorLoader, TensorWriter
from torch import Tensor

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.models.checkpoint import Checkpoint
from mergekit_darwin.models.stream import DiskWeights
from mergekit_darwin.refit.report import kind_of

SHARD = 2_000_000_000  # bytes of one file, all that the writer holds at once
_WEIGHTS = (".safetensors", ".bin", ".index.json", ".pt", ".pth", ".gguf")
RECIPE = "mergekit_config.yml"  # says how other bytes were made
BEFORE = "before_refit."  # so that is kept under another name
OURS = ("README.md", "refit.json", "refit.png", "manifest.json")


class ChildWriter:
    """Writes the child's tensors as they are solved, the others at the end."""

    def __init__(self, checkpoint: Checkpoint, disk: DiskWeights, folder: Path) -> None:
        self._checkpoint = checkpoint
        self._disk = disk
        self._writer = TensorWriter(str(folder), max_shard_size=SHARD)
        self._done: set[str] = set()

    @property
    def dtype(self) -> torch.dtype:
        """What most of the child's weights are stored in."""
        sizes: Counter[str] = Counter()
        for header in self._checkpoint.headers.values():
            sizes[header.dtype] += math.prod(header.shape)
        found: torch.dtype = getattr(torch, sizes.most_common(1)[0][0])
        return found

    @property
    def fitted(self) -> list[str]:
        """The names of what was refitted so far in the files, numbers as *."""
        return sorted({kind_of(key) for key in self._done})

    def save(self, names: Sequence[str]) -> None:
        """Write parameters of the model, by their names in it, as its files name them.

        Raises DarwinError if they cannot be given the files' names and shapes.
        """
        known = dict(self._disk.model.named_parameters(remove_duplicate=False))
        for name in names:
            stored = {key for _, key in self._disk.keys.get(name, ())}
            for key, tensor in self._as_stored(name, known[name], stored).items():
                self._put(key, tensor)

    def _as_stored(
        self, name: str, tensor: Tensor, stored: set[str]
    ) -> dict[str, Tensor]:
        from transformers.core_model_loading import revert_weight_conversion

        headers = self._checkpoint.headers
        if len(stored) == 1:
            key = next(iter(stored))
            if headers[key].shape == tuple(tensor.shape):
                return {key: tensor}
        found = revert_weight_conversion(self._disk.model, {name: tensor})  # type: ignore[arg-type]
        fits = stored and all(
            key in stored and headers[key].shape == tuple(value.shape)
            for key, value in found.items()
        )
        if not fits:
            raise DarwinError(
                f"Refitted weights must go back under the child's own names; {name} has"
                f" no place among {sorted(stored) or 'its files tensors'}. Merge the"
                " child again with this transformers, or leave it unrefitted."
            )
        return dict(found)

    def _put(self, key: str, tensor: Tensor) -> None:
        dtype = getattr(torch, self._checkpoint.headers[key].dtype)
        cast = tensor.detach().to("cpu", dtype, copy=True)
        self._writer.save_tensor(key, cast)
        self._done.add(key)

    def finish(self) -> None:
        """Write all tensors that were not refitted, as they are, and the index."""
        loader = LazyTensorLoader.from_disk(self._checkpoint.path)
        for key in sorted(self._checkpoint.headers):
            if key not in self._done:
                self._writer.save_tensor(key, loader.get_tensor(key).clone())
        self._writer.finalize()


def copy_rest(source: Path, folder: Path) -> None:
    """Copy all that lies beside a checkpoint's weights: configs, tokenizer, templates.

    The recipe of the child before is kept under another name: it does not make these
    bytes any more.
    """
    for file in sorted(source.iterdir()):
        if not file.is_file() or file.name.endswith(_WEIGHTS) or file.name in OURS:
            continue
        name = f"{BEFORE}{file.name}" if file.name == RECIPE else file.name
        shutil.copyfile(file, folder / name)
