"""darwin_v6 as mergekit sees it: one group of tensors in, one tensor out."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Annotated, Any

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
from mergekit_darwin.kernel.finite import blame, check_finite, refuse_unsound
from mergekit_darwin.kernel.operators import operate
from mergekit_darwin.kernel.profile import Profile, profile_pair
from mergekit_darwin.merge.provider import lone_prescription, prescription
from mergekit_darwin.merge.roles import roles_of
from mergekit_darwin.merge.run import MergeRun, current_run, observe
from mergekit_darwin.merge.settings import (
    PARAMETERS,
    MergeSettings,
    default,
    meaning,
    settle,
    value_type,
)
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
    profiles = profile_pair(father, mother)
    for profile, whose in zip(profiles, ("Father", "Mother"), strict=True):
        refuse_unsound(name, whose, profile)
    return profiles


def _sound_child(
    row: Prescription, settings: MergeSettings, inputs: dict[str, torch.Tensor]
) -> torch.Tensor:
    """Return the child's tensor; raises DarwinError where it is not finite."""
    if row.route != "blend":
        child = inputs[row.route.capitalize()].clone()
        check_finite(row.name, child, inputs)
        return child
    father, mother, base = inputs.values()
    masked = father.ndim >= 2  # a dropped tenth of a norm is damage (our choice)
    operation = settings.operation(row.name, row.ratio, masked=masked)
    try:
        child = operate(base, father, mother, operation)
    except FloatingPointError:
        blame(row.name, inputs)
    if child.device.type != "cpu":  # there the kernel has not looked, and masks hide
        for tensor in (*inputs.values(), child):
            check_finite(row.name, tensor, inputs)
    return child


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
