"""Checks of a run as a whole, from headers alone, before any tensor is loaded."""

from __future__ import annotations

import logging

from mergekit_darwin.checkpoints import Checkpoint, open_checkpoint
from mergekit_darwin.errors import DarwinError, nearest, some
from mergekit_darwin.report import check_covers, check_identity
from mergekit_darwin.run_record import Roles
from mergekit_darwin.settings import LoadedReport, LoadedTable
from mergekit_darwin.sites import stack_depths

LOG = logging.getLogger("mergekit_darwin")


def check_models(trio: Roles, *, resizes: bool) -> None:
    """Compare headers of the models of one slice before anything is loaded."""
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
    if third is None:
        LOG.warning(
            "The Father is the base: there is one task vector, and density_a has"
            " nothing to act on."
        )
    _list_missing(father, mother, third)


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


def _list_missing(
    father: Checkpoint, mother: Checkpoint, base: Checkpoint | None
) -> None:
    for left, right, whose in (
        (father, mother, "the Father's, bit for bit"),
        (mother, father, "the Mother's, bit for bit"),
    ):
        only = [name for name in left.headers if name not in right.headers]
        if only:
            LOG.warning(
                "%d tensors are not in %s and will be %s: %s",
                len(only),
                right.reference,
                whose,
                some(only),
            )
            LOG.info("the whole list: %s", ", ".join(only))
    if base is None:
        return
    shared = set(father.headers) & set(mother.headers)
    lost = sorted(shared - set(base.headers))
    if lost:
        LOG.warning(
            "%d tensors of both parents are not in the base %s; the Father is their"
            " base: %s",
            len(lost),
            base.reference,
            some(lost),
        )


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
