"""Checks of a run as a whole, from headers alone, before any tensor is loaded."""

from __future__ import annotations

import logging

from mergekit.architecture.base import WeightInfo
from mergekit.architecture.conversion import can_convert_checkpoint_keys

from mergekit_darwin.errors import DarwinError, nearest, some
from mergekit_darwin.merge.options import LoadedReport, LoadedTable
from mergekit_darwin.merge.run_record import Roles
from mergekit_darwin.models.checkpoint import Checkpoint, open_checkpoint
from mergekit_darwin.models.names import stack_depths
from mergekit_darwin.scan.report import check_covers, check_identity

LOG = logging.getLogger("mergekit_darwin")


def check_models(trio: Roles, weights: list[WeightInfo], *, resizes: bool) -> set[str]:
    """Compare headers of the models of one slice before anything is loaded.

    Returns the names of buffers that are not floating: mergekit copies those itself.
    """
    base, father, mother = (
        open_checkpoint(model) if model is not None else None for model in trio
    )
    if father is None or mother is None:
        raise ValueError("roles without parents")
    third = base if base is not None and trio[0] != trio[1] else None
    for model in filter(None, (third, mother)):
        _check_shapes(father, model, resizes=resizes)
    for model in filter(None, (third, father, mother)):
        _refuse_float8(model)
    if base is None:
        LOG.warning(
            "No base_model: mergekit takes config and tokenizer from either parent, in"
            " no fixed order. Name the Father as base_model to have his."
        )
    if third is None:
        LOG.warning(
            "The Father is the base: there is one task vector, and density_a has"
            " nothing to act on."
        )
    _check_presence(weights, father, mother, third)
    rows = (*father.headers.values(), *mother.headers.values())
    return {row.name for row in rows if "float" not in row.dtype}


def _check_shapes(father: Checkpoint, other: Checkpoint, *, resizes: bool) -> None:
    shared = [name for name in father.headers if name in other.headers]
    if not shared:
        raise DarwinError(
            f"The models must share tensor names; {father.reference} has"
            f" {some(father.headers, 2)}, {other.reference} {some(other.headers, 2)}."
            " Bring both to one layout first (a renamed prefix?)."
        )
    _check_depths(father, other)
    for name in shared:
        left, right = father.headers[name].shape, other.headers[name].shape
        if left == right or (resizes and left[1:] == right[1:]):
            continue
        hint = (
            " Different vocabularies? Add tokenizer: {source: base}."
            if left[1:] == right[1:]
            else " These models cannot be merged tensor by tensor."
        )
        raise DarwinError(
            f"Tensor {name!r} must have one shape in all models; it is {list(left)} in"
            f" {father.reference} and {list(right)} in {other.reference}.{hint}"
        )


def _check_depths(father: Checkpoint, other: Checkpoint) -> None:
    left, right = stack_depths(father.headers), stack_depths(other.headers)
    for stack in sorted(set(left) & set(right)):
        if left[stack] != right[stack]:
            raise DarwinError(
                f"Stack {stack!r} must have the same number of layers in all models; it"
                f" has {left[stack]} in {father.reference} and {right[stack]} in"
                f" {other.reference}. Cut the deeper one with slices in a merge before."
            )


def _refuse_float8(model: Checkpoint) -> None:
    found = [row.name for row in model.headers.values() if "float8" in row.dtype]
    if found:
        raise DarwinError(
            f"{model.reference} holds float8 tensors ({some(found, 2)}), whose scales"
            " lie apart from them. Dequantise it to bfloat16 first."
        )


def _check_presence(
    weights: list[WeightInfo],
    father: Checkpoint,
    mother: Checkpoint,
    base: Checkpoint | None,
) -> None:
    """List what one model lacks; refuse where mergekit could not do without it."""
    lacks = {
        model.reference: {w.name for w in weights if not _has(model, w)}
        for model in filter(None, (father, mother, base))
    }
    for model, names in lacks.items():
        for weight in weights:
            if weight.name in names and not weight.optional:
                raise DarwinError(
                    f"Tensor {weight.name!r} must be in every model; {model} lacks it."
                    " Save that model whole, or merge it with its own kind."
                )
    in_father, in_mother = lacks[father.reference], lacks[mother.reference]
    _say_missing(in_mother - in_father, mother, "the Father's, bit for bit")
    _say_missing(in_father - in_mother, father, "the Mother's, bit for bit")
    if base is not None:
        lost = lacks[base.reference] - in_father - in_mother
        _say_missing(lost, base, "merged with the Father as their base")


def _has(model: Checkpoint, weight: WeightInfo) -> bool:
    """Return whether mergekit can load a tensor from a model, under any name."""
    names = (weight.name, *(weight.aliases or ()), *(weight.tied_names or ()))
    if any(name in model.headers for name in names):
        return True
    kind = model.reference.config().model_type
    return can_convert_checkpoint_keys(kind, set(model.headers), weight.name)


def _say_missing(names: set[str], model: Checkpoint, fate: str) -> None:
    if names:
        listed = sorted(names)
        where = f"{len(listed)} tensors are not in {model.reference}"
        LOG.warning("%s and will be %s: %s", where, fate, some(listed))
        LOG.info("the whole list: %s", ", ".join(listed))


def check_report(roles: Roles, report: LoadedReport, names: list[str]) -> None:
    """Refuse a report that is not of this run's parents or lacks their tensors.

    names are those of the run's output. Raises DarwinError with the differences.
    """
    father, mother = open_checkpoint(roles[1]), open_checkpoint(roles[2])
    where = f"mds {report.path}"
    check_identity(report.report, father.digest, mother.digest, where)
    both = [name for name in names if name in father.headers and name in mother.headers]
    check_covers(report.report, both, where)


def check_table(table: LoadedTable, names: list[str]) -> None:
    """Refuse a table of ratios that names a tensor the run does not write."""
    known = set(names)
    for name in table.ratios:
        if name not in known:
            raise DarwinError(
                f"ratios: {table.path} names a tensor that this merge does not have,"
                f" {name!r}.{nearest(name, names)}"
            )
