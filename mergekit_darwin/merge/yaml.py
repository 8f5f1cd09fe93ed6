"""A merge as a YAML: written from a genome, read as mergekit reads it, and run."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from mergekit.architecture import get_architecture_info
from mergekit.common import dtype_from_name
from mergekit.config import MergeConfiguration
from mergekit.graph import Executor
from mergekit.io.tasks import LoaderCache
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from mergekit.scripts.multimerge import load_config

from mergekit_darwin.errors import DarwinError, about, nearest, some
from mergekit_darwin.files import read_yamls
from mergekit_darwin.merge.checks import check_keys
from mergekit_darwin.merge.method import NAME, register
from mergekit_darwin.merge.roles import Roles
from mergekit_darwin.merge.settings import MergeSettings
from mergekit_darwin.models import plan
from mergekit_darwin.ratios.genome import Genome

LOG = logging.getLogger("mergekit_darwin")


@dataclass(frozen=True)
class Common:
    """What all merges of a search have in common.

    roles names the models as in the YAML; settings lacks only the genome; head holds
    top-level keys of mergekit's YAML, such as dtype and tokenizer.
    """

    roles: Roles
    settings: MergeSettings = field(default_factory=MergeSettings)
    head: Mapping[str, Any] = field(default_factory=dict)

    def settings_of(self, genome: Genome) -> MergeSettings:
        """Return the settings with this genome; `hash` is the merge's genome_hash."""
        return self.settings.model_copy(update={"genome": genome})


def genome_yaml(common: Common, genome: Genome) -> str:
    """Return the YAML of a darwin_v6 merge, its genes as scalars."""
    lines = common.settings_of(genome).lines()
    return _yaml(common, "darwin_v6", common.roles.base, lines)


def uniform_yamls(common: Common) -> dict[str, str]:
    """Return what a child must beat: mergekit's own uniform merges, by name.

    dare_ties and task_arithmetic subtract the base; without a third model the Father is
    their base, so that only the Mother's task vector is left, and they are left out.
    """
    roles = common.roles
    yamls = {
        "linear 0.5": _yaml(common, "linear", None, {}, (0.5, 0.5)),
        "slerp 0.5": _yaml(common, "slerp", roles.father, {"t": 0.5}),
    }
    if roles.third is not None:
        dare = _yaml(common, "dare_ties", roles.third, {"density": 0.5}, (0.5, 0.5))
        whole = _yaml(common, "task_arithmetic", roles.third, {}, (1.0, 1.0))
        yamls |= {"dare_ties 0.5": dare, "task arithmetic 1+1": whole}
    return yamls


def _yaml(
    common: Common,
    method: str,
    base: Any,
    parameters: Mapping[str, Any],
    weights: Sequence[float] | None = None,
) -> str:
    models: list[dict[str, Any]] = [
        {"model": model} for model in (common.roles.father, common.roles.mother)
    ]
    for model, weight in zip(models, weights or (), strict=False):
        model["parameters"] = {"weight": weight}
    content: dict[str, Any] = {"merge_method": method}
    if base is not None:
        content["base_model"] = base
    content["models"] = models
    if parameters:
        content["parameters"] = dict(parameters)
    content.update(common.head)
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def parse(text: str) -> MergeConfiguration:
    """Return a fresh configuration: mergekit rewrites the one it is given."""
    register()
    return MergeConfiguration.model_validate(yaml.safe_load(text))


def read_config(source: str | Path) -> MergeConfiguration:
    """Return the configuration in a YAML file with one merge, of method darwin_v6.

    Raises DarwinError if the file cannot be read as one.
    """
    steps = read_steps(source)
    if len(steps) > 1:
        raise DarwinError(
            f"{source} has {len(steps)} darwin_v6 merges: {some(map(str, steps))}."
            " Choose one with --step."
        )
    return next(iter(steps.values()))


def read_steps(
    source: str | Path, intermediate: str | None = None, step: str | None = None
) -> dict[str, MergeConfiguration]:
    """Return the darwin_v6 merges of a YAML file, or of a mergekit-multi file, by name.

    intermediate is the folder where mergekit-multi keeps the results of its steps. A
    merge without a name is the final one, "". step chooses one. Raises DarwinError if
    the file cannot be read, or none of its merges is darwin_v6's, or the chosen one.
    """
    register()
    path = Path(source)
    found, needs = _merges(path, intermediate or "")
    ours = {n or "": row for n, row in found.items() if row.merge_method == NAME}
    if not ours:
        methods = sorted(str(row.merge_method) for row in found.values())
        raise DarwinError(
            f"{path} must have merge_method: {NAME}; got {', '.join(methods)}."
        )
    for name in _waiting(list(ours), needs, intermediate):
        del ours[name]
    if not ours:
        raise DarwinError(f"{path} has no darwin_v6 merge that can be looked at yet.")
    if step is None:
        return ours
    if step not in ours:
        raise DarwinError(
            f"{path} has no darwin_v6 merge {step!r} that can be looked at; it has"
            f" {some(ours)}.{nearest(step, ours)}"
        )
    return {step: ours[step]}


def _waiting(
    names: list[str], needs: Mapping[str | None, set[str]], folder: str | None
) -> list[str]:
    """Return, and say, which merges wait for others' results in a folder."""
    waits = []
    for name in names:
        inputs = sorted(map(str, needs[name or None]))
        made = [folder and Path(folder, i, "config.json").exists() for i in inputs]
        if not all(made):
            waits.append(name)
            LOG.warning(
                "step %r merges the result of %s, which is not there yet; merge that"
                " first and name its folder with --intermediate-dir",
                name or "final",
                some(inputs),
            )
    return waits


def _merges(
    path: Path, folder: str
) -> tuple[dict[str | None, MergeConfiguration], dict[str | None, set[str]]]:
    """Return the merges of a file by name, and the steps that each is made from."""
    documents = read_yamls(path, f"{path} cannot be read as YAML")
    alone = documents[0] if len(documents) == 1 else {"name": None}
    for document in documents:
        check_keys(document)
    with about(f"{path} must be a mergekit configuration"):
        if isinstance(alone, dict) and "name" in alone:
            return load_config(path.read_text(encoding="utf-8"), folder)
        return {None: MergeConfiguration.model_validate(alone)}, {None: set()}


def merge_to(text: str, folder: Path, options: MergeOptions) -> None:
    """Merge a YAML into a folder, exactly as mergekit-yaml does."""
    run_merge(parse(text), str(folder), options=options, config_source=text)


def output_config(text: str, options: MergeOptions) -> Any:
    """Return the transformers configuration that the merge's output will have."""
    config = parse(text)
    LoaderCache().setup(options)
    return plan.output_config(config, get_architecture_info(config, options), options)


def merge_into(text: str, model: torch.nn.Module, options: MergeOptions) -> None:
    """Merge a YAML into the parameters of a model built for its output.

    Each tensor is cast to the merge's own dtype before it is copied, so that the
    model holds what a detour over the disk would have given. Raises DarwinError where
    the checkpoint's names are not the model's.
    """
    saves = plan.planned_saves(parse(text), options)
    targets = {save.tensor_task: save for save in saves}
    device = options.device or "cpu"
    executor = Executor(list(targets), math_device=device, storage_device=device)
    state = model.state_dict()
    missing = {name for name, _ in model.named_parameters()}
    with torch.no_grad():
        for task, tensor in executor.run(quiet=True):
            save = targets[task]
            if tensor is None:
                continue
            if save.tensor_name not in state:
                if save.optional:
                    continue
                raise DarwinError(
                    "--in-memory needs checkpoints with transformers' own tensor"
                    f" names; the model has no {save.tensor_name!r}. Leave it out."
                )
            dtype = dtype_from_name(save.dtype) if save.dtype else tensor.dtype
            state[save.tensor_name].copy_(tensor.to(dtype))
            missing.discard(save.tensor_name)
    if missing:
        raise DarwinError(
            "--in-memory needs checkpoints with transformers' own tensor names; the"
            f" merge does not write {sorted(missing)[0]!r}. Leave it out."
        )
