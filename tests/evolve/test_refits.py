"""Refits at the end of a run: texts, owners, the better model, room for both."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

pytest.importorskip("lm_eval")

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.evolve.compare import make_comparison, room
from mergekit_darwin.evolve.log import Evaluation, read_log
from mergekit_darwin.evolve.options import RunOptions
from mergekit_darwin.evolve.pages import said_of_room
from mergekit_darwin.evolve.reading import make_config
from mergekit_darwin.evolve.refits import Refitted, best_refit
from mergekit_darwin.evolve.run import evolve
from mergekit_darwin.evolve.tasks import Task, TaskSet
from mergekit_darwin.health.run import check
from mergekit_darwin.refit.report import read_refit
from tests import evolving

pytestmark = pytest.mark.usefixtures("one_thread")
SAYINGS = [f"a saying of number {i}: {i * 7 % 13} and {i * 5 % 11}" for i in range(40)]


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return evolving.write_family(tmp_path_factory.mktemp("family") / "f")


@pytest.fixture(scope="module")
def texts(family):
    """Return a folder with texts beside the tasks, one file of them the task's own."""
    folder = family / "texts"
    folder.mkdir()
    rows = [{"prompt": f"more sums {i}=", "completion": str(i)} for i in range(30)]
    (folder / "toy_sums.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    (folder / "sayings.txt").write_text("\n".join(SAYINGS) + "\n")
    return folder


def keys(family: Path, **changes):
    search = {"max_evaluations": 4, "top_k": 2, "seed": 3}
    return evolving.content(family, search=search, refit=True, **changes)


def run_once(family: Path, texts: Path, folder: Path):
    config = make_config(keys(family, refit_texts=str(texts)))
    return evolve(config, folder, RunOptions(quiet=True, in_memory=True))


@pytest.fixture(scope="module")
def finished(family, texts, tmp_path_factory):
    return run_once(family, texts, tmp_path_factory.mktemp("run") / "r")


def digests(folder: Path) -> dict[str, str]:
    tensors = json.loads((folder / "manifest.json").read_text())["tensors"]
    return {name: row["sha256"] for name, row in tensors.items()}


def test_both_refits_stand_in_the_comparison_and_the_report(finished):
    rows = [row.name for row in finished.table.rows]
    assert {"child", "refitted child", "refitted mean"} <= set(rows)
    assert rows[-1] == (finished.chosen.name if finished.chosen else "child")
    report = (finished.folder / "report.md").read_text()
    for name in ("## Refit", "| refitted child |", "| refitted mean |", "flattered"):
        assert name in report
    phases = [
        line.phase for line in read_log(finished.folder / "evaluations.jsonl").values()
    ]
    assert phases.count("refit") == 2


def test_health_takes_a_refit_for_what_it_is(finished):
    roles = ("father", "mother")
    parents = {role: getattr(finished.config, role) for role in roles}
    for way in finished.refits:
        found = check(str(way.folder), **parents, probes=[], verify="none").findings
        assert ("refitted", "note") in {(row.rule, row.severity) for row in found}
        assert not {"stray", "lines", "turned"} & {row.rule for row in found}


def test_a_refits_report_names_its_merge_alike_in_every_run(finished):
    for way in finished.refits:
        named = Path(read_refit(way.folder).models["child"].model)
        assert named.name == f"candidate-{way.folder.name}"


def test_texts_of_a_tasks_name_go_with_its_search_items(finished):
    written = {x.stem: x for x in (finished.folder / "refit" / "texts").iterdir()}
    assert set(written) == {"toy_sums", "toy_letters", "sayings"}
    sums = [json.loads(line) for line in written["toy_sums"].open()]
    assert len(sums) == evolving.ITEMS // 2 + 30
    assert sums[0]["prompt"].startswith("toy_sums ")


def test_each_task_teaches_the_parent_who_scores_higher_on_it(finished):
    lines = {line.name: line for line in finished.diagnosis.family}
    report = finished.refits[0].report
    for task in evolving.TASKS:
        father, mother = (lines[role].value(task) for role in ("father", "mother"))
        taught = {
            r for r in ("father", "mother") if task.upper() in report.texts[r].probes
        }
        wanted = {"father"} if father > mother else {"mother"}
        assert taught == ({"father", "mother"} if father == mother else wanted)


def test_a_second_start_refits_nothing_and_leaves_the_same_bytes(
    finished, family, texts, monkeypatch
):
    before = {
        path: path.read_bytes()
        for path in finished.folder.rglob("*")
        if path.is_file() and path.suffix in (".safetensors", ".jsonl", ".yml")
    }
    monkeypatch.setattr("mergekit_darwin.evolve.refits.refit", None)
    run_once(family, texts, finished.folder)
    for path, content in before.items():
        assert path.read_bytes() == content, path


def test_a_damaged_refit_is_made_again_as_it_was(finished, family, texts):
    folder = finished.folder / "refit" / "mean"
    weights = folder / "model-00001-of-00001.safetensors"
    weights = weights if weights.exists() else next(folder.glob("*.safetensors"))
    wanted = weights.read_bytes()
    weights.write_bytes(wanted[:-1] + bytes([wanted[-1] ^ 1]))
    run_once(family, texts, finished.folder)
    assert weights.read_bytes() == wanted


def test_the_commands_of_a_refitted_models_card_make_its_bytes(
    finished, family, tmp_path, monkeypatch
):
    from mergekit.scripts.run_yaml import main as merge

    from mergekit_darwin.cli.refit import main
    from mergekit_darwin.evolve.card import refit_commands

    made, mean = tmp_path / "merged", finished.refits[1]
    recipe = mean.folder / "before_refit.mergekit_config.yml"
    assert CliRunner().invoke(merge, [str(recipe), str(made)]).exit_code == 0
    said = refit_commands(finished.config, mean).replace("\\\n", " ").splitlines()[1]
    words = shlex.split(said.replace("RUN/", f"{finished.folder}/"))
    for role in ("father", "mother"):
        words[words.index(f"--{role}") + 1] = str(family / role)
    words = [str(made) if x == "merged/" else x for x in words[1:]]
    words[words.index("--out") + 1] = str(tmp_path / "out")
    done = CliRunner().invoke(main, [*words, "--dtype", "float32"])
    assert done.exit_code in (0, 3), done.output
    assert digests(tmp_path / "out") == digests(mean.folder)


def test_held_out_items_among_refit_texts_are_refused_before_the_scan(family, tmp_path):
    for name, line in (
        ("a.jsonl", json.dumps({"prompt": " toy_sums 1= ", "completion": "5"})),
        ("b.txt", "toy_sums 1=17"),
    ):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_text(line + "\n")
        config = make_config(keys(family, refit_texts=str(folder)))
        with pytest.raises(DarwinError, match="no held-out item") as caught:
            evolve(config, tmp_path / f"run {name}", RunOptions(quiet=True))
        assert "toy_sums 1=" in caught.value.message
        assert not (tmp_path / f"run {name}" / "mds").exists()


def test_texts_without_refit_and_texts_that_are_not_there_are_refused(family, tmp_path):
    with pytest.raises(DarwinError, match="refit_texts"):
        make_config({**keys(family), "refit": False, "refit_texts": "x"})
    with pytest.raises(DarwinError, match="refit_texts must exist"):
        make_config({**keys(family), "refit_texts": "nowhere"}, tmp_path)
    without = {k: v for k, v in keys(family).items() if k != "refit"}
    assert not make_config(without).refits
    assert make_config({**without, "refit_texts": "x"}).refits


def line(name: str, score: float | None, **tasks: float) -> Evaluation:
    """Return a line with each task's acc, its standard error 0.02."""
    rows = {task: {"acc": acc, "stderr": 0.02, "n": 400} for task, acc in tasks.items()}
    head = {"index": 0, "phase": "baseline", "generation": 0}
    return Evaluation(**head, name=name, score=score, tasks=rows)


def refitted(name: str, score: float | None, verdict: str) -> Refitted:
    report = SimpleNamespace(verdict=verdict)
    return Refitted(name, Path(name), report, line(name, score))


def test_the_final_model_is_the_best_sound_one_on_the_search_items():
    child = line("child", 0.5)
    sound = refitted("a", 0.6, "sound")
    lost = refitted("b", 0.9, "general text lost")
    assert best_refit(child, [sound, lost]) is sound
    assert best_refit(child, [refitted("a", 0.5, "sound"), lost]) is None
    assert best_refit(child, [refitted("a", None, "sound")]) is None
    assert best_refit(child, [sound, refitted("c", 0.7, "sound")]).name == "c"


def comparison(*rows: Evaluation):
    tasks = [Task(n, "acc", 0.5, 1.0, (), None) for n in ("t0", "t1")]
    return make_comparison(rows, [], TaskSet(tuple(tasks), ""))


def test_room_is_what_the_best_way_keeps_of_each_parents_lead():
    father, mother = (
        line("father", 0.4, t0=0.8, t1=0.1),
        line("mother", 0.4, t0=0.2, t1=0.5),
    )
    mean, child = (
        line("mean", 0.3, t0=0.5, t1=0.3),
        line("child", 0.6, t0=0.77, t1=0.46),
    )
    found = room(comparison(father, mother, mean, child))
    assert found.way == "child"
    assert found.father == pytest.approx(0.57 / 0.6)
    assert found.mother == pytest.approx(0.36 / 0.4)
    assert "keeps 95% of the Father's and 90% of the Mother's" in said_of_room(found)[0]
    assert "no way tried" in said_of_room(room(comparison(father, mother, mean)))[0]


def test_room_is_not_told_where_a_parent_leads_on_no_task():
    father, mother = (
        line("father", 0.4, t0=0.8, t1=0.52),
        line("mother", 0.4, t0=0.2, t1=0.5),
    )
    assert room(comparison(father, mother, line("child", 0.6, t0=0.7, t1=0.5))) is None
    assert said_of_room(None) == []
