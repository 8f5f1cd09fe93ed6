"""Phase 0: the scan with the search items as probes, and both parents' scores."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from mergekit.io.tasks import LoaderCache

from mergekit_darwin.evolve.config import EvolveConfig
from mergekit_darwin.evolve.fitness import combined_error
from mergekit_darwin.evolve.log import Candidate, Evaluation
from mergekit_darwin.evolve.record import Record
from mergekit_darwin.evolve.tasks import TaskSet, probe_items
from mergekit_darwin.evolve.workers import Worker
from mergekit_darwin.merge.loaded import wrap_report
from mergekit_darwin.merge.roles import Roles
from mergekit_darwin.merge.settings import MergeSettings, WholeMerge
from mergekit_darwin.merge.yaml import Common, genome_yaml
from mergekit_darwin.models.checkpoint import parse_model
from mergekit_darwin.ratios.genome import DEFAULT_BLOCKS, Genome, make_genome
from mergekit_darwin.ratios.report_picture import draw
from mergekit_darwin.ratios.rules import spread_of
from mergekit_darwin.ratios.scores import Mri, report_scores
from mergekit_darwin.scan.probes import Probe, read_probes
from mergekit_darwin.scan.report import Report, read_report
from mergekit_darwin.scan.run import scan
from mergekit_darwin.search.landscape import Landscape, landscape, population_ratios
from mergekit_darwin.search.proxy import Anchors
from mergekit_darwin.search.space import Space, make_space
from mergekit_darwin.talk import ProbeOptions

LOG = logging.getLogger("mergekit_darwin")


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What phase 0 found, and what follows from it for every merge of the run.

    family are the lines of Father, Mother and base; noise is one score's; still are
    the tensors, [T] of land's, that no blend can change.
    """

    report: Report
    common: Common
    space: Space
    land: Landscape
    family: tuple[Evaluation, ...]
    anchors: Anchors
    noise: float
    still: npt.NDArray[np.bool_]

    def candidate(
        self, genome: Genome, name: str | None = None, proxy: float | None = None
    ) -> Candidate:
        """Return a genome as something to measure, named by its hash unless told."""
        digest, twin = self.common.settings_of(genome).hash, self.twin(genome)
        made = Candidate(name or digest, None, None, genome, digest, proxy, twin)
        if twin is None:
            return replace(made, yaml=genome_yaml(self.common, genome))
        return replace(made, model=str(getattr(self.common.roles, twin)))

    def twin(self, genome: Genome) -> Literal["father", "mother"] | None:
        """Return the parent that a genome's merge would be, tensor by tensor."""
        if self.report.father.tensors.keys() != self.report.mother.tensors.keys():
            return None
        row = np.array([[genome[name] for name in self.land.columns]])
        ratios, routing = population_ratios(self.land, row)[0], self.land.routing
        if (self.still | (ratios < routing.low)).all():
            return "father"
        return "mother" if (self.still | (ratios > routing.high)).all() else None


def diagnose(
    config: EvolveConfig, folder: Path, record: Record, worker: Worker
) -> Diagnosis:
    """Scan the parents (or take `mds`), measure them, and decide what the run uses."""
    tasks = worker.tasks["search"]
    mds = config.mds or str(folder / "mds")
    report = read_report(mds) if config.mds else scan_parents(worker, Path(mds))
    mri = config.mri or ("attribution" if report.father.gain else "published")
    _say_spread(report, mri)
    common = common_of(config, report, mds, mri)
    space = _space(config, common, report)
    lines = record.measure("parent", _family(config))
    names = [task.name for task in tasks.tasks]
    land = landscape(report, mri, names, space.blocks, common.settings.routing)
    land = replace(land, plain=config.operator != "dare_ties")
    if not land.attributed:
        LOG.warning(
            "No attribution in the report: the proxy rests on layer importance, which"
            " was measured to predict little. A base_model would give it gains."
        )
    return Diagnosis(
        report=report,
        common=common,
        space=space,
        land=land,
        family=tuple(lines),
        anchors=make_anchors(tasks, lines),
        noise=noise_of(tasks, lines),
        still=unmoved(config, report, land),
    )


def unmoved(
    config: EvolveConfig, report: Report, land: Landscape
) -> npt.NDArray[np.bool_]:
    """Return which tensors are one in all models of a run, bit for bit, [T] of land's.

    DARE-TIES leaves these alone at any ratio. Frozen embeddings are among them.
    """
    if land.plain:  # a mean of two equal numbers may be rounded
        return np.zeros(len(land.names), dtype=bool)
    if report.pair:
        return (land.norm_father == 0.0) & (land.norm_mother == 0.0)
    models = (config.father, config.mother)
    files = [LoaderCache().get(parse_model(model)) for model in models]

    def same(name: str) -> bool:
        if report.father.tensors[name] != report.mother.tensors[name]:
            return False
        if any(name not in file.index.tensor_paths for file in files):
            return False  # fused experts: nobody freezes these
        return torch.equal(*(file.get_tensor(name) for file in files))

    return np.array([same(name) for name in land.names])


def common_of(config: EvolveConfig, report: Report, mds: str, mri: Mri) -> Common:
    """Return what all merges of a run have in common."""
    keys = ("dtype", "out_dtype", "tokenizer", "tokenizer_source", "chat_template")
    given = config.model_dump(include=set(WholeMerge.model_fields))
    return Common(
        Roles(config.base_model or config.father, config.father, config.mother),
        MergeSettings(**{**given, "mri": mri, "mds": wrap_report(report, mds)}),
        {key: getattr(config, key) for key in keys if getattr(config, key)},
    )


def _family(config: EvolveConfig) -> list[Candidate]:
    models = {"father": config.father, "mother": config.mother}
    if config.third_base:
        models["base"] = config.third_base
    return [Candidate(name, model=model) for name, model in models.items()]


def _space(config: EvolveConfig, common: Common, report: Report) -> Space:
    """Return the genes that act under the operator, as many blocks as there may be."""
    layers = report.father.layers or DEFAULT_BLOCKS
    blocks = min(config.blocks or DEFAULT_BLOCKS, layers)
    acting = common.settings_of(make_genome({}, blocks)).lines()
    return make_space(config.gene_kind, blocks, acting)


def _say_spread(report: Report, mri: Mri) -> None:
    spread = spread_of(report_scores(report, mri).values())
    if spread is not None:
        LOG.info("mri_ratio (%s) spreads by %.4f", mri, spread.width)
        if spread.warning:
            LOG.warning("mri: %s: %s", mri, spread.warning)


def make_anchors(tasks: TaskSet, lines: Sequence[Evaluation]) -> Anchors:
    """Return the family's scores a task, higher better; without a base the lower."""
    signs = np.array([task.sign for task in tasks.tasks])
    rows = {
        line.name: signs * [line.value(task.name) for task in tasks.tasks]
        for line in lines
    }
    father, mother = rows["father"], rows["mother"]
    base = rows.get("base", np.minimum(father, mother))
    weights = np.array([task.weight for task in tasks.tasks])
    return Anchors(base, father, mother, weights)


def noise_of(tasks: TaskSet, lines: Sequence[Evaluation]) -> float:
    """Return half the standard error of a parent's score, the noise between siblings.

    All candidates answer the same items, so most of an item's luck is shared: half is
    our choice. 0.01 where errors are not known.
    """
    errors = [combined_error(tasks, line) for line in lines]
    known = np.array([error for error in errors if error is not None])
    return max(0.5 * float(np.sqrt((known**2).mean())), 1e-3) if len(known) else 0.01


def task_probes(worker: Worker) -> list[Probe]:
    """Return one probe of each task's items, and those of `probes` beside them.

    Tasks share the whole weight, so that the ratios follow what is searched for; the
    others have weight 0 and cost their passes, so there are none unless asked for.
    """
    config, tasks = worker.config, worker.tasks["search"]
    lm = worker.template() if tasks.chat else None
    items = probe_items(tasks, lm, config.probe_items)
    beside = read_probes(config.probes) if config.probes else []
    probes = [Probe(probe.name, probe.items, 0.0) for probe in beside]
    return probes + [
        Probe(task.name, items[task.name], task.weight)
        for task in tasks.tasks
        if items[task.name]
    ]


def scan_parents(worker: Worker, folder: Path) -> Report:
    """Scan both parents into a folder with `task_probes`.

    What is finished there is not measured again.
    """
    config, options = worker.config, worker.options
    return scan(
        config.father,
        config.mother,
        config.third_base,
        out=folder,
        probes=task_probes(worker),
        options=ProbeOptions(
            device=options.device, trust_remote_code=options.trust_remote_code
        ),
        progress=not options.quiet,
        draw=draw,
    )
