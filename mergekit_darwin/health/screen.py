"""health.json and health.png on disk, and the same as a table for a person."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.files import write_whole
from mergekit_darwin.health.report import Answer, Finding, Health
from mergekit_darwin.health.thresholds import RULES

LOG = logging.getLogger(__name__)

_ROWS = 40  # lines of findings shown to a person; the file has them all
_ANSWER = 60  # characters of an answer shown


def default_out(child: str, out: str | None) -> Path | None:
    """Return where to write: out, else the child's folder, None if it is none."""
    if out is not None:
        return Path(out)
    return Path(child) if Path(child).is_dir() else None


def health_json(health: Health) -> str:
    """Return the text of health.json."""
    return health.model_dump_json(indent=1) + "\n"


def write_health(health: Health, folder: Path) -> None:
    """Write health.json and health.png into a folder, each whole or not at all."""
    from mergekit_darwin.health.picture import save_health_plot

    try:
        save_health_plot(health, folder / "health.png")
        write_whole(folder / "health.json", health_json(health))
    except OSError as error:
        raise DarwinError(
            f"--out must be a folder that can be written; {folder} is not"
            f" ({error.strerror or error})."
        ) from error
    LOG.info("written: %s, health.png", folder / "health.json")


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
