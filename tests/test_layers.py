"""The package is layered: no import runs upward, and heavy libraries stay out below."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "mergekit_darwin"

# Lower layers first; a module may import only what stands in earlier rows or its own.
LAYERS = (
    {"errors", "host", "_autoload", "masks", "threads"},
    {"sites", "genome", "profile", "kernel"},
    {"report"},
    {"ratios"},
    {"tables"},
    {"settings"},
    {"checkpoints"},
    {"run_record"},
    {"run_checks"},
    {"run_plan"},
    {"method"},
    {"prescribe", "fit", "filters", "ratio_screen"},
    {"explain", "explain_scores", "export"},
    {"probes"},
    {"weights"},
    {"decoder", "statics"},
    {"names"},
    {"importance"},
    {"attribution", "partial", "screen"},
    {"scan"},
    {"health"},
    {"recipe", "proxy"},
    {"fitness", "search"},
    {"plots"},
    {"evolve"},
    {"cli"},
)
LIGHT = ("errors", "sites", "genome", "profile", "report", "ratios", "kernel", "masks")


def imports_of(path: Path) -> set[str]:
    """Return the top modules of our package that a file imports, at any depth."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module]
            if node.module == "mergekit_darwin":
                names = [f"mergekit_darwin.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "mergekit_darwin" and len(parts) > 1:
                found.add(parts[1])
    return found


def upward(path: Path, rank: dict[str, int]) -> list[str]:
    """Return the imports of a file that run upward."""
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    known = (PACKAGE / "{}.py", PACKAGE / "{}")
    bad = []
    for name in sorted(imports_of(path) - {own}):
        if not any(Path(str(place).format(name)).exists() for place in known):
            continue  # a name from __init__, such as __version__
        if own not in rank or name not in rank or rank[name] > rank[own]:
            bad.append(f"{own} imports {name}")
    return bad


def late(path: Path, name: str) -> bool:
    """Return whether a file imports one of our modules inside a function only."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = {node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))}
    return not any(name in ast.unparse(node) for node in top)


def test_no_import_runs_upward() -> None:
    rank = {name: i for i, row in enumerate(LAYERS) for name in row}
    files = [
        path
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.name not in ("__init__.py", "__main__.py") or path.parent != PACKAGE
    ]
    assert len(files) > 10
    bad = [
        line
        for path in files
        if path.parts[-1] != "_autoload.py"
        for line in upward(path, rank)
    ]
    assert bad == []


def test_an_upward_import_is_caught(tmp_path: Path) -> None:
    rank = {name: i for i, row in enumerate(LAYERS) for name in row}
    culprit = PACKAGE / "errors.py"
    text = (
        culprit.read_text(encoding="utf-8") + "\nfrom mergekit_darwin import ratios\n"
    )
    copy = tmp_path / "errors.py"
    copy.write_text(text, encoding="utf-8")
    assert imports_of(copy) == {"ratios"}
    assert rank["ratios"] > rank["errors"]


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
