"""health.json: its schema, its reader, its verdict; the same as text for a person."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, FiniteFloat

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.files import Frozen, read_document
from mergekit_darwin.health.thresholds import RULES, Severity

Verdict = Literal["healthy", "warning", "unhealthy"]
Value = FiniteFloat | str | None
_ROWS = 40  # lines of findings shown to a person; the file has them all
_ANSWER = 60  # characters of an answer shown
NAMES = {"father": "Father", "mother": "Mother", "child": "child"}  # as in a sentence


class Finding(Frozen):
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


class Answer(Frozen):
    """One short greedy answer: fault is "" or how it collapsed."""

    model: str
    probe: str
    prompt: str
    text: str
    fault: str = ""


class Measured(Frozen):
    """What was measured of child, father and mother, by role.

    importance: {role: {PROBE: [L]}}, cosine distances in [0, 2]; loss: {role: {PROBE:
    nats a token}}; answers: short greedy continuations; stack: the probed layers'
    name prefix.
    """

    stack: str = ""
    importance: dict[str, dict[str, list[FiniteFloat]]] = Field(default_factory=dict)
    loss: dict[str, dict[str, FiniteFloat]] = Field(default_factory=dict)
    answers: list[Answer] = Field(default_factory=list)


class Health(Frozen):
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
    return read_document(path, Health, "health.json", "mergekit-darwin-health")


def check_out(folder: Path) -> None:
    """Refuse to replace files of these names that no check of health wrote.

    Raises DarwinError.
    """
    report, picture = folder / "health.json", folder / "health.png"
    if report.is_file():
        content = report.read_bytes()
        foreign = report if b"mergekit-darwin/health" not in content else None
    else:
        foreign = picture if picture.exists() else None
    if foreign is not None:
        raise DarwinError(
            f"health.json and health.png in --out must be ours; {foreign} is not. Name"
            " another folder."
        )


def health_json(health: Health) -> str:
    """Return the text of health.json."""
    return health.model_dump_json(indent=1) + "\n"


def health_text(health: Health) -> str:
    """Return the report as text for a person: verdict, counts, findings, answers."""
    counts = health.counts
    lines = [
        f"{health.child}: {health.verdict.upper()}",
        f"  Father {health.father}",
        f"  Mother {health.mother}",
        *([f"  base   {health.base}"] if health.base else []),
        f"  {counts['tensors']} tensors, {counts['changed']} of them in no other model;"
        f" equal to Father {counts['equal_father']}, Mother {counts['equal_mother']},"
        f" base {counts['equal_base']}; merged again and compared"
        f" {counts['verified']}",
        f"  {counts['errors']} errors, {counts['warnings']} warnings,"
        f" {counts['notes']} notes",
    ]
    for part in (_losses(health), _findings(health.findings), _speech(health)):
        if part:
            lines += ["", *part]
    return "\n".join(lines) + "\n"


def _losses(health: Health) -> list[str]:
    loss = health.measured.loss
    if "child" not in loss:
        return []
    head = f"{'loss, nats a token':<20}{'child':>9}{'Father':>9}{'Mother':>9}"
    return [head] + [
        f"{name:<20}"
        + "".join(f"{loss[role][name]:9.3f}" for role in ("child", "father", "mother"))
        for name in loss["child"]
    ]


def _findings(findings: Sequence[Finding]) -> list[str]:
    """Return a line for each rule and layer, the worst first, then their advice."""
    if not findings:
        return ["No findings."]
    order = {"error": 0, "warning": 1, "note": 2}
    groups: dict[tuple[int, str, int], list[Finding]] = defaultdict(list)
    for item in findings:
        layer = -1 if item.layer is None else item.layer
        groups[(order[item.severity], item.rule, layer)].append(item)
    lines = [f"{'severity':<9}{'rule':<16}{'layer':>5}  where: found (expected)"]
    lines += [_line_of(groups[key]) for key in sorted(groups)[:_ROWS]]
    if len(groups) > _ROWS:
        lines.append(f"... and {len(groups) - _ROWS} more, all of them in health.json")
    lines.append("")
    for rule in dict.fromkeys(rule for _, rule, _ in sorted(groups)):
        lines.append(f"{rule}: {RULES[rule].meaning}. {RULES[rule].advice}")
    return lines


def _line_of(group: Sequence[Finding]) -> str:
    """Return one line for findings of one rule and layer: the first, how many more."""
    item = group[0]
    layer = "" if item.layer is None else str(item.layer)
    where = item.tensor or item.probe or "model"
    more = f" and {len(group) - 1} more" if len(group) > 1 else ""
    return (
        f"{item.severity:<9}{item.rule:<16}{layer:>5}  {where}:"
        f" {_value(item.found)} ({_value(item.expected)}){more}"
    )


def _value(value: float | str | None) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return "-" if value is None else str(value)


def _speech(health: Health) -> list[str]:
    rows = [row for row in health.measured.answers if row.model == "child"]
    if not rows:
        return []
    return ["short greedy answers of the child", *(_line(row) for row in rows)]


def _line(row: Answer) -> str:
    text = repr(row.text if len(row.text) <= _ANSWER else row.text[:_ANSWER] + "...")
    prompt = repr(row.prompt if len(row.prompt) <= 40 else "..." + row.prompt[-37:])
    return f"{row.probe:<12}{prompt} -> {text}{f' [{row.fault}]' * bool(row.fault)}"
