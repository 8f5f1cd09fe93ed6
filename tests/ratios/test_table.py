"""Ratio tables: what is written is read as it was."""

from __future__ import annotations

from mergekit_darwin.models.names import site_of
from mergekit_darwin.ratios.rules import Prescription
from mergekit_darwin.ratios.scores import Scores
from mergekit_darwin.ratios.table import read_rows, table_csv


def test_a_written_table_reads_back_as_the_rows_it_was_made_of(tmp_path):
    layer = site_of("model.layers.3.mlp.up_proj.weight")
    rows = [
        Prescription(
            layer, 1, Scores((0.5, 0.25), (0.1, 0.3), 0.625), 0.5, 0.75, "blend"
        ),
        Prescription(layer, None, Scores((0.5, 0.25), None, 0.5), 0.5, 0.5, "blend"),
        Prescription(site_of("lm_head.weight"), None, None, None, 1.0, "mother"),
    ]
    path = tmp_path / "darwin_ratios.csv"
    path.write_text(table_csv(rows))
    assert read_rows(path) == rows
