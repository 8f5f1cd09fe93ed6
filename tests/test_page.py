"""Pages in a real browser: they draw, the pointer finds the numbers, sorting sorts."""

from __future__ import annotations

from pathlib import Path

import pytest

from mergekit_darwin import page
from mergekit_darwin.models.names import Site
from mergekit_darwin.ratios.page import write_ratio_page
from mergekit_darwin.ratios.rules import Prescription
from tests.browser import BROWSER, ask

pytest.importorskip("plotly")
browser = pytest.mark.skipif(BROWSER is None, reason="needs Debian's chromium")
PARTS = ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj")


def rows(layers: int = 3) -> list[Prescription]:
    made = []
    for layer in range(layers):
        for part, name in enumerate(PARTS):
            ratio = (7 * layer + 3 * part) % 11 / 10
            route = "father" if ratio < 0.15 else "mother" if ratio > 0.85 else "blend"
            component = "attn" if part < 2 else "ffn"
            full = f"model.layers.{layer}.{name}.weight"
            site = Site(full, "model.layers", layer, component)  # type: ignore[arg-type]
            row = Prescription(site, layer, None, 0.5, ratio, route)  # type: ignore[arg-type]
            made.append(row)
    return made


@browser
def test_the_pointer_over_a_cell_says_the_tensor_and_its_ratio(tmp_path: Path) -> None:
    write_ratio_page(rows(), tmp_path / "page.html")
    wanted = rows()[6]  # layer 1, mlp.up_proj: the middle column, the third row
    said = ask(
        tmp_path / "page.html",
        """
        const plot = document.querySelector(".figure .nsewdrag");
        const box = plot.getBoundingClientRect();
        await move(box.left + box.width / 2, box.top + box.height * 2.5 / 4);
        return document.querySelector(".hoverlayer").textContent;
        """,
    )
    assert wanted.name in said
    assert f"ratio {wanted.ratio:.4f}" in said


@browser
def test_clicking_a_heading_sorts_by_number_both_ways(tmp_path: Path) -> None:
    write_ratio_page(rows(), tmp_path / "page.html")
    up, down = ask(
        tmp_path / "page.html",
        """
        const heads = [...document.querySelectorAll("th")];
        const column = heads.findIndex(head => head.textContent === "ratio");
        const head = heads[column];
        const values = () => [...document.querySelectorAll("tbody tr")]
          .map(row => Number(row.cells[column].dataset.v));
        head.click(); const up = values(); head.click();
        return [up, values()];
        """,
    )
    ratios = sorted(row.ratio for row in rows())
    assert up == ratios
    assert down == ratios[::-1]


@browser
def test_the_filter_keeps_rows_that_have_all_words(tmp_path: Path) -> None:
    write_ratio_page(rows(), tmp_path / "page.html")
    shown = ask(
        tmp_path / "page.html",
        """
        const input = document.querySelector("input");
        input.value = "mlp layers.1."; input.dispatchEvent(new Event("input"));
        return [...document.querySelectorAll("tbody tr")]
          .filter(row => !row.hidden).map(row => row.cells[0].textContent);
        """,
    )
    assert shown == [row.name for row in rows() if ".1.mlp" in row.name]


@browser
def test_a_page_of_1188_tensors_draws_in_two_seconds(tmp_path: Path) -> None:
    many = rows(297)
    assert len(many) == 1188
    write_ratio_page(many, tmp_path / "page.html")
    cells, width = ask(
        tmp_path / "page.html",
        """
        const drawn = document.querySelector(".figure .heatmaplayer image");
        const table = document.querySelectorAll("tbody tr").length;
        return [drawn ? table : 0, document.documentElement.scrollWidth];
        """,
        width=420,
        wait=2000,
    )
    assert cells == 1188
    assert width <= 500  # a narrow window scrolls the table, not the page


def test_names_from_outside_are_text_and_no_markup(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script>"
    trace = page.heatmap([[0.5]], [evil], [evil], hover=[[f"<b>{evil}"]])
    page.write_page(
        tmp_path / "page.html",
        evil,
        {evil: [page.Words(evil, (evil,)), page.Table((evil,), [(evil,)])]}
        | {"figure": [page.Figure([trace], {})]},
    )
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script>alert" not in text


def test_a_page_is_the_same_for_the_same_rows_and_needs_no_network(
    tmp_path: Path,
) -> None:
    write_ratio_page(rows(), tmp_path / "one.html")
    write_ratio_page(rows(), tmp_path / "two.html")
    one, two = ((tmp_path / f"{name}.html").read_bytes() for name in ("one", "two"))
    assert one == two
    assert b"<script src" not in one and b"<link" not in one
