"""The rule of the house: rooms stand left to right; imports run leftward only."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "mergekit_darwin"

# In the order in which the data passes them; rooms of one row do not know each other.
ROOMS = (
    {"errors", "locks", "files", "talk", "plots", "page"},  # the ground
    {"kernel", "models"},
    {"scan"},
    {"ratios"},
    {"merge", "search"},
    {"refit"},
    {"health"},
    {"evolve", "delphi"},
    {"api"},  # what `import mergekit_darwin` offers
    {"cli"},
)
DOORS = {"__init__", "__main__", "_autoload"}  # the face, and what Python starts
LIGHT = (
    "errors",
    "models.names",
    "ratios.genome",
    "kernel.profile",
    "scan.report",
    "ratios.rules",
    "kernel.dare_ties",
    "kernel.masks",
)


def imports_of(path: Path) -> set[str]:
    """Return the modules of our package that a file imports, at any depth in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name for name in names if is_module(name)} or {node.module}
    ours = {name for name in found if name.startswith("mergekit_darwin.")}
    return {name.removeprefix("mergekit_darwin.") for name in ours if is_module(name)}


def is_module(name: str) -> bool:
    """Return whether a dotted name is a module or package of ours."""
    place = PACKAGE.parent.joinpath(*name.split("."))
    return place.with_suffix(".py").exists() or (place / "__init__.py").exists()


def house() -> dict[str, set[str]]:
    """Return what every module imports, but for the doors, which open late."""
    modules = {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
        for path in sorted(PACKAGE.rglob("*.py"))
    }
    return {
        name.removesuffix(".__init__"): imports_of(path)
        for name, path in modules.items()
        if name not in DOORS
    }


def row_of(module: str) -> int:
    """Return the row of a module's room; a module outside every room is an error."""
    room = module.split(".")[0]
    return next(row for row, names in enumerate(ROOMS) if room in names)


def crossing(modules: dict[str, set[str]]) -> list[str]:
    """Return the imports that run to the right, or to a neighbour of the same row."""
    return [
        f"{module} imports {other}"
        for module, imported in modules.items()
        for other in sorted(imported)
        if row_of(other) >= row_of(module)
        and row_of(module) > 0
        and other.split(".")[0] != module.split(".")[0]
    ]


def test_every_module_stands_in_a_room() -> None:
    for module in house():
        assert 0 <= row_of(module) < len(ROOMS)


def test_a_room_imports_only_rooms_to_its_left() -> None:
    assert len(house()) > 50
    assert crossing(house()) == []


def test_an_import_to_the_right_or_to_a_neighbour_is_caught() -> None:
    modules = {"scan.run": {"ratios.rules"}, "kernel.masks": {"models.names"}}
    assert crossing(modules) == [
        "scan.run imports ratios.rules",
        "kernel.masks imports models.names",
    ]


def test_no_modules_import_each_other_in_a_circle() -> None:
    tuple(TopologicalSorter(house()).static_order())
    with pytest.raises(CycleError):
        tuple(TopologicalSorter({"a": {"b"}, "b": {"a"}}).static_order())


def test_core_rules_import_neither_mergekit_nor_transformers() -> None:
    lines = [f"import mergekit_darwin.{name}" for name in LIGHT]
    lines.append("import sys")
    lines.append("bad = [m for m in ('mergekit', 'transformers') if m in sys.modules]")
    lines.append("assert not bad, bad")
    run = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr


def test_importing_the_package_loads_no_torch_and_registers_nothing() -> None:
    code = (
        "import sys, mergekit_darwin as md\n"
        "assert callable(md.scan_parents) and 'breed' in dir(md)\n"
        "assert 'torch' not in sys.modules and 'mergekit' not in sys.modules\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
