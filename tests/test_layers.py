"""The package is layered: no import runs upward, and heavy libraries stay out below."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "mergekit_darwin"

# Lower layers first; a module may import only what stands in earlier rows or its own.
# A package stands where its name stands, but for modules of it that are named apart.
LAYERS = (
    {"errors", "host", "_autoload", "masks", "threads", "filters"},
    {"documents"},
    {"sites", "genome", "profile", "kernel"},
    {"report", "soundness"},
    {"ratios"},
    {"tables"},
    {"options", "ratio_screen", "screen"},
    {"settings"},
    {"checkpoints"},
    {"run_record"},
    {"run_checks"},
    {"run_plan"},
    {"method"},
    {"prescribe", "fit"},
    {"explain_scores", "export"},
    {"explain"},
    {"probes", "weights", "statics"},
    {"decoder"},
    {"names"},
    {"importance"},
    {"attribution", "partial"},
    {"scan"},
    {"health"},
    {"plots"},
    {"health.output"},
    {"health.checking", "health.__init__"},
    {"recipe", "proxy"},
    {"fitness", "search"},
    {"evolve"},
    {"cli"},
)
LIGHT = ("errors", "sites", "genome", "profile", "report", "ratios", "kernel", "masks")


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


def rank_of(name: str) -> int:
    """Return the row of a module, by its own name or else its package's."""
    for row, names in enumerate(LAYERS):
        if name in names:
            return row
    return rank_of(name.rpartition(".")[0])


def upward(path: Path) -> list[str]:
    """Return the imports of a file that run upward."""
    own = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    return [
        f"{own} imports {name}"
        for name in sorted(imports_of(path))
        if rank_of(name) > rank_of(own) and name.split(".")[0] != own.split(".")[0]
    ]


def test_no_import_runs_upward() -> None:
    files = [
        path
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.parent != PACKAGE or path.name not in ("__init__.py", "__main__.py")
    ]
    assert len(files) > 50
    hooks = PACKAGE / "_autoload.py"  # calls register() late, that is its whole job
    assert [line for path in files if path != hooks for line in upward(path)] == []


def test_an_upward_import_is_caught(tmp_path: Path) -> None:
    copy = tmp_path / "errors.py"
    text = (PACKAGE / "errors.py").read_text(encoding="utf-8")
    copy.write_text(text + "\nfrom mergekit_darwin import ratios\n", encoding="utf-8")
    assert imports_of(copy) == {"ratios"}
    assert rank_of("ratios") > rank_of("errors")


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
        "import sys, mergekit_darwin\n"
        "assert 'torch' not in sys.modules and 'mergekit' not in sys.modules\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
