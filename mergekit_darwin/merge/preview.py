"""The ratios of a darwin_v6 YAML before anything is merged, by the merge's own path.

mergekit plans the run as it would for a merge; the provider says what becomes of each
planned tensor. Headers and the report are enough wherever the report knows the tensor;
weights are read, one tensor at a time, only where it does not.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

from mergekit.common import ModelReference
from mergekit.config import MergeConfiguration
from mergekit.graph import Executor
from mergekit.merge_methods.base import TensorEntry, TensorGroup, TensorMetadata
from mergekit.merge_methods.dtype import align_dtype
from mergekit.merge_methods.task_adapter import ExecuteMergeMethodTask
from mergekit.options import MergeOptions

from mergekit_darwin.errors import about
from mergekit_darwin.kernel.profile import Profile
from mergekit_darwin.merge.findings import Finding
from mergekit_darwin.merge.headers import fit_of
from mergekit_darwin.merge.method import sound_profiles
from mergekit_darwin.merge.parameters import settle
from mergekit_darwin.merge.provider import (
    lone_prescription,
    needs_weights,
    prescription,
)
from mergekit_darwin.merge.roles import Roles
from mergekit_darwin.merge.run import MergeRun
from mergekit_darwin.merge.settings import MergeSettings
from mergekit_darwin.models.checkpoint import Checkpoint, open_checkpoint
from mergekit_darwin.models.plan import inputs_of, planned_tasks, stored_name
from mergekit_darwin.ratios.rules import Prescription
from mergekit_darwin.talk import silent

Profiles = tuple[Profile, Profile]


@dataclass(frozen=True)
class Planned:
    """One tensor of a planned run: its task, resolved settings, nothing loaded."""

    name: str
    task: ExecuteMergeMethodTask
    settings: MergeSettings
    run: MergeRun

    @property
    def roles(self) -> Roles:
        """The models of the slice that this tensor belongs to."""
        return self.run.roles[self.name]

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The tensor's shape by the headers, None where a layout is converted."""
        for model, weight in inputs_of(self.task).weight_info.items():
            found = _checkpoint(model)
            header = found.headers.get(stored_name(weight, found) or "")
            if header is not None:
                return header.shape
        return None

    @property
    def present(self) -> list[ModelReference]:
        """The models of its slice that have the tensor, by headers alone."""
        return [
            model
            for model, weight in inputs_of(self.task).weight_info.items()
            if stored_name(weight, _checkpoint(model)) is not None
        ]


@lru_cache(maxsize=8)
def _checkpoint(model: ModelReference) -> Checkpoint:
    return open_checkpoint(model)


@dataclass(frozen=True)
class Preview:
    """A darwin_v6 merge before it runs; each part is worked out when asked for."""

    config: MergeConfiguration
    options: MergeOptions

    @cached_property
    def findings(self) -> list[Finding]:
        """What of the models fits and what does not, by their headers, worst first."""
        return fit_of(self.config, self.options)

    @cached_property
    def planned(self) -> list[Planned]:
        """Every tensor that would be written. Raises DarwinError if none can be."""
        with silent("mergekit_darwin.fit"):  # the same as findings
            return plan_run(self.config, self.options)

    def rows(self, *, quiet: bool = True) -> list[Prescription]:
        """Return the ratio table, sorted by name; see ratio_rows."""
        return ratio_rows(self.planned, quiet=quiet)


def plan_run(
    config: MergeConfiguration, options: MergeOptions | None = None
) -> list[Planned]:
    """Return every tensor that a merge would write, sorted by name; loads nothing.

    config is not changed. Raises DarwinError if mergekit cannot plan the run.
    """
    tasks = planned_tasks(config.model_copy(deep=True), options)
    planned = {
        task.output_weight.name: Planned(
            task.output_weight.name,
            task,
            settle(dict(task.parameters.items())),
            task.parameters["darwin_run"],
        )
        for task in tasks
    }
    return [planned[name] for name in sorted(planned)]


def hints(planned: Iterable[Planned]) -> list[Finding]:
    """Return what a user may want to know of the settings, as notes."""
    alone = all(
        tensor.roles.third is None or tensor.settings.acting.get("lambda") != 1.0
        for tensor in planned
    )
    if alone:
        return []
    found = "1, so that ratio 0.5 is the mean of both task vectors over the base"
    effect = "lambda: 2 at ratio 0.5 is their sum, often the better start"
    return [Finding("note", "lambda", found, effect)]


def ratio_rows(planned: Iterable[Planned], *, quiet: bool = True) -> list[Prescription]:
    """Return the row of every tensor, in the order of planned.

    Reads the weights of those tensors whose ratio rests on them, with a progress bar
    unless quiet. Raises DarwinError for what would stop the merge there.
    """
    planned = list(planned)
    heavy = [
        tensor for tensor in planned if needs_weights(tensor.name, tensor.settings)
    ]
    with about("mergekit must load the weights that ratios rest on"):
        profiles = dict(measured(heavy, quiet=quiet))
    return [row_of(tensor, profiles.get(tensor.name)) for tensor in planned]


def row_of(tensor: Planned, profiles: Profiles | None) -> Prescription:
    """Return a planned tensor's row; profiles are needed where needs_weights says."""
    roles, present = tensor.roles, tensor.present
    if roles.father not in present or roles.mother not in present:
        return lone_prescription(tensor.name, mother=roles.mother in present)

    def given() -> Profiles:
        if profiles is None:
            raise ValueError(f"{tensor.name}: its profiles are needed")
        return profiles

    return prescription(tensor.name, tensor.settings, tensor.run.depths, given)


def measured(
    planned: list[Planned], *, quiet: bool = True
) -> Iterator[tuple[str, Profiles]]:
    """Yield name and both parents' profiles, of the weights as the merge sees them.

    One tensor is in memory at a time; tensors that a parent lacks are left out. Raises
    DarwinError for NaN or Inf.
    """
    waiting = defaultdict(list)
    for tensor in planned:
        waiting[tensor.task.gather_tensors].append(tensor)
    if not planned:
        return
    executor = Executor(targets=list(waiting))
    for task, found in executor.run(quiet=quiet, desc="Profiling weights"):
        for tensor in waiting.get(task, ()):
            entries = tuple(
                TensorEntry(id=model, tensor=weights, is_base=False)
                for model, weights in found.items()
                if weights is not None
            )
            metadata = TensorMetadata.from_weight_info(tensor.task.output_weight)
            aligned = align_dtype(TensorGroup(entries, metadata))
            weights = {entry.id: entry.tensor for entry in aligned.entries}
            roles = tensor.roles
            if roles.father in weights and roles.mother in weights:
                mri = tensor.settings.mri if tensor.settings.mds else None
                tensor.run.say_static(tensor.name, mri)
                pair = weights[roles.father], weights[roles.mother]
                yield tensor.name, sound_profiles(tensor.name, *pair)
