"""Refits at the end of a run: on which texts, of which children, what came of them."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.evolve.config import EvolveConfig
from mergekit_darwin.evolve.diagnose import Diagnosis
from mergekit_darwin.evolve.log import Evaluation
from mergekit_darwin.evolve.tasks import TaskSet, probe_items, prompts
from mergekit_darwin.evolve.workers import Worker
from mergekit_darwin.files import write_whole
from mergekit_darwin.models.manifest import damage, set_aside
from mergekit_darwin.refit.options import refit_options
from mergekit_darwin.refit.report import RefitReport, read_refit
from mergekit_darwin.refit.run import refit
from mergekit_darwin.refit.texts import TextChoice
from mergekit_darwin.refit.write import BEFORE, RECIPE
from mergekit_darwin.scan.probes import Probe, ProbeItem, read_probes
from mergekit_darwin.talk import bar

LOG = logging.getLogger("mergekit_darwin")


@dataclass(frozen=True)
class Refitted:
    """A merge that was refitted: its folder, its report, its line on search items."""

    name: str
    folder: Path
    report: RefitReport
    line: Evaluation

    @property
    def sound(self) -> bool:
        """Whether it has kept general text and could be measured."""
        return self.report.verdict == "sound" and self.line.score is not None


@dataclass(frozen=True)
class Teaching:
    """All texts that children are refitted on, and each parent's by their names."""

    probes: tuple[Probe, ...]
    named: Mapping[str, Sequence[str]]

    def write(self, folder: Path) -> None:
        """Write what `mergekit-darwin-refit --probes` reads: a file each probe."""
        for probe in self.probes:
            rows = [json.dumps(vars(x), ensure_ascii=False) + "\n" for x in probe.items]
            write_whole(folder / f"{probe.name.lower()}.jsonl", "".join(rows))


def given_texts(config: EvolveConfig, heldout: TaskSet) -> list[Probe]:
    """Return the texts of refit_texts. Raises DarwinError for a held-out one."""
    if config.refit_texts is None:
        return []
    probes = read_probes(config.refit_texts)
    held = prompts(heldout)
    for probe in probes:
        for item in probe.items:
            if _is_among(item, held):
                raise DarwinError(
                    f"refit_texts must have no held-out item; {probe.name} has"
                    f" {(item.prompt + item.completion).strip()[:60]!r}. Leave it out:"
                    " a child refitted on it would say nothing by its score."
                )
    return probes


def _is_among(item: ProbeItem, held: frozenset[str]) -> bool:
    """Return whether a text asks what a held-out item asks."""
    if item.prompt.strip():
        return item.prompt.strip() in held
    whole = item.completion.strip()
    return any(whole[:size] in held for size in {len(prompt) for prompt in held})


def teaching(worker: Worker, diagnosis: Diagnosis) -> Teaching:
    """Return the search items and refit_texts, those of one name together.

    A task's are those of the parent who scores higher on it, of both where they are
    level; what belongs to no task goes to the parent with the lower loss.
    """
    tasks = worker.tasks["search"]
    lm = worker.template() if tasks.chat else None
    found: dict[str, tuple[ProbeItem, ...]] = {}
    for searched, items in probe_items(tasks, lm, tasks.count).items():
        if items:
            found[_probe_name(searched)] = items
    named: dict[str, list[str]] = {"father": [], "mother": []}
    anchors = diagnosis.anchors
    scores = zip(tasks.tasks, anchors.father, anchors.mother, strict=True)
    for task, father, mother in scores:
        name = _probe_name(task.name)
        if name in found and father >= mother:
            named["father"].append(name)
        if name in found and mother >= father:
            named["mother"].append(name)
    for probe in given_texts(worker.config, worker.tasks["heldout"]):
        found[probe.name] = found.get(probe.name, ()) + probe.items
    share = 1.0 / len(found)
    return Teaching(tuple(Probe(n, x, share) for n, x in sorted(found.items())), named)


def _probe_name(task: str) -> str:
    return re.sub(r"\W+", "_", task).upper()


def refit_merge(text: str, folder: Path, taught: Teaching, worker: Worker) -> None:
    """Merge a YAML aside and refit what comes out into a folder, if need be.

    One that is there is kept only if it is of this YAML and these texts, and as its
    manifest says. Raises DarwinError where the family cannot be refitted.
    """
    if os.path.lexists(folder):
        if _is_of(folder, text, taught):
            return
        set_aside(folder)
    options, config = worker.options, worker.config
    running = {"device": options.device, "trust_remote_code": options.trust_remote_code}
    with worker.merged(text, folder.name) as merged:
        models = {"child": merged, "father": config.father, "mother": config.mother}
        choice = TextChoice(taught.probes, taught.named)
        with bar(f"refitting {folder.name}", not options.quiet) as advance:
            refit(models, folder, choice, refit_options(running), advance)


def _is_of(folder: Path, text: str, taught: Teaching) -> bool:
    """Return whether a folder holds the refit of a YAML on some texts, undamaged."""
    try:
        made_of = (folder / f"{BEFORE}{RECIPE}").read_text(encoding="utf-8")
        report = read_refit(folder)
    except (OSError, DarwinError):
        return False
    fitted = {**report.texts["father"].probes, **report.texts["mother"].probes}
    digests = {probe.name: probe.digest for probe in taught.probes}
    return made_of == text and fitted == digests and damage(folder) is None


def best_refit(best: Evaluation, refits: Sequence[Refitted]) -> Refitted | None:
    """Return the refit that scores highest on the search items.

    None where no sound one is above the merged child.
    """
    sound = [row for row in refits if row.sound]
    first = max(sound, key=lambda row: row.line.score or 0.0, default=None)
    if first is None or (first.line.score or 0.0) <= (best.score or 0.0):
        return None
    return first
