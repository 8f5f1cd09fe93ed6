"""The picture of a family: who, from whom, with which genome and held-out score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mergekit_darwin import palette, plots
from mergekit_darwin.errors import quoted
from mergekit_darwin.evolve.family import Member, score_words


def draw_family(member: Member, path: Path) -> None:
    """Draw a family: the child on the left, each Father above the Mother."""
    places: list[tuple[Member, str, int, float, int]] = []
    _place(member, "child", 0, places)
    columns = 1 + max(column for _, _, column, _, _ in places)
    rows = sum(not one.parents for one, *_ in places)
    figure = plots.figure(3.4 * columns, 0.5 + 1.0 * rows)
    axes = figure.subplots()
    for one, role, column, row, child in places:
        if child >= 0:
            _, _, left, height, _ = places[child]
            axes.plot(
                [left, column], [height, row], color=palette.OTHER, lw=1, zorder=0
            )
        axes.text(
            column,
            row,
            plots.plain(_label(one, role)),
            ha="center",
            va="center",
            fontsize=8,
            bbox={
                "fc": "white",
                "ec": palette.ROLES[role],
                "boxstyle": "round,pad=0.4",
            },
        )
    axes.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5))
    axes.axis("off")
    plots.save(figure, path)


def _place(member: Member, role: str, column: int, places: list[Any]) -> float:
    """Give every member a column and a row: leaves one below the other."""
    mine = len(places)
    places.append(None)
    rows = []
    for name, parent in member.parents:
        there = len(places)
        rows.append(_place(parent, name, column + 1, places))
        places[there] = (*places[there][:4], mine)
    leaves = sum(one is not None and not one[0].parents for one in places)
    row = sum(rows) / len(rows) if rows else float(leaves)
    places[mine] = (member, role, column, row, -1)
    return row


def _label(member: Member, role: str) -> str:
    rows = [quoted(member.model, 34) if member.model else role]
    if member.genome_hash:
        rows.append(f"generation {member.generation}, {member.genome_hash[:8]}")
    if member.heldout:
        rows.append(f"held-out {score_words(member.heldout)}")
    if member.note:
        rows.append("card not followed")
    return "\n".join(rows)
