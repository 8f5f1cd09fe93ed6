"""The models of a configuration as the fit check sees them: configs and headers.

mergekit plans by names; where its definition of an architecture does not fit a model it
skips what it does not find, and the child is written without those weights. So the
names it will write are compared, before a merge, with those transformers expects.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from mergekit.architecture import ModelArchitecture, get_architecture_info
from mergekit.architecture.base import ConfiguredModelArchitecture
from mergekit.config import MergeConfiguration
from mergekit.io.tasks import LoaderCache
from mergekit.options import MergeOptions
from torch import nn

from mergekit_darwin.merge.findings import Finding, Layout, Model, Setup
from mergekit_darwin.merge.fit import check_fit
from mergekit_darwin.merge.roles import Roles, all_roles
from mergekit_darwin.merge.words import check_words
from mergekit_darwin.models.checkpoint import Checkpoint, integers, open_checkpoint
from mergekit_darwin.models.checks import check_dtypes
from mergekit_darwin.models.plan import output_config, stored_name, without_config
from mergekit_darwin.models.stream import module_names

LOG = logging.getLogger(__name__)


def fit_of(
    config: MergeConfiguration, options: MergeOptions | None = None
) -> list[Finding]:
    """Return the findings of the header-only check of a configuration's models.

    config is not changed. Raises DarwinError if the roles are unclear or a model
    cannot be opened.
    """
    options = options or MergeOptions()
    check_dtypes(config)
    check_words(config, options.trust_remote_code)
    rows: list[Finding] = []
    for roles in dict.fromkeys(all_roles(config)):
        found = _fit_of_roles(config, roles, options)
        rows += [row for row in found if row not in rows]
    return rows


def _fit_of_roles(
    config: MergeConfiguration, roles: Roles, options: MergeOptions
) -> list[Finding]:
    opened = {
        role: open_checkpoint(model, options) for role, model in roles.named().items()
    }
    models = [
        Model(role, found.headers, _config(found)) for role, found in opened.items()
    ]
    layout, problem, lost = None, [], None
    try:
        architecture = get_architecture_info(config, options)
        layout = _layout(architecture, config, opened, options)
        child = output_config(config, architecture, options)
    except Exception as error:  # whatever mergekit says of models it cannot take
        words = f"mergekit cannot plan these models: {without_config(error)}"
        problem = [Finding("stops", "architecture", words)]
    else:
        written = written_names(config, architecture, child, opened.values())
        lost = lost_names(child, written, opened["Father"])
    setup = Setup(
        dtype=config.dtype,
        resizes=bool(config.tokenizer or config.tokenizer_source)
        or options.unsafe_truncate_embeddings,
        config_of=_config_of(config, roles),
        father_is_base=roles.third is None,
        lost=tuple(lost or ()),
        counters=_counters(opened, layout.names if layout else ()),
        may_lose=(config.parameters or {}).get("allow_missing") is True,
    )
    return problem + check_fit(models, layout, setup)


def _counters(opened: dict[str, Checkpoint], names: Iterable[str]) -> dict[str, bool]:
    """Return the integers among names that all models have, and whether they agree."""
    father = opened["Father"]
    packed = (integers(found.headers.values()) for found in opened.values())
    matrices = {name for names in packed for name in names}
    shared = [
        name
        for name in names
        if name not in matrices
        and all(name in found.headers for found in opened.values())
        and "float" not in father.headers[name].dtype
    ]
    loaders = [LoaderCache().get(found.reference) for found in opened.values()]
    found = {}
    for name in shared:
        first, *rest = (loader.get_tensor(name) for loader in loaders)
        found[name] = all(torch.equal(first, tensor) for tensor in rest)
    return found


def _config_of(config: MergeConfiguration, roles: Roles) -> str | None:
    if config.base_model is None:
        return None
    return "Father" if config.base_model == roles.father else "base"


def _config(found: Checkpoint) -> dict[str, Any]:
    text = Path(found.path, "config.json").read_text(encoding="utf-8-sig")
    content: dict[str, Any] = json.loads(text)
    return content


def _layout(
    architecture: ModelArchitecture,
    config: MergeConfiguration,
    opened: dict[str, Checkpoint],
    options: MergeOptions,
) -> Layout:
    """Return what mergekit's planner would ask of these models.

    The weights are those of whole models: slices may write more layers.
    """
    first = config.base_model or opened["Father"].reference
    weights = ConfiguredModelArchitecture(
        info=architecture,
        config=first.config(trust_remote_code=options.trust_remote_code),
    ).all_weights()
    sources = {
        role: {weight.name: stored_name(weight, found) for weight in weights}
        for role, found in opened.items()
    }
    absent = {
        weight.name
        for weight in weights
        if weight.optional and not any(rows[weight.name] for rows in sources.values())
    }
    names = tuple(w.name for w in weights if w.name not in absent)
    read = {}
    for role, rows in sources.items():
        used = frozenset(filter(None, rows.values()))
        headers = frozenset(opened[role].headers)
        # of a converted layout it cannot be told what is used
        read[role] = used if used <= headers else headers
    return Layout(
        names=names,
        required=frozenset(w.name for w in weights if not w.optional),
        lacks={
            role: frozenset(name for name in names if rows[name] is None)
            for role, rows in sources.items()
        },
        read=read,
    )


def written_names(
    config: MergeConfiguration,
    architecture: ModelArchitecture,
    child: Any,
    models: Iterable[Checkpoint],
) -> list[str]:
    """Return the names that mergekit's planner will write; child is its config.

    As in mergekit 0.1.5 an optional weight is written only where a model's file has
    that very name, or an alias of it.
    """
    found = ConfiguredModelArchitecture(info=architecture, config=child)
    names = config.modules or architecture.modules
    stored = set().union(*(model.headers for model in models))
    return [
        weight.name
        for module in names
        for weight in found.get_module(module).all_weights()
        if not weight.optional or stored & {weight.name, *(weight.aliases or ())}
    ]


def lost_names(
    child: Any, written: Iterable[str], father: Checkpoint
) -> list[str] | None:
    """Return the child's tensors that the Father's files hold and the merge does not.

    Names are those of the module that transformers builds from the child's config.
    None if it builds none (code of its own, an unknown kind): nothing can be said.
    """
    model = _skeleton(_Wanted(child.to_json_string(), child))
    if model is None:
        return None
    held, kept = (_targets(model, names) for names in (father.headers, written))
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    return [
        name
        for name in model.state_dict()
        if held & {name, tied.get(name)} and not kept & {name, tied.get(name)}
    ]


def _targets(model: nn.Module, stored: Iterable[str]) -> set[str]:
    return set(chain.from_iterable(module_names(model, stored).values()))


@dataclass(frozen=True)
class _Wanted:
    """A configuration, known by its text."""

    text: str
    config: Any = field(compare=False)


@lru_cache(maxsize=4)
def _skeleton(wanted: _Wanted) -> nn.Module | None:
    """Return the model of a configuration without weights, None if there is none."""
    import transformers

    config = deepcopy(wanted.config)
    built = getattr(transformers, (config.architectures or [""])[0], None)
    if built is None:
        return None
    try:
        with torch.device("meta"):
            model: nn.Module = built(config)
    except Exception as error:  # whatever a model says of what it cannot take
        LOG.debug("transformers cannot build %s", built.__name__, exc_info=error)
        return None
    model.tie_weights()  # type: ignore[operator]
    return model
