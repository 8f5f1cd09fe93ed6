"""The ratio table as a person reads it: stack by stack, layer by layer, then a summary.

Pure text from rows; no tensors, no files.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator

from mergekit_darwin.models.names import stack_depths
from mergekit_darwin.ratios.rules import ROUTES, Prescription, routes_of, spread_of

_NUMBERS = (
    ("static F", "static_father"),
    ("static M", "static_mother"),
    ("probe F", "probe_father"),
    ("probe M", "probe_mother"),
    ("mri", "mri_ratio"),
    ("genes", "genome_ratio"),
    ("ratio", "ratio"),
)
_PARTS = ("attn", "ffn", "embed", "global")


def ratio_screen(rows: Iterable[Prescription]) -> str:
    """Return the whole table and its summary as text."""
    rows = list(rows)
    return "\n".join([*_table(rows), *summary(rows)]) + "\n"


def _table(rows: list[Prescription]) -> Iterator[str]:
    depths = stack_depths(row.name for row in rows)
    stacks = sorted(depths, key=lambda stack: (-depths[stack], stack))
    used = [
        (title, key)
        for title, key in _NUMBERS
        if any(row.columns()[key] is not None for row in rows)
    ]
    width = max(len(_label(row)) for row in rows)
    loose = [row for row in rows if row.site.layer is None]
    yield from _section("outside the layers", loose, used, width)
    for stack in stacks:
        inside = [row for row in rows if row.site.stack == stack]
        inside.sort(key=lambda row: (row.site.layer or 0, row.site.component, row.name))
        title = f"{stack} x {depths[stack]}"
        yield from _section(title, inside, used, width)


def _section(
    title: str, rows: list[Prescription], used: list[tuple[str, str]], width: int
) -> Iterator[str]:
    if not rows:
        return
    yield title
    heads = "".join(f"{head:>10}" for head, _ in used)
    yield f"{'layer':>6}{'block':>6}  {'tensor':{width}}  {'part':6}{heads}  route"
    before = None
    for row in rows:
        site, columns = row.site, row.columns()
        first = site.layer != before
        layer = f"{site.layer}" if first and site.layer is not None else ""
        block = f"{row.block}" if first and row.block is not None else ""
        before = site.layer
        numbers = "".join(f"{_number(columns[key]):>10}" for _, key in used)
        route = "blend" if row.route == "blend" else row.route.upper()
        yield (
            f"{layer:>6}{block:>6}  {_label(row):{width}}  {site.component:6}{numbers}"
            f"  {route}"
        )
    yield ""


def _label(row: Prescription) -> str:
    """Return the name within its layer, the whole name outside any."""
    if row.site.layer is None:
        return row.name
    return row.name.removeprefix(f"{row.site.stack}.{row.site.layer}.")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.5f}"


def summary(rows: list[Prescription]) -> Iterator[str]:
    """Yield what a table comes to: routes, means by part and block, mri's spread."""
    counts = routes_of(rows)
    yield (
        f"{len(rows)} tensors: {counts['father']} Father's, {counts['mother']}"
        f" Mother's, {counts['blend']} blended; mean ratio"
        f" {sum(row.ratio for row in rows) / len(rows):.4f}"
    )
    yield from _groups("part", rows, lambda row: row.site.component)
    stacks = {row.site.stack for row in rows if row.block is not None}
    for stack in sorted(filter(None, stacks)):
        inside = [row for row in rows if row.site.stack == stack]
        yield from _groups(f"block of {stack}", inside, lambda row: row.block)
    yield from _spread(rows)


def _groups(
    title: str, rows: list[Prescription], key: Callable[[Prescription], Hashable]
) -> Iterator[str]:
    groups: dict[Hashable, list[Prescription]] = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    yield ""
    width = max(32, len(title) + 2)
    heads = ("mean mri", "genes", "ratio", "Father's", "Mother's", "blended")
    columns = "".join(f"{head:>10}" for head in heads)
    yield f"{title:{width}}{'tensors':>8}{columns}"
    for label in sorted(groups, key=_order):
        inside = groups[label]
        counts = routes_of(inside)
        means = "".join(
            f"{_number(_mean(values)):>10}"
            for values in (
                [row.mri_ratio for row in inside],
                [row.genome_ratio for row in inside],
                [row.ratio for row in inside],
            )
        )
        routes = "".join(f"{counts[route]:>10}" for route in ROUTES)
        name = "-" if label is None else str(label)
        yield f"  {name:{width - 2}}{len(inside):>8}{means}{routes}"


def _order(label: Hashable) -> tuple[int, str]:
    if isinstance(label, int):
        return (label, "")
    return (_PARTS.index(str(label)) if label in _PARTS else 0, str(label))


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _spread(rows: list[Prescription]) -> Iterator[str]:
    spread = spread_of(rows)
    yield ""
    if spread is None:
        yield "mri_ratio: none; every ratio is explicit, the genes', or one model's"
        return
    found = sorted(row.mri_ratio for row in rows if row.mri_ratio is not None)
    edge = len(found) // 20
    middle = found[edge : len(found) - edge]
    yield (
        f"mri_ratio lies in [{spread.least:.4f}, {spread.most:.4f}], a spread of"
        f" {spread.width:.4f}; nine tenths of them in [{middle[0]:.4f},"
        f" {middle[-1]:.4f}]"
    )
    if spread.warning:
        yield f"  {spread.warning}"
