"""darwin_v6 as mergekit sees it: one group of tensors in, one tensor out."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Annotated, Any, NoReturn

import torch
from mergekit.merge_methods import register as register_with_mergekit
from mergekit.merge_methods import registered_methods
from mergekit.merge_methods.base import (
    BasePolicy,
    GroupMergeMethod,
    InputContract,
    MergeMethodSpec,
    ParameterScope,
    ParameterSpec,
    TensorGroup,
)
from pydantic import PlainValidator

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.kernel.operators import operate
from mergekit_darwin.kernel.profile import Profile, profile_tensor
from mergekit_darwin.merge.parameters import (
    PARAMETERS,
    default,
    meaning,
    settle,
    value_type,
)
from mergekit_darwin.merge.provider import lone_prescription, prescription
from mergekit_darwin.merge.roles import roles_of
from mergekit_darwin.merge.run import MergeRun, current_run, observe
from mergekit_darwin.merge.settings import MergeSettings
from mergekit_darwin.ratios.rules import Prescription

NAME = "darwin_v6"


def _specs() -> tuple[ParameterSpec, ...]:
    shared = ParameterScope.SHARED
    given = (
        ParameterSpec(
            name, value_type(name), shared, default(name), description=meaning(name)
        )
        for name in PARAMETERS
    )
    kind = Annotated[Any, PlainValidator(current_run)]
    words = "the run as a whole; not for users"
    return (ParameterSpec("darwin_run", kind, shared, None, description=words), *given)


class DarwinV6(GroupMergeMethod):
    """Per-tensor ratios from a scan and a genome, transplants, an operator."""

    spec = MergeMethodSpec(
        name=NAME,
        parameters=_specs(),
        contract=InputContract(base=BasePolicy.OPTIONAL, min_inputs=1, max_inputs=3),
        pretty_name="Darwin V6",
        reference_url="https://arxiv.org/abs/2311.03099",
    )

    def validate_inputs(
        self,
        input_ids: Sequence[Hashable],
        base_id: Hashable | None = None,
        *,
        group_name: str | None = None,
    ) -> None:
        """Take roles and names of what is planned; see run.observe."""
        observe(input_ids, base_id, group_name)

    def merge_group(self, group: TensorGroup, /, **parameters: Any) -> torch.Tensor:
        """Return the child's tensor, new and of the inputs' shape, dtype and device.

        Raises DarwinError, naming the tensor, for NaN or Inf in a parent.
        """
        run: MergeRun | None = parameters.pop("darwin_run")
        settings = settle(parameters)
        name = group.metadata.name or ""
        tensors = {entry.id: entry.tensor for entry in group.entries}
        base = group.base.id if group.base else None
        roles = run.roles[name] if run else roles_of([*tensors], base)
        father, mother = tensors.get(roles.father), tensors.get(roles.mother)
        if father is None or mother is None:
            row = lone_prescription(name, mother=mother is not None)
            (only, *_) = (
                t for t in (father, mother, *tensors.values()) if t is not None
            )
            return _recorded(only.clone(), row, run, row.route)
        inputs = {"Father": father, "Mother": mother}
        inputs["base"] = tensors.get(roles.base, father)

        def profiles() -> tuple[Profile, Profile]:
            if run is not None:
                run.say_static(name, settings.mri if settings.mds else None)
            return sound_profiles(name, father, mother)

        row = prescription(name, settings, run.depths if run else {}, profiles)
        child = _sound_child(row, settings, inputs)
        equal = _equal_parent(row, child, inputs) if run and run.undecided else None
        return _recorded(child, row, run, equal)


def _recorded(
    child: torch.Tensor, row: Prescription, run: MergeRun | None, parent: str | None
) -> torch.Tensor:
    if run is not None:
        run.record(row, parent=parent)
    return child


def sound_profiles(
    name: str, father: torch.Tensor, mother: torch.Tensor
) -> tuple[Profile, Profile]:
    """Return both profiles of a tensor. Raises DarwinError for NaN or Inf in it."""
    profiles = profile_tensor(father), profile_tensor(mother)
    for profile, whose in zip(profiles, ("Father", "Mother"), strict=True):
        if profile.nan or profile.inf:
            raise DarwinError(
                f"Every weight must be finite; tensor {name!r} of the {whose} has"
                f" {profile.nan} NaN and {profile.inf} Inf among {profile.numel}."
                " Repair or replace that checkpoint."
            )
    return profiles


def _sound_child(
    row: Prescription, settings: MergeSettings, inputs: dict[str, torch.Tensor]
) -> torch.Tensor:
    """Return the child's tensor; raises DarwinError where it is not finite."""
    if row.route != "blend":
        child = inputs[row.route.capitalize()].clone()
        _check_finite(row.name, child, inputs)
        return child
    father, mother, base = inputs.values()
    masked = father.ndim >= 2  # a dropped tenth of a norm is damage (our choice)
    operation = settings.operation(row.name, row.ratio, masked=masked)
    try:
        child = operate(base, father, mother, operation)
    except FloatingPointError:
        _blame(row.name, inputs)
    if child.device.type != "cpu":  # there the kernel has not looked, and masks hide
        for tensor in (*inputs.values(), child):
            _check_finite(row.name, tensor, inputs)
    return child


def _check_finite(
    name: str, tensor: torch.Tensor, inputs: Mapping[str, torch.Tensor]
) -> None:
    """Refuse a child's (or an input's) NaN or Inf, naming the input it came from.

    One sum over the tensor finds both; only then are the inputs, by role, looked at.
    Raises DarwinError, also for a finite merge that its dtype cannot hold.
    """
    if not bool(torch.isfinite(tensor.sum(dtype=torch.float32))):
        _blame(name, inputs)


def _blame(name: str, inputs: Mapping[str, torch.Tensor]) -> NoReturn:
    """Raise DarwinError for the input, by role, that is not finite, or an overflow."""
    for whose, tensor in inputs.items():
        bad = int((~torch.isfinite(tensor)).sum())
        if bad:
            raise DarwinError(
                f"Every weight must be finite; tensor {name!r} of the {whose} has"
                f" {bad} NaN or Inf among {tensor.numel()}. Repair that checkpoint."
            )
    raise DarwinError(
        f"The merged tensor {name!r} overflows {next(iter(inputs.values())).dtype}."
        " Merge in bfloat16 or float32 (dtype), or lower lambda."
    )


def _equal_parent(
    row: Prescription, child: torch.Tensor, inputs: dict[str, torch.Tensor]
) -> str | None:
    """Return whose tensor the child's equals, None if neither's."""
    if row.route != "blend":
        return row.route
    return next(
        (
            whose.lower()
            for whose in ("Father", "Mother")
            if torch.equal(child, inputs[whose])
        ),
        None,
    )


def register() -> None:
    """Make darwin_v6 known to mergekit in this process; calling again is harmless.

    Raises DarwinError if the name is taken by somebody else.
    """
    for method in registered_methods():
        if method.spec.name == NAME:
            if isinstance(method, DarwinV6):
                return
            raise DarwinError(
                f"mergekit already has a method {NAME!r}, from"
                f" {type(method).__module__}; uninstall one of the two."
            )
    register_with_mergekit(DarwinV6())
