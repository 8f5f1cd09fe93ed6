"""A merge's YAML as it was written: what mergekit would drop without a word."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping
from typing import Any

from mergekit.config import InputModelDefinition, MergeConfiguration

from mergekit_darwin.errors import DarwinError, about
from mergekit_darwin.files import parse_yamls

LOG = logging.getLogger("mergekit_darwin")
_NEAR = 0.75  # as difflib counts; anchors' holders and notes are no typos


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
        near = difflib.get_close_matches(str(key), known, n=1, cutoff=_NEAR)
        if near:
            raise DarwinError(
                f"mergekit knows no key {key!r} {where}. Did you mean {near[0]!r}?"
            )
        LOG.warning("mergekit ignores the key %r %s", key, where)


def _parameters(document: Mapping[Any, Any]) -> list[tuple[Any, Any]]:
    given = document.get("parameters")
    return list(given.items()) if isinstance(given, Mapping) else []
