"""What is checked of a run as a whole, before any tensor is loaded or written."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from typing import Any

from mergekit.architecture.base import ConfiguredModelArchitecture
from mergekit.common import ModelReference
from mergekit.config import InputModelDefinition, MergeConfiguration
from mergekit.tokenizer.config import TokenizerConfig

from mergekit_darwin.errors import DarwinError, about, nearest, some
from mergekit_darwin.files import parse_yamls
from mergekit_darwin.merge.findings import Finding
from mergekit_darwin.merge.frames import Planning
from mergekit_darwin.merge.headers import fit_of
from mergekit_darwin.merge.loaded import LoadedReport, LoadedTable
from mergekit_darwin.merge.parameters import check_names, check_value
from mergekit_darwin.merge.roles import Roles, all_roles
from mergekit_darwin.models.checkpoint import open_checkpoint
from mergekit_darwin.scan.report import check_covers, check_identity

LOG = logging.getLogger("mergekit_darwin")
FIT = logging.getLogger("mergekit_darwin.fit")  # apart: a preview shows findings itself
_NEAR = 0.75  # as difflib counts; anchors' holders and notes are no typos


def check_run(found: Planning) -> frozenset[str]:
    """Refuse a run that cannot work; return the names of integer buffers.

    mergekit copies those itself. Raises DarwinError for the first fault.
    """
    if found.planner is None:
        check_names(found.config.parameters or {}, "under parameters")
        for model in found.config.models:
            _refuse_own_parameters(model)
        return frozenset()
    config, planner = found.config, found.planner
    if found.source is not None:
        check_source(found.source)
    _refuse_own_output(config, found.out_path)
    for where, given in _parameter_places(config):
        check_names(given, where)
    if (config.parameters or {}).get("mds") is not None:
        _refuse_shifted_slices(config)
    _heed(fit_of(config, planner.options))
    written = ConfiguredModelArchitecture(
        info=planner.arch_info, config=planner.out_model_config
    )
    names = [weight.name for weight in written.all_weights()]
    copied: set[str] = set()
    for roles in dict.fromkeys(all_roles(config)):
        _check_files(config.parameters or {}, roles, names)
        copied |= _integers(roles)
    return frozenset(copied)


def _refuse_own_output(config: Any, out_path: str | None) -> None:
    """Refuse to write over a model of the merge: mergekit would replace its weights."""
    for model in config.referenced_models():
        place = model.model.path
        if out_path and os.path.isdir(place) and os.path.exists(out_path):
            if os.path.samefile(place, out_path):
                raise DarwinError(
                    f"A merge must not be written over its own models; {out_path} is"
                    " one of them. Name another folder."
                )


def _heed(findings: list[Finding]) -> None:
    """Log what will happen to the models; raise DarwinError for what stops them."""
    for finding in findings:
        finding.heed()
        if finding.severity == "note":
            FIT.warning("%s: %s: %s", finding.rule, finding.found, finding.effect)


def _integers(roles: Roles) -> set[str]:
    return {
        header.name
        for parent in (roles.father, roles.mother)
        for header in open_checkpoint(parent).headers.values()
        if "float" not in header.dtype
    }


def _parameter_places(config: Any) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Yield every mapping of parameters in a configuration, and where it stands."""
    yield "under parameters", config.parameters or {}
    for module_name, module in (config.modules or {}).items():
        yield f"module {module_name}", module.parameters or {}
        for number, output in enumerate(module.slices or []):
            yield f"slice {number}", output.parameters or {}
            for source in output.sources:
                _refuse_own_parameters(source)


def _refuse_own_parameters(source: Any) -> None:
    if source.parameters:
        raise DarwinError(
            "darwin_v6 takes its parameters for the whole merge, not for one model;"
            f" {source.model} has {some(source.parameters)}."
            " Move them under the top-level parameters."
        )


def _refuse_shifted_slices(config: Any) -> None:
    """Refuse a report where slices move layers: its layers would be other ones."""
    for module in config.modules.values():
        written = 0
        for output in module.slices:
            for source in output.sources:
                if source.layer_range[0] != written:
                    raise DarwinError(
                        "A report speaks of whole models, so slices used with mds must"
                        f" keep every layer's place; {source.model} gives layer"
                        f" {source.layer_range[0]} as layer {written}. Leave mds out."
                    )
            first, last = output.sources[0].layer_range
            written += last - first


def _check_files(given: Mapping[str, Any], roles: Roles, names: list[str]) -> None:
    """Check the report and the table of ratios that hold for the whole merge."""
    mds, table = given.get("mds"), given.get("ratios")
    if isinstance(mds, str):
        _check_report(check_value("mds", mds), roles, names)
    if isinstance(table, str):
        _check_table(check_value("ratios", table), names)


def _check_report(loaded: LoadedReport, roles: Roles, names: list[str]) -> None:
    """Refuse a report that is not of this run's parents or lacks their tensors."""
    parents = [
        model
        for model in (roles.father, roles.mother)
        if isinstance(model, ModelReference)
    ]
    father, mother = map(open_checkpoint, parents)
    where = f"mds {loaded.path}"
    check_identity(loaded.report, father.digest, mother.digest, where)
    both = [name for name in names if name in father.headers and name in mother.headers]
    check_covers(loaded.report, both, where)


def _check_table(table: LoadedTable, names: list[str]) -> None:
    """Refuse a table of ratios that names a tensor the run does not write."""
    known = set(names)
    for name in table.ratios:
        if name not in known:
            raise DarwinError(
                f"ratios: {table.path} names a tensor that this merge does not have,"
                f" {name!r}.{nearest(name, names)}"
            )


def check_source(text: str) -> None:
    """Refuse the text of a merge's YAML in which a key stands twice or is misspelt.

    Raises DarwinError.
    """
    with about("The YAML of this merge must be clear"):
        documents = parse_yamls(text)
    for document in documents:
        check_keys(document)


def check_keys(document: Any) -> None:
    """Refuse keys that are nearly mergekit's: it ignores what it does not know.

    Others are said and left alone. Raises DarwinError.
    """
    if not isinstance(document, Mapping):
        return
    known = {*MergeConfiguration.model_fields, "name"}  # name: mergekit-multi's
    _check(document, known, "at the top")
    tokenizer = document.get("tokenizer")
    if isinstance(tokenizer, Mapping):
        _check_all(tokenizer, {*TokenizerConfig.model_fields}, "of the tokenizer")
    models = document.get("models")
    for model in models if isinstance(models, list) else ():
        if isinstance(model, Mapping):
            where = f"of the model {model.get('model')}"
            _check(model, {*InputModelDefinition.model_fields}, where)
    for name, value in _parameters(document):
        if value == []:
            raise DarwinError(f"{name} must have a value; got an empty list.")


def _check(given: Mapping[Any, Any], known: set[str], where: str) -> None:
    for key in given:
        if key in known:
            continue
        near = nearest(str(key), known, _NEAR)
        if near:
            raise DarwinError(f"mergekit knows no key {key!r} {where}.{near}")
        LOG.warning("mergekit ignores the key %r %s", key, where)


def _check_all(given: Mapping[Any, Any], known: set[str], where: str) -> None:
    """Refuse any key that is not known: its place holds nothing else."""
    for key in given:
        if key not in known:
            raise DarwinError(
                f"mergekit knows no key {key!r} {where}.{nearest(str(key), known)}"
                f" Known: {', '.join(sorted(known))}."
            )


def _parameters(document: Mapping[Any, Any]) -> list[tuple[Any, Any]]:
    given = document.get("parameters")
    return list(given.items()) if isinstance(given, Mapping) else []
