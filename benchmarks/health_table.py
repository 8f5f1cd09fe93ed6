"""Print how many faults the health check catches, and how many good merges it alarms.

    python benchmarks/health_table.py examples/tiny_family [--blind] [--own-probes]

The faults and merges are those of tests/health_cases.py. --blind leaves the base out;
--own-probes takes 20 search items of each of the family's skills instead of the
standard probes; --save FOLDER keeps every report.
A fault counts as caught if the verdict is not healthy and a rule meant for it found it.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import health_cases

from mergekit_darwin.health.again import FILE
from mergekit_darwin.health.report import Health
from mergekit_darwin.health.run import check
from mergekit_darwin.models.checkpoint import open_checkpoint
from mergekit_darwin.scan.importance import measure_importance
from mergekit_darwin.scan.probes import Probe, ProbeItem, standard_probes
from mergekit_darwin.scan.report import ModelReport, ProbeSetting, Report, Settings
from mergekit_darwin.talk import ProbeOptions

OPTIONS = ProbeOptions()
ITEMS = 20  # of each skill, with --own-probes


@dataclass(frozen=True)
class Row:
    """One case: its group (fault or good), whether it went as it should."""

    group: str
    name: str
    right: bool
    health: Health
    seconds: float


def own_probes(family: Path) -> list[Probe]:
    """Return one probe of each skill of the family: its first search items."""
    skills = sorted(path for path in (family / "items").iterdir() if path.is_dir())
    probes = []
    for skill in skills:
        lines = (skill / "search.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines[:ITEMS]]
        items = tuple(ProbeItem(row["prompt"], row["completion"]) for row in rows)
        probes.append(Probe(skill.name.upper(), items, 1.0 / len(skills)))
    return probes


def parents_report(family: Path, probes: list[Probe]) -> Report:
    """Return an MDS report with the parents' probes, measured once for all cases."""
    settings = {
        p.name: ProbeSetting(digest=p.digest, items=len(p.items), weight=p.weight)
        for p in probes
    }
    return Report(
        settings=Settings(tokens=OPTIONS.max_tokens, probes=settings),
        father=_model_report(family / "father", probes),
        mother=_model_report(family / "mother", probes),
    )


def _model_report(model: Path, probes: list[Probe]) -> ModelReport:
    measured = measure_importance(str(model), probes, OPTIONS)
    return ModelReport(
        model=str(model),
        digest=open_checkpoint(str(model)).digest,
        layers=measured.layers,
        stack=measured.stack,
        probes=measured.distances,
        probe_loss=measured.loss,
    )


def run_cases(
    family: Path, out: Path, probes: list[Probe], blind: bool
) -> Iterator[Row]:
    """Yield a row for every fault, every good merge, and the control."""
    report = parents_report(family, probes)

    def _check(child: Path) -> tuple[Health, float]:
        return _timed(child, family, report, probes, blind)

    for name, case in health_cases.BROKEN.items():
        child = health_cases.break_child(name, family, out / f"fault-{_slug(name)}")
        health, seconds = _check(child)
        rules = {item.rule for item in health.findings if item.severity != "note"}
        right = health.verdict != "healthy" and bool(rules & case.rules)
        yield Row("fault", name, right, health, seconds)
    for name, recipe in health_cases.good_recipes(family).items():
        child = health_cases.merge(recipe, out / f"good-{_slug(name)}")
        if blind:
            (child / FILE).unlink(missing_ok=True)
        health, seconds = _check(child)
        yield Row("good", name, health.verdict == "healthy", health, seconds)
    for name in ("father", "mother"):
        health, seconds = _check(family / name)
        rules = {item.rule for item in health.findings if item.severity != "note"}
        right = rules == {"nothing_changed"}
        yield Row("control", f"{name} itself", right, health, seconds)


def _timed(
    child: Path, family: Path, report: Report, probes: list[Probe], blind: bool
) -> tuple[Health, float]:
    start = time.perf_counter()
    health = check(
        str(child),
        father=str(family / "father"),
        mother=str(family / "mother"),
        base=None if blind else str(family / "base"),
        report=report,
        options=OPTIONS,
        probes=probes,
    )
    return health, time.perf_counter() - start


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def line(row: Row) -> str:
    """Return one line of the table, in Markdown."""
    found = Counter(
        item.rule for item in row.health.findings if item.severity != "note"
    )
    rules = ", ".join(f"{rule} {count}" for rule, count in found.most_common())
    verdict = row.health.verdict
    right = "yes" if row.right else "NO"
    return f"| {row.group} | {row.name} | {verdict} | {right} | {rules or '-'} |"


def main() -> None:
    """Run all cases on one family and print the table and its totals."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("family", type=Path)
    parser.add_argument("--blind", action="store_true")
    parser.add_argument("--own-probes", action="store_true")
    parser.add_argument("--save", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    logging.disable(logging.WARNING)
    family = given.family.resolve()
    probes = own_probes(family) if given.own_probes else standard_probes()
    rows = []
    print("| group | case | verdict | as it should | findings |")
    print("| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for row in run_cases(family, Path(folder), probes, given.blind):
            print(line(row), flush=True)
            rows.append(row)
            if given.save:
                given.save.mkdir(parents=True, exist_ok=True)
                file = given.save / f"{row.group}-{_slug(row.name)}.json"
                file.write_text(row.health.model_dump_json(indent=1))
    print()
    for group in ("fault", "good", "control"):
        own = [row for row in rows if row.group == group]
        print(f"{group}: {sum(row.right for row in own)} of {len(own)} as they should")
    seconds = sorted(row.seconds for row in rows)
    print(f"seconds a check: median {seconds[len(seconds) // 2]:.1f}")


if __name__ == "__main__":
    main()
