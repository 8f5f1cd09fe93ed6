"""The same per-tensor ratios as a plain mergekit YAML for another merge method.

What each method makes of a ratio r (the Mother's share):

- slerp: `t` = r, base_model the Father; r 0 and 1 give that parent;
- nuslerp: weights 1 - r and r; with a third base between the task vectors;
- linear: weights 1 - r and r;
- ties, dare_ties: weights 1 - r and r on the task vectors; with the Father as base the
  Mother's alone, r. Densities and lambda are the genome's. `rescale` is mergekit's own.

A transplant is the ratio 0 or 1 exactly, at density and lambda 1: that parent's tensor
up to rounding, as base + (parent - base). Vectors and scalars keep density 1, as in
darwin_v6. merge_method_weight has no counterpart: the blend is the other method's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from mergekit.config import MergeConfiguration

from mergekit_darwin.errors import DarwinError, some
from mergekit_darwin.merge.filters import Method, filtered
from mergekit_darwin.merge.preview import Planned
from mergekit_darwin.merge.roles import Roles
from mergekit_darwin.ratios.rules import Prescription

_KEPT = ("dtype", "out_dtype", "tokenizer_source", "tokenizer", "chat_template")


@dataclass(frozen=True)
class Share:
    """One tensor's part in another method: the ratio, and how its blend is made."""

    ratio: float
    density_father: float
    density_mother: float
    lambda_: float


def share_of(tensor: Planned, row: Prescription) -> Share:
    """Return a tensor's ratio, 0 or 1 for a transplant, and its densities."""
    if row.route != "blend":
        return Share(1.0 if row.route == "mother" else 0.0, 1.0, 1.0, 1.0)
    genome = tensor.settings.genome
    if tensor.shape is not None and len(tensor.shape) < 2:
        return Share(row.ratio, 1.0, 1.0, genome["lambda"])
    return Share(row.ratio, genome["density_a"], genome["density_b"], genome["lambda"])


def plain_yaml(
    config: MergeConfiguration,
    planned: list[Planned],
    rows: list[Prescription],
    method: Method,
) -> str:
    """Return a YAML that gives another method these ratios, tensor by tensor.

    config is as read; planned and rows are in step. Raises
    DarwinError for a merge of slices, or tensors that the method cannot take.
    """
    if config.models is None:
        raise DarwinError(
            "--as writes merges of whole models; this configuration has slices or"
            " modules. Merge it with darwin_v6, or list the parents under models."
        )
    _refuse_lone(planned, method)
    shares = {
        row.name: share_of(tensor, row)
        for tensor, row in zip(planned, rows, strict=True)
    }
    document = _WRITERS[method](shares, planned[0].roles)
    if method in ("ties", "dare_ties"):
        document["parameters"].update(_whole(planned[0], method))
    kept = _kept(config, document.get("base_model"))
    head = f"# {method} with the per-tensor ratios of a darwin_v6 configuration\n"
    body = {"merge_method": method, **document, **kept}
    return head + yaml.safe_dump(body, sort_keys=False, width=1000)


def _kept(config: MergeConfiguration, base: str | None) -> dict[str, Any]:
    """Return what the new YAML takes over as it is; base is its base_model.

    Raises DarwinError where the tokenizer is the base's and another model is base now.
    """
    kept = config.model_dump(mode="json", exclude_none=True, include={*_KEPT})
    source = config.tokenizer.source if config.tokenizer else config.tokenizer_source
    if source == "base" and str(config.base_model) != base:
        raise DarwinError(
            f"tokenizer source 'base' means {config.base_model} here, which is not the"
            " base_model of the new YAML. Name the model in tokenizer: {source: ...}."
        )
    return kept


_Shares = Mapping[str, Share]


def _slerp(shares: _Shares, roles: Roles) -> dict[str, Any]:
    return {
        "base_model": str(roles.father),
        "models": [{"model": str(roles.father)}, {"model": str(roles.mother)}],
        "parameters": {"t": _each(shares, lambda share: share.ratio)},
    }


def _weighted(shares: _Shares, roles: Roles) -> list[dict[str, Any]]:
    weights = {
        str(roles.father): _each(shares, lambda share: 1.0 - share.ratio),
        str(roles.mother): _each(shares, lambda share: share.ratio),
    }
    return [
        {"model": model, "parameters": {"weight": weight}}
        for model, weight in weights.items()
    ]


def _linear(shares: _Shares, roles: Roles) -> dict[str, Any]:
    # linear ignores base_model but for whose config and tokenizer the child gets.
    return {"base_model": str(roles.father), "models": _weighted(shares, roles)}


def _nuslerp(shares: _Shares, roles: Roles) -> dict[str, Any]:
    document: dict[str, Any] = {"models": _weighted(shares, roles)}
    if roles.third is not None:
        document["base_model"] = str(roles.third)
    return document


def _task_arithmetic(shares: _Shares, roles: Roles) -> dict[str, Any]:
    father, mother = _weighted(shares, roles)
    father["parameters"]["density"] = _each(shares, lambda s: s.density_father)
    mother["parameters"]["density"] = _each(shares, lambda s: s.density_mother)
    third = roles.third
    listed = [father, mother] if third else [{"model": str(roles.father)}, mother]
    return {
        "base_model": str(third or roles.father),
        "models": listed,
        "parameters": {"lambda": _each(shares, lambda share: share.lambda_)},
    }


_WRITERS: dict[Method, Callable[[_Shares, Roles], dict[str, Any]]] = {
    "slerp": _slerp,
    "nuslerp": _nuslerp,
    "linear": _linear,
    "ties": _task_arithmetic,
    "dare_ties": _task_arithmetic,
}


def _each(shares: _Shares, value: Callable[[Share], float]) -> Any:
    return filtered({name: value(share) for name, share in shares.items()})


def _whole(tensor: Planned, method: Method) -> dict[str, bool]:
    """Return the switches of the TIES family, where they mean the same as ours."""
    switches = {"normalize": tensor.settings.normalize}
    if method == "dare_ties":
        switches["rescale"] = tensor.settings.rescale
    return switches


def _refuse_lone(planned: list[Planned], method: Method) -> None:
    """Refuse tensors that some model lacks, where the method could not take them."""
    if method in ("slerp", "nuslerp"):
        return  # these pass a tensor on that only one model has
    unfit = []
    for tensor in planned:
        needed = tensor.roles.third or tensor.roles.father
        if method != "linear" and needed not in tensor.present:
            unfit.append(tensor.name)
    if unfit:
        raise DarwinError(
            f"{method} needs every tensor in the base; {len(unfit)} are not there:"
            f" {some(unfit)}. Use --as slerp, or darwin_v6 itself."
        )
