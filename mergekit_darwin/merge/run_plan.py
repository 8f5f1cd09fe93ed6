"""What holds for a whole merge run: roles, depths, checks before, the record after.

mergekit shows a merge method one tensor at a time. The parameter `darwin_plan` has no
value of its own: while mergekit plans, its validator finds the planner that is asking
and hands out that run's RunPlan, so that every check of the run as a whole happens
before any tensor is loaded or any output written.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any
from weakref import WeakKeyDictionary

from mergekit.architecture.base import ConfiguredModelArchitecture, WeightInfo
from mergekit.common import ModelReference
from mergekit.plan import MergePlanner
from pydantic import TypeAdapter

from mergekit_darwin.errors import DarwinError, some
from mergekit_darwin.merge.options import check_names, value_type
from mergekit_darwin.merge.run_checks import check_models, check_report, check_table
from mergekit_darwin.merge.run_record import Roles, RunPlan
from mergekit_darwin.models.names import stack_depths

_FRAMES = 24  # how far up the planner may stand from a parameter's validator

_plans: WeakKeyDictionary[Any, RunPlan] = WeakKeyDictionary()
_flat_plans: dict[int, tuple[Any, RunPlan]] = {}


def current_plan(value: object) -> RunPlan | None:
    """Return the plan of the mergekit run that is being planned, None outside one.

    Raises DarwinError if the run as a whole is not a darwin_v6 merge that can work.
    """
    if isinstance(value, RunPlan):
        return value
    if value is not None:
        raise DarwinError("darwin_plan is set by the run itself; leave it out.")
    for frame in _callers():
        planner = frame.f_locals.get("self")
        if isinstance(planner, MergePlanner):
            return _plan_of(planner, frame)
        if frame.f_code.co_name == "plan_flat_merge":
            return _flat_plan_of(frame)
    return None


def _callers() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(2)
    for _ in range(_FRAMES):
        if frame is None:
            return
        yield frame
        frame = frame.f_back


def _plan_of(planner: MergePlanner, frame: FrameType) -> RunPlan:
    plan = _plans.get(planner)
    if plan is None:
        plan = _plans[planner] = _make_plan(planner, _out_path(frame))
    plan.planned += 1
    return plan


def _flat_plan_of(frame: FrameType) -> RunPlan:
    """Return the plan of a mergekit-pytorch run, which knows files but no planner."""
    config = frame.f_locals["config"]
    key = id(config)
    if key not in _flat_plans:
        _flat_plans.clear()  # one such run at a time; config is kept, so id holds
        _flat_plans[key] = (config, _make_flat_plan(config, frame))
    plan = _flat_plans[key][1]
    plan.planned += 1
    return plan


def _make_flat_plan(config: Any, frame: FrameType) -> RunPlan:
    check_names(config.parameters or {}, "under parameters")
    for model in config.models:
        _refuse_own_parameters(model)
    listed = [_file_reference(model.model) for model in config.models]
    base = _file_reference(config.base_model) if config.base_model else None
    if base is not None and base not in listed:
        listed.append(base)
    depths = stack_depths(frame.f_locals["all_tensor_names"])
    roles = frozenset([assign_roles(base, listed)])
    return RunPlan(roles, depths, frame.f_locals["out_path"])


def _file_reference(path: str) -> ModelReference:
    return ModelReference.model_validate({"model": {"path": path}})


def _refuse_own_parameters(source: Any) -> None:
    if source.parameters:
        raise DarwinError(
            "darwin_v6 takes its parameters for the whole merge, not for one model;"
            f" {source.model} has {some(source.parameters)}."
            " Move them under the top-level parameters."
        )


def _out_path(frame: FrameType | None) -> str | None:
    """Return the folder a run_merge in progress will write, None for a mere plan."""
    while frame is not None:
        caller = frame.f_back
        if frame.f_code.co_name == "plan_to_disk" and caller is not None:
            running = caller.f_code.co_name == "run_merge"
            return frame.f_locals.get("out_path") if running else None
        frame = caller
    return None


def _make_plan(planner: MergePlanner, out_path: str | None) -> RunPlan:
    config = planner.config
    for where, given in _parameter_places(config):
        check_names(given, where)
    roles = frozenset(_roles(config))
    architecture = ConfiguredModelArchitecture(
        info=planner.arch_info, config=planner.out_model_config
    )
    names = [weight.name for weight in architecture.all_weights()]
    plan = RunPlan(roles, stack_depths(names), out_path)
    if (config.parameters or {}).get("mds") is not None:
        _refuse_shifted_slices(config)
    resizes = (
        bool(config.tokenizer or config.tokenizer_source)
        or planner.options.unsafe_truncate_embeddings
    )
    for trio in sorted(roles, key=str):
        buffers = check_models(trio, _own_weights(planner, trio[1]), resizes=resizes)
        plan.expect_buffers(buffers & set(names))
        _check_files(config.parameters or {}, trio, names)
    return plan


def _own_weights(planner: MergePlanner, model: ModelReference) -> list[WeightInfo]:
    """Return the weights a model itself must have; slices may write more layers."""
    trust = planner.options.trust_remote_code
    return ConfiguredModelArchitecture(
        info=planner.arch_info, config=model.config(trust_remote_code=trust)
    ).all_weights()


def _refuse_shifted_slices(config: Any) -> None:
    """Refuse a report where slices move layers: its layers would be other ones."""
    for module in config.modules.values():
        written = 0
        for output in module.slices:
            for source in output.sources:
                if source.layer_range[0] != written:
                    raise DarwinError(
                        "A report speaks of whole models, so slices used with mds must"
                        f" keep every layer's place; {source.model} gives layer"
                        f" {source.layer_range[0]} as layer {written}. Leave mds out."
                    )
            first, last = output.sources[0].layer_range
            written += last - first


def _check_files(settings: Mapping[str, Any], trio: Roles, names: list[str]) -> None:
    """Check the report and the table of ratios that hold for the whole merge."""
    mds, table = settings.get("mds"), settings.get("ratios")
    if isinstance(mds, str):
        check_report(trio, _loaded("mds", mds), names)
    if isinstance(table, str):
        check_table(_loaded("ratios", table), names)


def _loaded(name: str, value: str) -> Any:
    return TypeAdapter(value_type(name)).validate_python(value)


def _parameter_places(config: Any) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Yield every mapping of parameters in a configuration, and where it stands."""
    yield "under parameters", config.parameters or {}
    for module_name, module in (config.modules or {}).items():
        yield f"module {module_name}", module.parameters or {}
        for number, output in enumerate(module.slices or []):
            yield f"slice {number}", output.parameters or {}
            for source in output.sources:
                _refuse_own_parameters(source)


def _roles(config: Any) -> Iterator[Roles]:
    """Yield (base, father, mother) of every slice. Raises DarwinError if unclear."""
    for module in config.modules.values():
        for output in module.slices:
            base = output.base_model or config.base_model
            listed = [source.model for source in output.sources]
            yield assign_roles(base, listed)


def assign_roles(base: ModelReference | None, listed: list[ModelReference]) -> Roles:
    """Return (base, father, mother) of models listed in YAML order.

    listed may hold the base too (mergekit appends it). Raises DarwinError unless there
    are two parents and the base is absent, the Father, or a third model.
    """
    parents = [model for model in listed if model != base]
    if len(parents) == 2:
        return (base, parents[0], parents[1])
    if len(parents) == 1 and len(listed) == 2 and listed[0] == base:
        return (base, listed[0], listed[1])
    if len(parents) == 1 and len(listed) == 2:
        raise DarwinError(
            "base_model must be the Father (the first model), a third model, or absent;"
            f" got the second, {base}, beside {parents[0]}. List both parents under"
            " models; to make the other one the Father, list it first."
        )
    raise DarwinError(
        "darwin_v6 merges exactly two parents, first the Father, then the Mother;"
        f" got {len(parents)}: {', '.join(map(str, parents)) or 'none'}."
    )
