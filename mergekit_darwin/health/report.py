"""health.json: its schema, its reader, and the verdict its findings give."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from mergekit_darwin.files import read_document
from mergekit_darwin.health.thresholds import RULES, Severity

Verdict = Literal["healthy", "warning", "unhealthy"]
Value = FiniteFloat | str | None
NAMES = {"father": "Father", "mother": "Mother", "child": "child"}  # as in a sentence


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Finding(_Strict):
    """One thing that a rule found: where, what, what was expected, what to try.

    found and expected are numbers in the unit that RULES names, or words; layer is
    0-based. A note does not move the verdict.
    """

    rule: str
    severity: Severity
    layer: int | None = None
    tensor: str | None = None
    probe: str | None = None
    found: Value = None
    expected: Value = None
    advice: str = ""


class Answer(_Strict):
    """One short greedy answer: fault is "" or how it collapsed."""

    model: str
    probe: str
    prompt: str
    text: str
    fault: str = ""


class Measured(_Strict):
    """What was measured of child, father and mother, by role.

    importance: {role: {PROBE: [L]}}, cosine distances in [0, 2]; loss: {role: {PROBE:
    nats a token}}; answers: short greedy continuations; stack: the probed layers'
    name prefix.
    """

    stack: str = ""
    importance: dict[str, dict[str, list[FiniteFloat]]] = Field(default_factory=dict)
    loss: dict[str, dict[str, FiniteFloat]] = Field(default_factory=dict)
    answers: list[Answer] = Field(default_factory=list)


class Health(_Strict):
    """A whole health report, as health.json holds it."""

    format: Literal["mergekit-darwin/health"] = "mergekit-darwin/health"
    version: Literal[1] = 1
    verdict: Verdict
    child: str
    father: str
    mother: str
    base: str | None = None
    findings: list[Finding]
    counts: dict[str, Annotated[int, Field(ge=0)]]
    settings: dict[str, FiniteFloat | int | str | bool | None]
    measured: Measured = Field(default_factory=Measured)


def finding(
    rule: str, severity: Severity, found: Value, expected: Value, **where: object
) -> Finding:
    """Return a finding of a known rule with that rule's advice.

    where is layer, tensor, probe, as Finding has them.
    """
    return Finding(
        rule=rule,
        severity=severity,
        found=found,
        expected=expected,
        advice=RULES[rule].advice,
        **where,  # type: ignore[arg-type]
    )


def verdict_of(findings: Iterable[Finding]) -> Verdict:
    """Return unhealthy if there is an error, warning if a warning, else healthy."""
    severities = {item.severity for item in findings}
    if "error" in severities:
        return "unhealthy"
    return "warning" if "warning" in severities else "healthy"


def read_health(path: str | Path) -> Health:
    """Return the report in a file, or in `health.json` of a folder.

    Raises DarwinError if there is none or it does not fit the schema.
    """
    path = Path(path)
    file = path / "health.json" if path.is_dir() else path
    return read_document(
        file,
        Health,
        unreadable=f"{file} must be a report that mergekit-darwin-health wrote; it"
        " cannot be read",
        unfit=f"{file} does not fit format mergekit-darwin/health version 1",
    )
