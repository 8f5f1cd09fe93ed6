"""Phase 0: the scan with the search items as probes, and both parents' scores."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.evolve.config import EvolveConfig
from mergekit_darwin.evolve.context import Run, Subject, measure
from mergekit_darwin.evolve.fitness import Exam, questions
from mergekit_darwin.evolve.log import Evaluation
from mergekit_darwin.merge.roles import Roles
from mergekit_darwin.merge.settings import MergeSettings, wrap_report
from mergekit_darwin.merge.yaml import Common, genome_yaml
from mergekit_darwin.ratios.genome import DEFAULT_BLOCKS, Genome
from mergekit_darwin.ratios.rules import Mri, Routing, report_scores, spread_of
from mergekit_darwin.scan.report import Report, read_report
from mergekit_darwin.search import Space, make_space
from mergekit_darwin.search.proxy import Anchors, Landscape, landscape

LOG = logging.getLogger("mergekit_darwin")


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What phase 0 found, and what follows from it for every merge of the run."""

    report: Report
    mri: Mri
    mds: str
    common: Common
    space: Space
    land: Landscape
    anchors: Anchors
    noise: float


def diagnose(run: Run, worker: Any) -> Diagnosis:
    """Scan the parents (or take `mds`), measure them, and decide what the run uses."""
    config = run.config
    report = read_report(config.mds) if config.mds else _scan(run, worker)
    folder = config.mds or str(run.folder / "mds")
    mri = config.mri or ("attribution" if report.father.gain else "published")
    _say_spread(report, mri)
    common = common_of(config, report, folder, mri)
    space = make_space(config.gene_kind, _blocks(config, report))
    lines = measure(run, "parent", 0, "search", _family(config))
    for line in lines:
        if line.score is None:
            raise DarwinError(
                f"The {line.name} must be measurable; it is not: {line.error}"
            )
    anchors = _anchors(run.exams["search"], lines)
    tasks = [paper.name for paper in run.exams["search"].papers]
    routing = Routing(config.transplant_low, config.transplant_high)
    land = landscape(report, mri, tasks, space.blocks, routing)
    if not land.attributed:
        LOG.warning(
            "No attribution in the report: the proxy rests on layer importance, which"
            " was measured to predict little. A base_model would give it gains."
        )
    noise = _noise(run.exams["search"], lines)
    return Diagnosis(report, mri, folder, common, space, land, anchors, noise)


def common_of(config: EvolveConfig, report: Report, mds: str, mri: Mri) -> Common:
    """Return what all merges of a run have in common."""
    keys = ("dtype", "out_dtype", "tokenizer", "tokenizer_source", "chat_template")
    return Common(
        Roles(config.base_model or config.father, config.father, config.mother),
        MergeSettings(
            mds=wrap_report(report, mds),
            mri=mri,
            mask_seed=config.mask_seed,
            transplant_low=config.transplant_low,
            transplant_high=config.transplant_high,
            rescale=config.rescale,
            normalize=config.normalize,
        ),
        {key: getattr(config, key) for key in keys if getattr(config, key)},
    )


def subject_of(
    common: Common, genome: Genome, name: str | None = None, proxy: float | None = None
) -> Subject:
    """Return a genome as something to measure, named by its hash unless told."""
    digest = common.settings_of(genome).hash
    text = genome_yaml(common, genome)
    return Subject(name or digest, None, text, genome, digest, proxy)


def _family(config: EvolveConfig) -> list[Subject]:
    subjects = [
        Subject("father", model=config.father),
        Subject("mother", model=config.mother),
    ]
    if config.third_base:
        subjects.append(Subject("base", model=config.third_base))
    return subjects


def _blocks(config: EvolveConfig, report: Report) -> int:
    layers = report.father.layers or DEFAULT_BLOCKS
    return min(config.blocks or DEFAULT_BLOCKS, layers)


def _say_spread(report: Report, mri: Mri) -> None:
    spread = spread_of(report_scores(report, mri).values())
    if spread is not None:
        LOG.info("mri_ratio (%s) spreads by %.4f", mri, spread.width)
        if spread.warning:
            LOG.warning("mri: %s: %s", mri, spread.warning)


def _anchors(exam: Exam, lines: Sequence[Evaluation]) -> Anchors:
    """Return the family's scores a task, higher better; without a base the lower."""
    by_name = {line.name: line for line in lines}

    def scores(name: str) -> Any:
        return np.array(
            [
                paper.sign * float(_value(by_name[name].tasks[paper.name]))
                for paper in exam.papers
            ]
        )

    father, mother = scores("father"), scores("mother")
    base = scores("base") if "base" in by_name else np.minimum(father, mother)
    weights = np.array([paper.weight for paper in exam.papers])
    return Anchors(base, father, mother, weights)


def _value(found: dict[str, float | int | None]) -> float:
    return next(
        float(value)
        for key, value in found.items()
        if key not in ("stderr", "n") and value is not None
    )


def _noise(exam: Exam, lines: Sequence[Evaluation]) -> float:
    """Return half the standard error of a parent's score, the noise between siblings.

    All candidates answer the same items, so most of an item's luck is shared: half is
    our choice. 0.01 where errors are not known.
    """
    squares = []
    for line in lines:
        errors = [line.tasks[paper.name]["stderr"] for paper in exam.papers]
        if all(error is not None for error in errors):
            weighted = [
                (paper.weight * float(error or 0.0)) ** 2
                for paper, error in zip(exam.papers, errors, strict=True)
            ]
            squares.append(math.fsum(weighted))
    if not squares:
        return 0.01
    return max(0.5 * math.sqrt(math.fsum(squares) / len(squares)), 1e-3)


def _scan(run: Run, worker: Any) -> Report:
    """Return the scan in RUN/mds; what is finished there is not measured again."""
    return scan_parents(run.config, run.exams["search"], worker, run.folder / "mds")


def task_probes(config: EvolveConfig, exam: Exam, worker: Any) -> list[Any]:
    """Return the standard probes (or `probes`) and one probe of each task's items.

    Tasks share the whole weight; the others are recorded beside them with weight 0,
    so that the ratios follow what is searched for.
    """
    from mergekit_darwin.scan.probes import (
        Probe,
        ProbeItem,
        read_probes,
        standard_probes,
    )

    lm = _template(config, worker) if exam.chat else None
    asked = questions(exam, lm, config.probe_items)
    beside = read_probes(config.probes) if config.probes else standard_probes()
    probes = [Probe(probe.name, probe.items, 0.0) for probe in beside]
    for paper in exam.papers:
        items = tuple(ProbeItem(q.prompt, q.completion) for q in asked[paper.name])
        if items:
            probes.append(Probe(paper.name, items, paper.weight))
    return probes


def scan_parents(config: EvolveConfig, exam: Exam, worker: Any, folder: Path) -> Report:
    """Scan both parents into a folder with `task_probes`."""
    from mergekit_darwin.models.opened import ProbeOptions
    from mergekit_darwin.ratios.report_picture import draw
    from mergekit_darwin.scan.run import scan

    return scan(
        config.father,
        config.mother,
        config.third_base,
        out=folder,
        probes=task_probes(config, exam, worker),
        options=ProbeOptions(
            device=worker.bench.device,
            trust_remote_code=worker.bench.trust_remote_code,
        ),
        progress=worker.bench.progress,
        draw=draw,
    )


def _template(config: EvolveConfig, worker: Any) -> Any:
    """Return a harness model of the Father, for its chat template alone."""
    return worker.template(config.father)
