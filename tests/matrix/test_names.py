"""Names against the models themselves, built on `meta`."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from mergekit_darwin.models.names import site_of
from tests.matrix import models

TABLE = Path(__file__).parent / "names.csv"


def said() -> list[dict[str, str]]:
    """Return the checked table: architecture, tensor, stack, layer, component."""
    return list(csv.DictReader(TABLE.read_text(encoding="utf-8").splitlines()))


def stacks(model: nn.Module) -> Iterator[str]:
    """Yield the paths of lists of modules that have modules in them."""
    for path, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and "merger" not in path:
            if any(True for layer in module for _ in layer.children()):
                yield path


def test_the_table_is_of_many_architectures() -> None:
    assert len({row["architecture"] for row in said()}) >= 25


def test_every_name_of_the_table_is_read_as_a_person_would() -> None:
    for row in said():
        site = site_of(row["tensor"])
        found = (site.stack or "", "" if site.layer is None else str(site.layer))
        assert (*found, site.component) == (
            row["stack"],
            row["layer"],
            row["component"],
        ), row


@pytest.mark.full
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", list(models.ROWS))
def test_embeddings_head_and_stacks_are_those_of_the_built_model(name: str) -> None:
    with torch.device("meta"):
        model = models.build(name)
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    tokens = {id(p) for end in ends if end is not None for p in end.parameters()}
    lists = list(stacks(model))
    for tensor, value in model.state_dict(keep_vars=True).items():
        site = site_of(tensor)
        if not tensor.endswith("embed_tokens_per_layer.weight"):  # tokens' too
            assert (site.component == "embed") == (id(value) in tokens), tensor
        outermost = next((p for p in lists if tensor.startswith(f"{p}.")), None)
        assert site.stack == outermost, tensor
