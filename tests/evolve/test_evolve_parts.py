"""The parts of a breeding run that need no model: config, log, statistics, card."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.evolve.config import (
    check_benchmarks,
    config_yaml,
    make_config,
    read_config,
)
from mergekit_darwin.evolve.log import (
    Evaluation,
    EvaluationLog,
    check_fits,
    read_log,
)
from mergekit_darwin.evolve.results import Row, better, paired, verdict
from mergekit_darwin.files import locked

LEAST = {"father": "org/father", "mother": "org/mother", "tasks": ["one"]}


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"sead": 1}, "there is no key 'sead'"),
        ({"blocs": 6}, "Did you mean 'blocks'"),
        ({"search": {"sigma": 1}}, "Did you mean 'sigma0'"),
        ({"search": {"seed": 0}}, "0 would mean the clock"),
        ({"search": {"proxy_steps": 20}}, "search.proxy_steps"),
        ({"tasks": [{"name": "x", "wieght": 1}]}, "Did you mean 'weight'"),
        ({"tasks": []}, "tasks"),
        ({"heldout": ["one"]}, "both searched on and held out"),
        ({"heldout": 1.5}, "heldout"),
        ({"genes": "all"}, "'published' or 'extended'"),
        ({"mother": "org/father"}, "two different models"),
        ({"transplant_low": 0.9}, "must not exceed"),
    ],
)
def test_a_bad_config_names_the_key_and_what_is_near(keys, said):
    with pytest.raises(DarwinError) as caught:
        make_config({**LEAST, **keys})
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_key_is_named():
    with pytest.raises(DarwinError, match="'mother' is required"):
        make_config({"father": "a", "tasks": ["x"]})


def test_genes_are_extended_where_there_is_a_third_base():
    assert make_config(LEAST).gene_kind == "published"
    assert make_config({**LEAST, "base_model": "org/base"}).gene_kind == "extended"
    fathers = make_config({**LEAST, "base_model": "org/father"})
    assert fathers.gene_kind == "published" and fathers.third_base is None
    forced = make_config({**LEAST, "genes": "extended"})
    assert forced.gene_kind == "extended"


def test_paths_are_relative_to_the_yaml_and_hub_names_stay(tmp_path):
    (tmp_path / "models" / "father").mkdir(parents=True)
    (tmp_path / "tasks").mkdir()
    keys = {"father": "models/father", "mother": "org/mother"}
    keys |= {"tasks": ["one"], "include_path": "tasks"}
    path = tmp_path / "evolve.yml"
    path.write_text(yaml.safe_dump(keys))
    config = read_config(path)
    assert config.father == str(tmp_path / "models" / "father")
    assert config.mother == "org/mother"
    assert config.include_path == [str(tmp_path / "tasks")]


def test_a_frozen_config_reads_back_as_itself():
    config = make_config({**LEAST, "heldout": [{"name": "two", "weight": 2}]})
    assert make_config(yaml.safe_load(config_yaml(config))) == config


def test_the_example_is_a_config():
    example = Path(__file__).parents[2] / "examples" / "evolve.yml"
    config = read_config(example)
    assert len(config.tasks) == 5 and isinstance(config.heldout, list)


def test_public_benchmarks_need_the_flag():
    config = make_config({**LEAST, "tasks": ["gsm8k", "own_task"]})
    with pytest.raises(DarwinError, match="--allow-benchmark-tasks"):
        check_benchmarks(config, allowed=False)
    assert check_benchmarks(config, allowed=True) == ["gsm8k"]
    assert check_benchmarks(make_config(LEAST), allowed=False) == []


def line(index: int, **changes) -> Evaluation:
    """Return a line of the log."""
    content = {"phase": "real", "generation": 1, "name": "x", "score": 0.5}
    return Evaluation(index=index, **{**content, **changes})


def test_log_forgets_a_torn_line_and_nothing_else(tmp_path):
    path = tmp_path / "evaluations.jsonl"
    log = EvaluationLog(path)
    for index in range(3):
        log.append(line(index))
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    again = EvaluationLog(path)
    assert sorted(again.lines) == [0, 1]
    again.append(line(2))
    assert path.read_bytes() == whole
    assert read_log(path) == log.lines


def test_log_refuses_a_damaged_line(tmp_path):
    path = tmp_path / "evaluations.jsonl"
    path.write_text('{"index": 0, "phase": "odd"}\n')
    with pytest.raises(DarwinError, match="line 1"):
        read_log(path)


def test_a_line_of_another_run_does_not_fit():
    found = line(4, genome={"lambda": 1.0}, genome_hash="a" * 16)
    check_fits(found, line(4, genome={"lambda": 1.0}, genome_hash="a" * 16))
    with pytest.raises(DarwinError, match="evaluation 4 has genome_hash"):
        check_fits(found, line(4, genome={"lambda": 1.5}, genome_hash="b" * 16))


def test_the_lock_is_let_go(tmp_path):
    with locked(tmp_path, "--out"), pytest.raises(DarwinError, match="in use"):
        with locked(tmp_path, "--out"):
            pass
    with locked(tmp_path, "--out"):
        pass


def exam(*weights: float) -> SimpleNamespace:
    """Return what the statistics read of an exam."""
    papers = [
        SimpleNamespace(name=f"t{i}", weight=weight) for i, weight in enumerate(weights)
    ]
    return SimpleNamespace(papers=papers)


def row(name: str, score: float, **items: list[float]) -> Row:
    """Return a row of the table."""
    return Row(name, score, 0.01, {}, items)


def test_paired_test_by_hand():
    child = row("child", 0.75, t0=[1, 1, 1, 0])
    other = row("father", 0.25, t0=[1, 0, 0, 0])
    test = paired(child, other, exam(1.0))
    assert test is not None
    assert test.difference == pytest.approx(0.5)
    deviation = math.sqrt((0.25 * 4) / 3)
    assert test.stderr == pytest.approx(deviation / 2)
    assert (test.wins, test.losses) == (2, 0)
    assert test.p == pytest.approx(math.erfc(0.5 / test.stderr / math.sqrt(2)))


def test_paired_test_weighs_tasks():
    child = row("child", 0.0, t0=[1, 1, 1, 1], t1=[0, 0])
    other = row("mother", 0.0, t0=[0, 0, 0, 0], t1=[1, 1])
    test = paired(child, other, exam(0.75, 0.25))
    assert test is not None and test.difference == pytest.approx(0.5)
    assert test.stderr == 0.0 and test.p == 0.0


def test_without_items_there_is_no_test():
    assert paired(row("child", 1.0), row("father", 0.0), exam(1.0)) is None
    assert "cannot be compared" in verdict(None)


def test_a_small_difference_is_called_none_and_a_loss_a_loss():
    tie = [1.0, 0.0] * 50
    flipped = [0.0, 1.0] * 50
    test = paired(row("c", 0.5, t0=tie), row("f", 0.5, t0=flipped), exam(1.0))
    assert "no difference" in verdict(test)
    low, high = row("c", 0, t0=[0.0] * 99 + [1.0]), row("f", 1, t0=[1.0] * 100)
    worse = paired(low, high, exam(1))
    assert "BELOW" in verdict(worse)


def test_better_takes_only_the_named():
    rows = [row("father", 0.4), row("mother", 0.6), row("linear 0.5", 0.9)]
    assert better(rows, ("father", "mother")).name == "mother"
    assert better(rows, ("nobody",)) is None


def test_help_loads_no_torch_and_is_quick():
    code = (
        "import sys\nfrom mergekit_darwin.cli.evolve import main\n"
        "main(['--help'], standalone_mode=False)\n"
        "assert not {'torch', 'cma', 'numpy', 'mergekit'} & set(sys.modules)\n"
    )
    began = time.process_time()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert time.process_time() - began < 0.5
