"""Getting into mergekit: from a wheel, from an editable install, and out again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
KNOWN = (
    "from mergekit.merge_methods import registered_methods as r;"
    "print('darwin_v6' in [m.spec.name for m in r()])"
)


def python(environment: Path) -> str:
    return str(environment / "bin" / "python")


def run(*command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={**clean, **variables},
        cwd="/",
        timeout=600,
    )


def checked(*command: str, **variables: str) -> str:
    result = run(*command, **variables)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build our wheel, or take the one that MERGEKIT_DARWIN_WHEEL names."""
    if given := os.environ.get("MERGEKIT_DARWIN_WHEEL"):
        return Path(given)
    out = tmp_path_factory.mktemp("wheel")
    checked(
        *(sys.executable, "-m", "build", "--wheel", "--no-isolation"),
        *("--outdir", str(out), str(ROOT)),
    )
    return next(out.glob("*.whl"))


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """A fresh virtual environment that sees this one's libraries but not our package.

    A path file lends it the libraries; path files in there are not read, so neither
    our hook nor an editable install of ours comes along.
    """
    folder = tmp_path / "venv"
    venv.create(folder, with_pip=True, symlinks=True)
    site = next((folder / "lib").glob("python3*")) / "site-packages"
    lent = tmp_path / "lent"
    lent.mkdir()
    for entry in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if "mergekit_darwin" not in entry.name and entry.suffix != ".pth":
            (lent / entry.name).symlink_to(entry)
    (site / "zz_lent.pth").write_text(f"{lent}\n", encoding="utf-8")
    return folder


def install(environment: Path, *what: str) -> None:
    checked(python(environment), "-m", "pip", "install", "-q", "--no-deps", *what)


@pytest.mark.venv
def test_a_wheel_registers_and_uninstalling_leaves_nothing(
    wheel: Path, environment: Path, trio: dict[str, str], tmp_path: Path
) -> None:
    interpreter = python(environment)
    assert checked(interpreter, "-c", KNOWN).strip() == "False"
    install(environment, str(wheel))
    assert checked(interpreter, "-c", KNOWN).strip() == "True"
    config = tmp_path / "darwin.yml"
    config.write_text(
        "merge_method: darwin_v6\n"
        f"models: [{{model: {trio['father']}}}, {{model: {trio['mother']}}}]\n"
        "parameters: {attn_ratio: 0.3}\n"
    )
    merge = (interpreter, "-m", "mergekit.scripts.run_yaml", str(config))
    checked(*merge, str(tmp_path / "out"))
    assert (tmp_path / "out" / "model.safetensors").exists()
    checked(interpreter, "-m", "pip", "uninstall", "-q", "-y", "mergekit-darwin")
    assert checked(interpreter, "-c", KNOWN).strip() == "False"
    site = next((environment / "lib").glob("python3*")) / "site-packages"
    assert not [p.name for p in site.iterdir() if "darwin" in p.name]
    refused = run(*merge, str(tmp_path / "other"))
    assert "Unimplemented merge method darwin_v6" in refused.stderr


@pytest.mark.venv
def test_an_editable_install_registers_and_uninstalls(
    environment: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "checkout"
    shutil.copytree(ROOT / "mergekit_darwin", copy / "mergekit_darwin")
    for name in ("pyproject.toml", "README.md", "LICENSE", "mergekit_darwin.pth"):
        shutil.copy(ROOT / name, copy / name)
    install(environment, "--no-build-isolation", "-e", str(copy))
    assert checked(python(environment), "-c", KNOWN).strip() == "True"
    pip = (python(environment), "-m", "pip")
    checked(*pip, "uninstall", "-q", "-y", "mergekit-darwin")
    assert checked(python(environment), "-c", KNOWN).strip() == "False"


SPAWNED = """
import multiprocessing as mp
def known(_):
    {code}
    return 'darwin_v6' in [m.spec.name for m in r()]
if __name__ == '__main__':
    for kind in ('spawn', 'fork'):
        with mp.get_context(kind).Pool(1) as pool:
            print(kind, pool.map(known, [0]))
"""


@pytest.mark.venv
def test_every_way_into_mergekit_knows_the_method(
    wheel: Path, environment: Path, tmp_path: Path
) -> None:
    install(environment, str(wheel))
    interpreter = python(environment)
    find = "from mergekit.merge_methods import registered_methods as r"
    script = tmp_path / "spawned.py"
    script.write_text(SPAWNED.format(code=find))
    lines = checked(interpreter, str(script)).splitlines()
    assert lines == ["spawn [True]", "fork [True]"]
    for module in ("merge", "plan", "config", "merge_methods.linear", "architecture"):
        code = f"import mergekit.{module}; {KNOWN}"
        assert checked(interpreter, "-c", code).strip() == "True", module
    off = checked(interpreter, "-c", KNOWN, MERGEKIT_DARWIN_AUTOLOAD="0")
    assert off.strip() == "False"
    by_hand = f"import mergekit_darwin as d; d.register(); d.register(); {KNOWN}"
    on = checked(interpreter, "-c", by_hand, MERGEKIT_DARWIN_AUTOLOAD="0")
    assert on.strip() == "True"
    about = checked(interpreter, "-m", "mergekit_darwin")
    assert "darwin_v6: registered" in about and "hook: active" in about


@pytest.mark.venv
def test_the_hook_loads_nothing_else_and_survives_whatever_goes_wrong(
    wheel: Path, environment: Path
) -> None:
    install(environment, str(wheel))
    interpreter = python(environment)
    site = next((environment / "lib").glob("python3*")) / "site-packages"
    added = (
        "import os, sys; before = set(sys.modules);"
        "import mergekit_darwin._autoload as a; a.install();"
        "print(sorted(set(sys.modules) - before))"
    )
    loaded = checked(interpreter, "-S", "-c", _with(site, added)).strip()
    assert loaded == "['mergekit_darwin', 'mergekit_darwin._autoload']"
    (site / "mergekit_darwin" / "_autoload.py").write_text("raise RuntimeError('no')\n")
    assert checked(interpreter, "-c", "print('alive')").strip() == "alive"
    assert checked(interpreter, "-c", KNOWN).strip() == "False"


def _with(site: Path, code: str) -> str:
    return f"import sys; sys.path.append({str(site)!r}); {code}"


@pytest.mark.venv
def test_another_mergekit_gets_one_warning_and_no_traceback(
    wheel: Path, environment: Path
) -> None:
    install(environment, str(wheel))
    code = (
        "import importlib.metadata as m; real = m.version;"
        "m.version = lambda n: '0.3.0' if n == 'mergekit' else real(n);" + KNOWN
    )
    result = run(python(environment), "-c", code)
    assert result.stdout.strip() == "False"
    assert "needs mergekit >=0.1.5,<0.2; found 0.3.0" in result.stderr
    assert "Traceback" not in result.stderr


def test_registering_twice_in_one_process_is_harmless() -> None:
    from mergekit.merge_methods import registered_methods

    import mergekit_darwin

    mergekit_darwin.register()
    mergekit_darwin.register()
    names = [method.spec.name for method in registered_methods()]
    assert names.count("darwin_v6") == 1
