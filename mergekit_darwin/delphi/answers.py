"""From a generated text to the answer that votes, by the task's own filter and metric.

An answer is what a named filter of the task takes out of the text, normalised as the
task's metric normalises before it compares. What a filter marks as not found abstains.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mergekit_darwin.errors import DarwinError, nearest

# Filters of lm-evaluation-harness 0.4.13 that keep a text whole: no answer is in sight.
_WHOLE_TEXT = {
    "TakeFirstFilter",
    "TakeKFilter",
    "MajorityVoteFilter",
    "LowercaseFilter",
    "UppercaseFilter",
    "WhitespaceFilter",
}


@dataclass(frozen=True, eq=False)
class Reader:
    """How the texts of one task are read and scored.

    filter is one of the task's filter ensembles, metric one of its metrics, sign -1
    where lower is better; normal holds the metric's own normalising; silent are the
    filter's marks of nothing found; extract, if given, reads the answer instead of the
    filter. Scores are the task's own in either case.
    """

    name: str
    task: Any
    metric: str
    sign: float
    filter: Any
    normal: Mapping[str, Any] = field(default_factory=dict)
    silent: frozenset[str] = frozenset()
    extract: re.Pattern[str] | None = None

    @property
    def words(self) -> str:
        """The metric and filter as the harness prints them: "exact_match,strict"."""
        return f"{self.metric},{self.filter.name}"


def reader_of(
    name: str, task: Any, *, metric: str | None = None, extract: str | None = None
) -> Reader:
    """Return how to read a task, by its first metric and filter or those named.

    metric may name a filter after a comma; extract is a pattern whose first match (its
    first group, if it has one) is the answer. Raises DarwinError where nothing can be
    voted on: other tasks than generate_until, repeats, metrics that are no mean over
    items, filters that keep the whole text.
    """
    _check_kind(name, task)
    wanted, _, chosen = (metric or "").partition(",")
    measured = _metric(name, task, wanted)
    ensemble = _filter(name, task, chosen)
    filters = [make() for make in ensemble.filters]
    pattern = _pattern(extract)
    whole = all(type(one).__name__ in _WHOLE_TEXT for one in filters)
    if whole and pattern is None:
        raise DarwinError(
            f"{name}: filter {ensemble.name!r} keeps the whole text, so nothing says"
            " what the answer is. Give --extract REGEX (its first group is the answer),"
            f" or --metric {measured},FILTER; filters here: {_names(task._filters)}."
        )
    marks = [getattr(one, "fallback", None) for one in filters]
    return Reader(
        name,
        task,
        measured,
        1.0 if task.higher_is_better()[measured] else -1.0,
        ensemble,
        normal=getattr(task, "_metric_fn_kwargs", {}).get(measured, {}),
        silent=frozenset(mark for mark in marks if isinstance(mark, str)),
        extract=pattern,
    )


def _check_kind(name: str, task: Any) -> None:
    if task.OUTPUT_TYPE != "generate_until":
        raise DarwinError(
            f"{name}: only generated answers can be voted on; its output_type is"
            f" {task.OUTPUT_TYPE}. Measure it with lm-evaluation-harness instead."
        )
    repeats = task.get_config("repeats") or 1
    if repeats > 1:
        raise DarwinError(
            f"{name}: repeats must be 1, as the vote draws its own samples; found"
            f" {repeats}. Name the task that it is a variant of."
        )


def _metric(name: str, task: Any, wanted: str) -> str:
    from lm_eval.api.metrics import mean

    known = task.aggregation()
    measured = wanted or next(iter(known))
    if measured not in known:
        raise DarwinError(
            f"{name} has no metric {measured!r}.{nearest(measured, known)}"
            f" It has {', '.join(known)}."
        )
    if known[measured] is not mean:
        raise DarwinError(
            f"{name}: a vote is scored item by item; {measured} is not a mean over"
            f" items. Its metrics: {', '.join(known)}."
        )
    return str(measured)


def _filter(name: str, task: Any, chosen: str) -> Any:
    ensembles = {ensemble.name: ensemble for ensemble in task._filters}
    if chosen and chosen not in ensembles:
        raise DarwinError(
            f"{name} has no filter {chosen!r}.{nearest(chosen, ensembles)}"
            f" It has {_names(task._filters)}."
        )
    return ensembles[chosen or next(iter(ensembles))]


def _names(ensembles: Sequence[Any]) -> str:
    return ", ".join(ensemble.name for ensemble in ensembles)


def _pattern(extract: str | None) -> re.Pattern[str] | None:
    if extract is None:
        return None
    try:
        return re.compile(extract)
    except re.error as error:
        raise DarwinError(
            f"--extract must be a regular expression; {extract!r} is none ({error})."
        ) from None


def read(reader: Reader, doc: Any, text: str) -> str | None:
    """Return the answer in a text, None where it has none."""
    if reader.extract is not None:
        match = reader.extract.search(text)
        found = match.group(1 if reader.extract.groups else 0) if match else None
    else:
        found = _one(_filtered(reader, doc, text))
    if found is None or found in reader.silent:
        return None
    return normalised(found, reader.normal) or None


def score(reader: Reader, doc: Any, text: str) -> float:
    """Return the task's own metric of a text on its document."""
    found = reader.task.process_results(doc, [_filtered(reader, doc, text)])
    return float(found[reader.metric])


def _filtered(reader: Reader, doc: Any, text: str) -> Any:
    """Return a text as the task's filter leaves it, by an instance of its own."""
    from lm_eval.api.instance import Instance

    instance = Instance("generate_until", doc, ("", {}), 0, resps=[text])
    reader.filter.apply([instance])
    return instance.filtered_resps[reader.filter.name]


def _one(found: Any) -> str | None:
    """Return a filter's result as a string; some leave a list of one."""
    while isinstance(found, (list, tuple)) and len(found) == 1:
        found = found[0]
    return None if found is None else str(found)


def normalised(answer: str, how: Mapping[str, Any]) -> str:
    """Return an answer as exact_match compares it, given that metric's arguments."""
    for pattern in how.get("regexes_to_ignore") or ():
        answer = re.sub(pattern, "", answer)
    if how.get("ignore_case"):
        answer = answer.lower()
    if how.get("ignore_punctuation"):
        answer = answer.translate(str.maketrans("", "", string.punctuation))
    if how.get("ignore_numbers"):
        answer = answer.translate(str.maketrans("", "", string.digits))
    return answer.strip()
