"""The models of a configuration as the fit check sees them: configs and headers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mergekit.architecture import WeightInfo, get_architecture_info
from mergekit.architecture.base import ConfiguredModelArchitecture
from mergekit.architecture.conversion import can_convert_checkpoint_keys
from mergekit.common import ModelReference
from mergekit.config import MergeConfiguration
from mergekit.options import MergeOptions

from mergekit_darwin.merge.fit import Finding, Header, Layout, Model, Run, check_fit
from mergekit_darwin.merge.run_plan import assign_roles
from mergekit_darwin.merge.run_record import Roles
from mergekit_darwin.models.checkpoint import Checkpoint, open_checkpoint


def fit_of(
    config: MergeConfiguration, options: MergeOptions | None = None
) -> list[Finding]:
    """Return the findings of the header-only check of a configuration's models.

    config is not changed. Raises DarwinError if the roles are unclear or a model
    cannot be opened.
    """
    options = options or MergeOptions()
    rows: list[Finding] = []
    for roles in sorted(set(_roles(config)), key=str):
        rows += [
            row for row in _fit_of_roles(config, roles, options) if row not in rows
        ]
    return rows


def _roles(config: MergeConfiguration) -> Iterator[Roles]:
    """Yield the roles of every list of models, as mergekit's planner will see them."""
    modules = (config.modules or {}).values()
    listed = [config.models, *(module.models for module in modules)]
    for models in filter(None, listed):
        found = [entry.model for entry in models]
        if config.base_model is not None and config.base_model not in found:
            found.append(config.base_model)
        yield assign_roles(config.base_model, found)
    slices = [*(config.slices or [])]
    for module in modules:
        slices += module.slices or []
    for output in slices:
        base = output.base_model or config.base_model
        yield assign_roles(base, [source.model for source in output.sources])


def _fit_of_roles(
    config: MergeConfiguration, roles: Roles, options: MergeOptions
) -> list[Finding]:
    base, father, mother = roles
    opened = {
        "Father": open_checkpoint(father, options),
        "Mother": open_checkpoint(mother, options),
    }
    if base is not None and base != father:
        opened["base"] = open_checkpoint(base, options)
    models = {role: _model(role, found) for role, found in opened.items()}
    layout, problem = None, []
    try:
        layout = _layout(config, opened, options)
    except Exception as error:  # whatever mergekit says of models it cannot take
        reason = " ".join(str(error).split()) or type(error).__name__
        problem = [Finding("stops", "architecture", f"mergekit says: {reason}")]
    run = Run(
        dtype=config.dtype,
        resizes=bool(config.tokenizer or config.tokenizer_source)
        or options.unsafe_truncate_embeddings,
        config_of=_config_of(config, roles),
    )
    third = models.get("base")
    rows = check_fit(models["Father"], models["Mother"], third, layout=layout, run=run)
    return problem + rows


def _config_of(config: MergeConfiguration, roles: Roles) -> str | None:
    if config.base_model is None:
        return None
    return "Father" if config.base_model == roles[1] else "base"


def _model(role: str, found: Checkpoint) -> Model:
    headers = {
        name: Header(header.dtype, header.shape)
        for name, header in found.headers.items()
    }
    return Model(role, str(found.reference), headers, _config(Path(found.path)))


def _config(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _layout(
    config: MergeConfiguration, opened: dict[str, Checkpoint], options: MergeOptions
) -> Layout:
    """Return what mergekit's planner would ask of these models."""
    architecture = get_architecture_info(config, options)
    first: ModelReference = config.base_model or opened["Father"].reference
    weights = ConfiguredModelArchitecture(
        info=architecture,
        config=first.config(trust_remote_code=options.trust_remote_code),
    ).all_weights()
    lacks: dict[str, set[str]] = {role: set() for role in opened}
    read: dict[str, set[str]] = {role: set() for role in opened}
    for role, found in opened.items():
        kind = found.reference.config(options.trust_remote_code).model_type
        names = set(found.headers)
        for weight in weights:
            source = _source(weight, names, kind)
            if source is None:
                lacks[role].add(weight.name)
            else:
                read[role].add(source)
        if any(source not in names for source in read[role]):
            read[role] = names  # a converted layout: what is used cannot be told
    absent = set.intersection(*lacks.values())
    return Layout(
        names=tuple(w.name for w in weights if w.name not in absent or not w.optional),
        required=frozenset(w.name for w in weights if not w.optional),
        lacks={
            role: frozenset(
                w.name
                for w in weights
                if w.name in lacks[role] and (w.name not in absent or not w.optional)
            )
            for role in opened
        },
        read={role: frozenset(names) for role, names in read.items()},
    )


def _source(weight: WeightInfo, names: set[str], kind: str | None) -> str | None:
    """Return the name under which mergekit would load a weight, None if it cannot."""
    for name in (weight.name, *(weight.aliases or ()), *(weight.tied_names or ())):
        if name in names:
            return name
    for name in (weight.name, *(weight.aliases or ())):
        if can_convert_checkpoint_keys(kind, names, name):
            return name
    return None
