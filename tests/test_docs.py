"""The README and the examples say what the code does."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mergekit_darwin.merge.parameters import PARAMETERS, parameter_rows
from tests.merging import merge, record, tensors

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def parameter_table() -> str:
    """Return the README's parameter table, as the declarations give it."""
    lines = ["| parameter | default | meaning |", "| --- | --- | --- |"]
    lines += [f"| `{n}` | {d} | {m} |" for n, d, m in parameter_rows()]
    return "\n".join(lines)


def test_the_parameter_table_is_generated_from_the_declarations() -> None:
    assert parameter_table() in README


def test_every_parameter_is_in_the_table() -> None:
    table = parameter_table()
    for name in PARAMETERS:
        if not name.startswith("block_"):
            assert f"`{name}`" in table


def test_yaml_in_the_readme_names_known_parameters_only() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", README, flags=re.DOTALL)
    merges = [config for config in map(yaml.safe_load, blocks) if "models" in config]
    assert merges
    for config in merges:
        if config["merge_method"] == "darwin_v6":
            assert set(config.get("parameters", {})) <= set(PARAMETERS)


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("darwin*.yml")))
def test_example_merges_name_known_parameters_only(path: Path) -> None:
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert config["merge_method"] == "darwin_v6"
    assert set(config["parameters"]) <= set(PARAMETERS)


def test_the_readmes_merge_runs_from_the_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert "mergekit-yaml examples/darwin.yml" in README
    source = (ROOT / "examples" / "darwin.yml").read_text(encoding="utf-8")
    child = merge(yaml.safe_load(source), tmp_path / "out")
    father = tensors(ROOT / "examples" / "tiny_family" / "father")
    assert set(child) == set(father) == set(record(tmp_path / "out"))


def test_the_readmes_python_runs_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert (tmp_path / "out" / "mds" / "mds.json").exists()
    assert capsys.readouterr().out.splitlines()[-1].startswith("healthy {")


def test_the_readme_fits_on_a_few_screens() -> None:
    assert len(README.splitlines()) < 200


@pytest.mark.parametrize("command", ["scan", "ratios", "health", "evolve"])
def test_help_answers_without_torch(command: str) -> None:
    code = (
        "import sys\n"
        f"from mergekit_darwin.cli.{command} import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit as stop:\n    assert stop.code == 0\n"
        "heavy = {'torch', 'mergekit', 'transformers', 'matplotlib'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert f"mergekit-darwin-{command}" in README


def test_ci_runs_the_readmes_test_command() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    found = re.search(r"```bash\n(.*python -m pytest.*)\n```", README)
    assert found is not None
    assert shlex.split(found.group(1))[-4:] == ["python", "-m", "pytest", "-q"]
    assert "python -m pytest -q" in script and ".[test]" in found.group(1)
    assert "'.[test]'" in script


def test_nothing_committed_speaks_of_a_machine() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    own = Path(__file__).name
    marks = ["/" + "work/", "/" + "root/", "/tmp/" + "w/", "pypi" + "-more"]
    for name in listed.stdout.split():
        path = ROOT / name
        if path.suffix in {".py", ".md", ".yml", ".yaml", ".toml"} and name != own:
            text = path.read_text(encoding="utf-8")
            assert not [mark for mark in marks if mark in text], name


if __name__ == "__main__":  # make docs
    old = re.search(r"\| parameter \| default .*?(?=\n\n)", README, flags=re.DOTALL)
    assert old is not None
    (ROOT / "README.md").write_text(
        README.replace(old.group(0), parameter_table()), encoding="utf-8"
    )
