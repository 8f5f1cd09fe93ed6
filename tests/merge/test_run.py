"""A run: what mergekit says while it plans, and the record of what it made."""

from __future__ import annotations

import pytest
from mergekit.common import ModelReference
from mergekit.config import MergeConfiguration

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.merge.provider import lone_prescription
from mergekit_darwin.merge.roles import Roles
from mergekit_darwin.merge.run import MergeRun, current_run, observe
from mergekit_darwin.models.plan import planned_tasks
from tests.merging import darwin

FATHER, MOTHER, BASE = map(ModelReference.parse, ("father", "mother", "base"))


def run_of(config: dict) -> MergeRun:
    """Return the run of a configuration that mergekit has planned."""
    tasks = planned_tasks(MergeConfiguration.model_validate(config))
    (run,) = {id(task.parameters["darwin_run"]): task for task in tasks}.values()
    return run.parameters["darwin_run"]


def test_roles_and_names_come_from_what_mergekit_plans(trio: dict[str, str]) -> None:
    run = run_of(darwin(trio))
    base, father, mother = (
        ModelReference.parse(trio[name]) for name in ("base", "father", "mother")
    )
    assert set(run.roles.values()) == {Roles(base, father, mother)}
    assert run.depths == {"model.layers": 4}
    assert len(run.roles) == 39 and run.out_path is None


def test_runs_planned_one_after_the_other_stay_apart(trio: dict[str, str]) -> None:
    first, second = run_of(darwin(trio)), run_of(darwin(trio, "father"))
    assert first is not second
    assert {roles.third is None for roles in second.roles.values()} == {True}
    assert {roles.third is None for roles in first.roles.values()} == {False}


def test_a_tensor_that_is_merged_ends_the_planning() -> None:
    observe([FATHER, MOTHER, BASE], BASE, None)
    run = current_run(None)
    assert run is not None
    observe([FATHER, MOTHER, BASE], BASE, "a.weight")
    assert current_run(None) is run
    observe([FATHER, MOTHER, BASE], BASE, "b.weight")
    observe([FATHER, MOTHER], BASE, "a.weight")  # a base that lacks it: no error
    assert current_run(None) is None
    assert list(run.roles) == ["a.weight", "b.weight"]


def test_a_planning_that_failed_leaves_nothing_behind() -> None:
    observe([FATHER, MOTHER, BASE], BASE, "default.slices[0]")
    observe([FATHER, MOTHER], FATHER, "default.slices[0]")
    run = current_run(None)
    observe([FATHER, MOTHER], FATHER, "a.weight")
    assert run is not None and run.roles == {"a.weight": Roles(FATHER, FATHER, MOTHER)}


def test_tensors_merged_in_memory_belong_to_no_run() -> None:
    observe([FATHER, MOTHER], FATHER, "default.slices[0]")
    observe([0, 1], None, "x")
    assert current_run(None) is None


def test_unclear_roles_stop_while_mergekit_plans() -> None:
    with pytest.raises(DarwinError, match="exactly two parents"):
        observe([FATHER, MOTHER, BASE], None, "default.slices[0]")


def test_the_parameter_of_the_run_is_not_for_users() -> None:
    with pytest.raises(DarwinError, match="leave it out"):
        current_run("mine")


def test_integer_buffers_do_not_keep_the_record_open() -> None:
    run = MergeRun()
    run.roles = dict.fromkeys(("weight", "counter"), Roles(None, FATHER, MOTHER))
    run.copied = frozenset({"counter"})
    with pytest.raises(DarwinError, match="must change something"):
        run.record(lone_prescription("weight", mother=False), parent="father")
