"""darwin_v6 as mergekit sees it: one group of tensors in, one tensor out."""

from __future__ import annotations

import logging
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
from mergekit_darwin.kernel.dare_ties import Blend, merge_three, merge_two
from mergekit_darwin.kernel.finite import blame, check_finite, refuse_unsound
from mergekit_darwin.kernel.profile import profile_pair
from mergekit_darwin.merge.options import GENES, OPTIONS, value_type
from mergekit_darwin.merge.settings import Settings, settle
from mergekit_darwin.models.names import site_of
from mergekit_darwin.ratios.rules import (
    Prescription,
    Scores,
    prescribe,
    published_scores,
)

LOG = logging.getLogger("mergekit_darwin")
NAME = "darwin_v6"


def _plan_of_run(value: object) -> Any:
    # Imported late: while mergekit itself is being imported, its planner is not there.
    from mergekit_darwin.merge.run_plan import current_plan

    return current_plan(value)


def _specs() -> tuple[ParameterSpec, ...]:
    shared = ParameterScope.SHARED
    options = [
        ParameterSpec(
            option.name,
            value_type(option.name),
            shared,
            default=option.default,
            description=option.meaning,
        )
        for option in OPTIONS
    ]
    genes = [
        ParameterSpec(
            gene.name,
            value_type(gene.name),
            shared,
            default=None,
            description=gene.meaning,
        )
        for gene in GENES.values()
    ]
    plan = ParameterSpec(
        "darwin_plan",
        Annotated[Any, PlainValidator(_plan_of_run)],
        shared,
        default=None,
        description="the run as a whole; not for users",
    )
    return (plan, *options, *genes)


class DarwinV6(GroupMergeMethod):
    """Per-tensor ratios from a scan and a genome, transplants, DARE-TIES."""

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
        """Refuse more than two parents; roles are checked with the run as a whole.

        mergekit also asks this of a tensor that some models lack, base among them.
        """
        parents = [model for model in input_ids if model != base_id]
        if not input_ids or len(parents) > 2 or len(set(input_ids)) < len(input_ids):
            place = f" in {group_name}" if group_name else ""
            raise DarwinError(
                f"darwin_v6 merges exactly two different parents{place}, first the"
                f" Father, then the Mother, and at most one base; got {len(parents)}"
                f" beside the base: {', '.join(map(str, parents)) or 'none'}."
            )

    def merge_group(self, group: TensorGroup, /, **parameters: Any) -> torch.Tensor:
        """Return the child's tensor, new and of the inputs' shape, dtype and device.

        Raises DarwinError, naming the tensor, for NaN or Inf in a parent.
        """
        plan = parameters.pop("darwin_plan")
        settings = settle(parameters)
        trio = _inputs(group, plan)
        row = _prescription(group, trio, settings, plan)
        if len(trio) == 1:
            plan.record(row, parent=row.route)
            return trio["survivor"].clone()
        base, father, mother = trio["base"], trio["father"], trio["mother"]
        child = _sound_child(row, settings, base, father, mother)
        if plan is not None:
            plan.record(row, parent=_equal_parent(row, child, father, mother, plan))
        return child


def _inputs(group: TensorGroup, plan: Any) -> dict[str, torch.Tensor]:
    """Return the tensors by role; one entry only where just one model has it.

    Without a third base the Father's tensor stands for the base.
    """
    base, others = group.base, group.non_base
    tensors = [entry.tensor for entry in others]
    if plan is not None:
        ids = tuple(entry.id for entry in others)
        if plan.roles_of(base.id if base else None, ids) is None:
            if base is None and plan.base_is_lost(ids):
                return dict(
                    zip(
                        ("base", "father", "mother"),
                        [tensors[0], *tensors],
                        strict=True,
                    )
                )
            return _survivor(group)
    if base is None and len(tensors) == 2:
        return {"base": tensors[0], "father": tensors[0], "mother": tensors[1]}
    if base is not None and len(tensors) == 2:
        return {"base": base.tensor, "father": tensors[0], "mother": tensors[1]}
    if base is not None and len(tensors) == 1 and group.entries[0].is_base:
        return {"base": base.tensor, "father": base.tensor, "mother": tensors[0]}
    raise DarwinError(
        f"Tensor {group.metadata.name!r} must come from two parents, the Father first,"
        f" the base being the Father or a third model; got {len(group.entries)} inputs."
    )


def _survivor(group: TensorGroup) -> dict[str, torch.Tensor]:
    """Return the one parent's tensor of a group that the other parent lacks."""
    present = group.non_base or group.entries
    return {"survivor": present[0].tensor}


def prescribe_group(group: TensorGroup, settings: Settings, plan: Any) -> Prescription:
    """Return the row of the ratio table that merging this group would follow.

    The tensors are looked at only where needs_weights says so; elsewhere empty ones
    will do.
    """
    return _prescription(group, _inputs(group, plan), settings, plan)


def needs_weights(name: str, settings: Settings) -> bool:
    """Return whether a tensor's ratio rests on its weights, no report knowing it."""
    explicit = _explicit(name, settings) is not None
    if explicit or settings.genome["mri_trust"] == 0.0:
        return False
    return settings.report is None or name not in settings.report.scores(settings.mri)


def _explicit(name: str, settings: Settings) -> float | None:
    if settings.ratio is None and settings.table is not None:
        return settings.table.ratios.get(name)
    return settings.ratio


def _prescription(
    group: TensorGroup, trio: dict[str, torch.Tensor], settings: Settings, plan: Any
) -> Prescription:
    """Return the row of the ratio table that this tensor's merge will follow."""
    name = group.metadata.name or ""
    if len(trio) == 1:
        present = (group.non_base or group.entries)[0]
        return plan.lone_row(name, present.id)
    scores = None
    if needs_weights(name, settings):
        scores = _measured(name, trio["father"], trio["mother"])
        if plan is not None:
            plan.say_static()
    elif settings.report is not None:
        scores = settings.report.scores(settings.mri).get(name)
    return prescribe(
        site_of(name),
        settings.genome,
        depth=depth_of(name, settings, plan),
        scores=scores,
        explicit=_explicit(name, settings),
        routing=settings.routing,
    )


def depth_of(name: str, settings: Settings, plan: Any) -> int | None:
    """Return the number of layers of a tensor's stack, None outside or if unknown."""
    stack = site_of(name).stack
    if stack is None:
        return None
    if settings.layers is not None:
        return settings.layers
    if plan is not None and stack in plan.depths:
        return plan.depths[stack]
    return settings.report.depths.get(stack) if settings.report else None


def _measured(name: str, father: torch.Tensor, mother: torch.Tensor) -> Scores:
    profiles = profile_pair(father, mother)
    for profile, whose in zip(profiles, ("Father", "Mother"), strict=True):
        refuse_unsound(name, whose, profile)
    return published_scores(*profiles)


def _sound_child(
    row: Prescription,
    settings: Settings,
    base: torch.Tensor,
    father: torch.Tensor,
    mother: torch.Tensor,
) -> torch.Tensor:
    """Return the child's tensor; raises DarwinError where it is not finite."""
    inputs = {"Father": father, "Mother": mother, "base": base}
    try:
        child = _apply(row, settings, base, father, mother)
    except FloatingPointError:
        blame(row.name, inputs)
    on_host = child.device.type == "cpu"
    if row.route == "blend" and not on_host:  # a mask may hide what is not finite
        for tensor in inputs.values():
            check_finite(row.name, tensor, inputs)
    if row.route != "blend" or not on_host or child.dtype == torch.float16:
        check_finite(row.name, child, inputs)  # else the kernel has looked, in float32
    return child


def _apply(
    row: Prescription,
    settings: Settings,
    base: torch.Tensor,
    father: torch.Tensor,
    mother: torch.Tensor,
) -> torch.Tensor:
    if row.route == "father":
        return father.clone()
    if row.route == "mother":
        return mother.clone()
    genome = settings.genome
    blend = Blend(
        ratio=row.ratio,
        density_a=genome["density_a"],
        density_b=genome["density_b"],
        weight=genome["merge_method_weight"],
        lambda_=genome["lambda"],
        rescale=settings.rescale,
        normalize=settings.normalize,
        seed=settings.seed,
        name=row.name,
        masked=father.ndim >= 2,  # a dropped tenth of a norm is damage (our choice)
    )
    if base is father:
        return merge_two(father, mother, blend)
    return merge_three(base, father, mother, blend)


def _equal_parent(
    row: Prescription,
    child: torch.Tensor,
    father: torch.Tensor,
    mother: torch.Tensor,
    plan: Any,
) -> str | None:
    """Return whose tensor the child's equals; compared only while nothing changed."""
    if row.route != "blend":
        return row.route
    if plan.undecided and torch.equal(child, father):
        return "father"
    if plan.undecided and torch.equal(child, mother):
        return "mother"
    return None


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
