"""What a merge would lose: weights of the Father that mergekit's plan leaves out.

mergekit plans by names; where its definition of an architecture does not fit a model
(a dense layer among layers of experts, a module that is not listed) it skips what it
does not find, and the child is written without those weights. So the names it will
write are compared, before a merge, with those that transformers expects.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from typing import Any

import torch
from mergekit.architecture import ModelArchitecture
from mergekit.architecture.base import ConfiguredModelArchitecture
from mergekit.config import MergeConfiguration
from torch import nn

from mergekit_darwin.models.checkpoint import Checkpoint
from mergekit_darwin.models.stream import module_names

LOG = logging.getLogger(__name__)


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
