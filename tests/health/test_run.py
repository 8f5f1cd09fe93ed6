"""Health end to end on a real small family: faults caught, good merges left alone."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from mergekit_darwin.cli.health import main
from mergekit_darwin.errors import DarwinError
from mergekit_darwin.health.report import Health, read_health
from mergekit_darwin.health.run import check
from mergekit_darwin.scan.probes import Probe, ProbeItem
from tests import health_cases as cases

pytestmark = pytest.mark.usefixtures("one_thread")
FAMILY = Path(__file__).parents[2] / "examples" / "tiny_family"
PARENTS = {role: str(FAMILY / role) for role in ("father", "mother", "base")}
PROBES = [
    Probe(
        "MATH",
        tuple(ProbeItem(f"{i}+{j}=", str(i + j)) for i, j in ((12, 3), (40, 5))),
        1.0,
    )
]


@pytest.fixture(scope="module")
def darwin_child(tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = cases.recipe(FAMILY, "darwin_v6", **cases.GENOMES["thin"])
    recipe["dtype"], recipe["out_dtype"] = "float32", "bfloat16"
    return cases.merge(recipe, tmp_path_factory.mktemp("darwin") / "child")


def weights_only(child: Path, **options: object) -> Health:
    settings = {**PARENTS, "probes": [], **options}
    return check(str(child), **settings)  # type: ignore[arg-type]


def alarms(health: Health) -> set[str]:
    return {item.rule for item in health.findings if item.severity != "note"}


@pytest.mark.parametrize("name", list(cases.BROKEN))
def test_fault_is_caught_by_a_rule_meant_for_it(name: str, tmp_path: Path) -> None:
    child = cases.break_child(name, FAMILY, tmp_path / "child")
    health = weights_only(child)
    assert health.verdict != "healthy"
    assert alarms(health) & cases.BROKEN[name].rules


@pytest.mark.parametrize("name", list(cases.good_recipes(FAMILY)))
def test_good_merge_is_healthy(name: str, tmp_path: Path) -> None:
    child = cases.merge(cases.good_recipes(FAMILY)[name], tmp_path / "child")
    health = weights_only(child)
    assert (health.verdict, alarms(health)) == ("healthy", set())


def test_four_bits_and_back_are_noted_and_no_more(tmp_path: Path) -> None:
    father, mother = (cases.states(FAMILY, x) for x in ("father", "mother"))
    state = {key: (father[key] + mother[key]) / 2 for key in father}
    for name, row in state.items():
        if row.ndim == 2 and "embed" not in name:
            groups = row.float().reshape(-1, 32)
            step = groups.abs().amax(1, keepdim=True) / 7
            state[name] = ((groups / step).round() * step).view(row.shape).to(row)
    child = cases.write_child(state, FAMILY, tmp_path / "child")
    health = weights_only(child)
    assert health.verdict == "healthy"
    assert {item.rule for item in health.findings} >= {"quantised"}


def test_a_parent_itself_is_only_found_to_be_unchanged() -> None:
    health = weights_only(FAMILY / "mother")
    assert alarms(health) == {"nothing_changed"}
    assert health.counts["equal_mother"] == health.counts["tensors"] == 57


def test_probes_of_child_and_parents_are_in_the_report(
    darwin_child: Path, tmp_path: Path
) -> None:
    health = check(str(darwin_child), probes=PROBES, out=tmp_path / "report")
    assert health.verdict == "healthy"
    assert (health.father, health.base) == (PARENTS["father"], PARENTS["base"])
    for role in ("child", "father", "mother"):
        assert len(health.measured.importance[role]["MATH"]) == 6
    assert {row.model for row in health.measured.answers} == {
        "child",
        "father",
        "mother",
    }
    assert read_health(tmp_path / "report") == health
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == [
        "health.json",
        "health.png",
    ]
    assert (tmp_path / "report" / "health.png").read_bytes()[:4] == b"\x89PNG"


def test_a_parents_own_importance_is_the_childs_where_it_is_the_child(
    tmp_path: Path,
) -> None:
    health = check(PARENTS["father"], **PARENTS, probes=PROBES)
    rows = health.measured.importance
    assert rows["child"] == rows["father"] != rows["mother"]


def test_every_tensor_of_a_darwin_child_is_what_its_yaml_gives(
    darwin_child: Path,
) -> None:
    health = check(str(darwin_child), probes=[], verify="all")
    assert health.counts["verified"] == health.counts["tensors"] == 57
    assert health.findings == []


def test_one_changed_element_is_found_by_merging_again(
    darwin_child: Path, tmp_path: Path
) -> None:
    child = Path(shutil.copytree(darwin_child, tmp_path / "child"))
    state = load_file(child / "model.safetensors")
    name = "model.layers.2.mlp.up_proj.weight"
    state[name][3, 4] *= 1.01
    save_file(state, child / "model.safetensors", metadata={"format": "pt"})
    found = [row for row in weights_only(child, verify="all").findings]
    assert [(row.rule, row.tensor, row.found) for row in found] == [
        ("recipe", name, 1.0)
    ]
    assert weights_only(child, verify="none").findings == []


def test_a_sample_of_eight_tensors_is_verified(darwin_child: Path) -> None:
    assert weights_only(darwin_child).counts["verified"] == 8


def test_models_of_the_yaml_that_are_gone_are_named(
    darwin_child: Path, tmp_path: Path
) -> None:
    child = Path(shutil.copytree(darwin_child, tmp_path / "child"))
    file = child / "mergekit_config.yml"
    file.write_text(file.read_text().replace(PARENTS["mother"], "./gone"))
    with pytest.raises(DarwinError, match=r"\./gone.*not there"):
        check(str(child), probes=[])


def test_unknown_parents_are_asked_for() -> None:
    with pytest.raises(DarwinError, match="--father and --mother"):
        check(PARENTS["father"], probes=[])


def test_a_command_without_findings_ends_with_0(darwin_child: Path) -> None:
    run = CliRunner().invoke(main, [str(darwin_child), "--no-probes", "--quiet"])
    assert run.exit_code == 0, run.output
    assert "HEALTHY" in run.output and "No findings." in run.output
    assert read_health(darwin_child).verdict == "healthy"


def test_json_of_an_unhealthy_child_ends_with_3(tmp_path: Path) -> None:
    child = cases.break_child("one NaN", FAMILY, tmp_path / "child")
    words = [str(child), "--no-probes", "--quiet", "--json", "--out", str(tmp_path)]
    for role, place in PARENTS.items():
        words += [f"--{role}", place]
    run = CliRunner().invoke(main, words)
    assert run.exit_code == 3
    report = json.loads(run.stdout)
    assert report["format"] == "mergekit-darwin/health"
    (found,) = report["findings"]
    assert (found["rule"], found["layer"], found["found"]) == ("nan", 1, 1.0)
    assert not (child / "health.json").exists()


def test_a_user_error_ends_with_1_and_one_line() -> None:
    run = CliRunner().invoke(main, ["./nowhere", "--father", "a", "--mother", "b"])
    assert run.exit_code == 1
    assert run.stderr.count("\n") == 1 and "./nowhere" in run.stderr


def test_a_threshold_given_on_the_command_line_is_used(darwin_child: Path) -> None:
    words = [
        str(darwin_child),
        "--no-probes",
        "--quiet",
        "--threshold",
        "norm_high=0.9",
    ]
    run = CliRunner().invoke(main, [*words, "--json"])
    report = json.loads(run.stdout)
    assert report["settings"]["norm_high"] == 0.9
    rules = {row["rule"] for row in report["findings"]}
    assert rules == {"norm_range", "std_range"}


def test_help_loads_no_torch() -> None:
    code = (
        "import sys\nfrom mergekit_darwin.cli.health import main\n"
        "main(['--help'], standalone_mode=False)\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "stray_blind" in run.stdout
