"""Genes, genomes, their file and their hash."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.ratios.genome import (
    count_blocks,
    extended_genes,
    genome_hash,
    genome_json,
    make_genome,
    published_genes,
    read_genome,
)


def test_six_blocks_give_the_fourteen_published_genes() -> None:
    names = [gene.name for gene in published_genes()]
    assert len(names) == 14
    assert names[:6] == [
        "global_ratio",
        "attn_ratio",
        "ffn_ratio",
        "embed_ratio",
        "density_a",
        "density_b",
    ]
    assert names[-2:] == ["mri_trust", "merge_method_weight"]
    assert [gene.name for gene in extended_genes()][-1] == "lambda"


def test_neutral_genome_has_the_documented_values() -> None:
    genome = make_genome({})
    assert {genome[f"{c}_ratio"] for c in ("attn", "ffn", "embed", "global")} == {0.5}
    assert (genome["density_a"], genome["density_b"]) == (0.9, 0.9)
    assert (genome["mri_trust"], genome["merge_method_weight"]) == (0.5, 1.0)
    assert genome["lambda"] == 1.0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("attn_ratio", 1.0001),
        ("attn_ratio", -0.1),
        ("density_a", 0.0),
        ("mri_trust", float("nan")),
        ("ffn_ratio", "much"),
        ("ffn_ratio", True),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(DarwinError, match=name):
        make_genome({name: value})


def test_an_unknown_gene_names_the_nearest() -> None:
    with pytest.raises(DarwinError, match="Did you mean 'attn_ratio'"):
        make_genome({"atn_ratio": 0.5})


def test_a_block_gene_beyond_the_blocks_is_refused() -> None:
    with pytest.raises(DarwinError, match="block_7_ratio"):
        make_genome({"block_7_ratio": 0.5}, blocks=6)


def test_genome_file_round_trips(tmp_path: Path) -> None:
    genome = make_genome({"block_9_ratio": 0.25, "lambda": 1.5}, blocks=10)
    path = tmp_path / "genome.json"
    path.write_text(genome_json(genome, "0" * 16), encoding="utf-8")
    assert read_genome(path) == genome
    assert read_genome(path).blocks == 10
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["format"] == "mergekit-darwin/genome"
    assert content["genome_hash"] == "0" * 16


def test_a_file_with_another_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "genome.json"
    path.write_text('{"genes": {}, "gens": 1}', encoding="utf-8")
    with pytest.raises(DarwinError, match="gens"):
        read_genome(path)


@given(st.floats(0, 1), st.floats(0, 1))
def test_hash_is_equal_exactly_where_the_genomes_are(left: float, right: float) -> None:
    hashes = {
        genome_hash(make_genome({"attn_ratio": value}), {}) for value in (left, right)
    }
    assert (len(hashes) == 1) == (left == right)


def test_hash_is_pinned_and_covers_options() -> None:
    plain = genome_hash(make_genome({}), {})
    assert plain == genome_hash(make_genome({"attn_ratio": 0.5}), {})
    assert plain != genome_hash(make_genome({}), {"rescale": False})
    assert len(plain) == 16 and int(plain, 16) >= 0


def test_blocks_are_counted_from_gene_names() -> None:
    assert count_blocks({}) == 6
    assert count_blocks({"block_0_ratio": 1, "block_3_ratio": 1}) == 4
