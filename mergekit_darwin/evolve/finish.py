"""The end of a run: best.yml, the final model, its health, the held-out comparison."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from mergekit.options import MergeOptions

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.evolve.compare import Comparison, make_comparison
from mergekit_darwin.evolve.config import EvolveConfig
from mergekit_darwin.evolve.diagnose import Diagnosis, task_probes
from mergekit_darwin.evolve.log import Candidate, Evaluation
from mergekit_darwin.evolve.record import Record
from mergekit_darwin.evolve.refits import (
    Refitted,
    best_refit,
    refit_merge,
    teaching,
)
from mergekit_darwin.evolve.tasks import TaskSet
from mergekit_darwin.evolve.workers import Worker
from mergekit_darwin.files import sync, write_whole
from mergekit_darwin.health.report import Health
from mergekit_darwin.health.run import check
from mergekit_darwin.merge.yaml import genome_yaml, merge_to, uniform_yamls
from mergekit_darwin.models.manifest import MANIFEST, damage, seal, set_aside
from mergekit_darwin.ratios.genome import Genome, genome_json, make_genome
from mergekit_darwin.refit.report import read_refit

LOG = logging.getLogger("mergekit_darwin")


@dataclass(frozen=True)
class Finished:
    """A run with what it has come to: report and card are made of this.

    lines are the real evaluations, best the child's among them. refits are refitted
    merges, chosen that which the final model is, None where it is the merged child
    itself. table and health are None until they are known, health for good where it
    could not be checked. notes are sentences that a reader must see first.
    """

    folder: Path
    config: EvolveConfig
    tasks: TaskSet
    diagnosis: Diagnosis
    lines: tuple[Evaluation, ...]
    best: Evaluation
    notes: tuple[str, ...] = ()
    refits: tuple[Refitted, ...] = ()
    chosen: Refitted | None = None
    table: Comparison | None = None
    health: Health | None = None

    @property
    def mds(self) -> Path:
        """The folder of the scan that the run used."""
        return Path(self.config.mds or self.folder / "mds")

    @property
    def model(self) -> Path:
        """The folder of the final model."""
        return self.folder / "final_model"

    @property
    def genome(self) -> Genome:
        """The child's genome."""
        return self.best.made_of


def write_best(run: Finished) -> None:
    """Write best.yml, of which plain mergekit-yaml makes the child, and genome.json."""
    common = run.diagnosis.common
    write_whole(run.folder / "best.yml", genome_yaml(common, run.genome))
    digest = common.settings_of(run.genome).hash
    write_whole(run.folder / "genome.json", genome_json(run.genome, digest))


def refit_merges(run: Finished, record: Record, worker: Worker) -> Finished:
    """Return the run with its child and the mean of both parents refitted and measured.

    Where the family cannot be refitted, a note says why and the child stays as it is.
    """
    merges = {
        "refitted child": (run.folder / "best.yml").read_text(encoding="utf-8"),
        "refitted mean": uniform_yamls(run.diagnosis.common)["linear 0.5"],
    }
    folders = {name: run.folder / "refit" / name.split()[1] for name in merges}
    try:
        taught = teaching(worker, run.diagnosis)
        taught.write(run.folder / "refit" / "texts")
        for name, text in merges.items():
            refit_merge(text, folders[name], taught, worker)
    except DarwinError as error:
        note = f"The child could not be refitted: {error.message}"
        LOG.warning(note)
        return replace(run, notes=(*run.notes, note))
    candidates = [Candidate(name, model=str(it)) for name, it in folders.items()]
    refits = tuple(
        Refitted(line.name, folders[line.name], read_refit(folders[line.name]), line)
        for line in record.measure("refit", candidates)
    )
    return replace(run, refits=refits, chosen=best_refit(run.best, refits))


def make_final_model(run: Finished, trust_remote_code: bool) -> None:
    """Make the final model, if need be: a plain mergekit run of best.yml, or a refit.

    One that is there is kept only if it is of this YAML, or a copy of this refit, and
    as its manifest says.
    """
    final, aside = run.model, run.folder / "final_model.part"
    source = run.folder / "best.yml", "mergekit_config.yml"
    if run.chosen is not None:
        source = run.chosen.folder / MANIFEST, MANIFEST
    made_of = final / source[1]
    if made_of.exists() and made_of.read_bytes() == source[0].read_bytes():
        found = damage(final)
        if found is None:
            return
        LOG.warning("The final model is made again: %s", found)
    if aside.is_dir() and not aside.is_symlink():
        shutil.rmtree(aside)
    if run.chosen is not None:
        shutil.copytree(run.chosen.folder, aside)
    else:
        options = MergeOptions(quiet=True, trust_remote_code=trust_remote_code)
        merge_to(source[0].read_text(encoding="utf-8"), aside, options)
    seal(aside)
    set_aside(final)
    aside.rename(final)
    sync(run.folder)


def check_health(run: Finished, worker: Worker) -> Finished:
    """Return the run with the health of its child, as it was where that fails.

    The search items are the probes. A check that fails is said and does not undo a
    finished search. A report that came with the config may have been made with any
    probes, so it is not used.
    """
    config = run.config
    given = run.diagnosis.report if not config.mds else None
    try:
        health = check(
            str(run.model),
            father=config.father,
            mother=config.mother,
            base=config.third_base,
            out=run.folder / "health",
            report=given,
            probes=task_probes(worker),
        )
    except Exception as error:
        LOG.warning("The child's health could not be checked: %s", error)
        LOG.debug("health", exc_info=True)
        return run
    level = logging.INFO if health.verdict == "healthy" else logging.WARNING
    LOG.log(level, "Health of the child: %s", health.verdict)
    return replace(run, health=health)


def compare(
    run: Finished, record: Record, tasks: TaskSet, rival: Evaluation | None
) -> Finished:
    """Return the run with everybody measured on the held-out tasks.

    rival is the best of a random search, if there was one.
    """
    config, diagnosis = run.config, run.diagnosis
    uniform = uniform_yamls(diagnosis.common)
    neutral = make_genome({}, diagnosis.space.blocks)
    candidates = [
        Candidate("father", model=config.father),
        Candidate("mother", model=config.mother),
        *(Candidate(name, yaml=text) for name, text in uniform.items()),
        diagnosis.candidate(neutral, "darwin_v6 neutral"),
    ]
    if rival is not None:
        candidates.append(diagnosis.candidate(rival.made_of, "random search"))
    child = diagnosis.candidate(run.genome, "child")
    ways = [Candidate(x.name, model=str(x.folder)) for x in run.refits]
    ways = [child, *ways] if run.refits else [child]
    last = run.chosen.name if run.chosen else "child"
    final = next(way for way in ways if way.name == last)
    candidates += [way for way in ways if way is not final]
    lines = record.measure("baseline", candidates, part="heldout")
    final = replace(final, model=str(run.model), yaml=None, twin=None)
    lines += record.measure("final", [final], part="heldout")
    return replace(run, table=make_comparison(lines, list(uniform), tasks))
