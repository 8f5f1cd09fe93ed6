"""The scan: from two parents (and their base) to a report with its pictures."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mergekit_darwin.errors import some
from mergekit_darwin.files import write_whole
from mergekit_darwin.models.checkpoint import (
    Checkpoint,
    open_checkpoint,
    refuse_integers,
)
from mergekit_darwin.models.opened import merge_options
from mergekit_darwin.models.plan import model_loads
from mergekit_darwin.scan.attribution import Attribution, measure_gains
from mergekit_darwin.scan.importance import Importance, measure_importance
from mergekit_darwin.scan.partial import Partial, writing
from mergekit_darwin.scan.probes import Probe
from mergekit_darwin.scan.report import (
    ModelReport,
    PairStatistics,
    ProbeSetting,
    Report,
    Settings,
    check_identity,
    read_report,
)
from mergekit_darwin.scan.static import TensorRow, all_names, scan_tensors
from mergekit_darwin.talk import ProbeOptions, bar, versions

if TYPE_CHECKING:
    from mergekit.options import MergeOptions

LOG = logging.getLogger(__name__)
Draw = Callable[[Report, Path], list[str]]  # draws into a folder, returns file names


@dataclass(frozen=True)
class _Job:
    """One scan: its models by role, how they are measured, what is finished."""

    names: Mapping[str, str]
    models: Mapping[str, Checkpoint]
    probes: Sequence[Probe]
    settings: Settings
    options: ProbeOptions
    partial: Partial
    progress: bool


def scan(
    father: str,
    mother: str,
    base: str | None = None,
    *,
    out: str | Path,
    probes: Sequence[Probe],
    options: ProbeOptions,
    progress: bool = True,
    draw: Draw | None = None,
) -> Report:
    """Scan two parents into the folder out and return the report written there.

    Writes mds.json and the pictures of draw (plots.scan.draw). Without probes only the
    static profiles are measured. What was finished before a stop is used again; a
    finished report of the same parents and settings is returned as it is. Raises
    DarwinError, leaving no report behind, for whatever the user can repair.
    """
    loading = merge_options(options)
    names = {"father": father, "mother": mother}
    if base is not None:
        names["base"] = base
    models = {role: open_checkpoint(name, loading) for role, name in names.items()}
    for model in models.values():
        refuse_integers(model)
    settings = _settings(probes, options)
    done = _existing(Path(out), models, settings)
    if done is not None:
        LOG.info("%s already holds this scan; nothing is left to do.", out)
        return done
    partial = Partial(Path(out) / ".scan")
    job = _Job(names, models, probes, settings, options, partial, progress)
    with partial.held():
        rows = _static(job, loading)
        _warn_missing(rows, models)
        report = _report(job, rows, _functional(job), _gains(job))
        _publish(report, partial, draw)
    return report


def _settings(probes: Sequence[Probe], options: ProbeOptions) -> Settings:
    return Settings(
        tokens=options.max_tokens,
        dtype=options.dtype,
        probes={
            probe.name: ProbeSetting(
                digest=probe.digest, items=len(probe.items), weight=probe.weight
            )
            for probe in probes
        },
    )


def _existing(
    out: Path, models: Mapping[str, Checkpoint], settings: Settings
) -> Report | None:
    """Return a finished report of these models and settings, if out has one."""
    if not (out / "mds.json").exists():
        return None
    report = read_report(out)
    check_identity(
        report, models["father"].digest, models["mother"].digest, f"--out {out}"
    )
    base = models["base"].digest if "base" in models else None
    known = report.base.digest if report.base is not None else None
    if report.settings != settings or known != base:
        LOG.warning("%s holds a scan with other settings; it will be replaced.", out)
        return None
    return report


def _static(job: _Job, loading: MergeOptions) -> list[TensorRow]:
    loads = {role: model_loads(m.reference, loading) for role, m in job.models.items()}
    names = all_names(loads)
    key = {role: model.digest for role, model in job.models.items()}
    rows = job.partial.rows(key)
    left = [name for name in names if name not in rows]
    with bar("tensors", job.progress) as advance, job.partial.recorder(key) as record:
        for row in scan_tensors(loads, left):
            record(row)
            rows[row.name] = row
            advance(len(rows), len(names))
    return [rows[name] for name in names if rows[name].statistics]


def _warn_missing(rows: Sequence[TensorRow], models: Mapping[str, Checkpoint]) -> None:
    """Name what cannot be compared: tensors that some of the models lack."""
    for role, model in models.items():
        lacking = [row.name for row in rows if role not in row.statistics]
        if lacking:
            LOG.warning(
                "%s (%s) lacks %d tensors that the others have: %s. They are not"
                " compared.",
                role.capitalize(),
                model.reference,
                len(lacking),
                some(lacking),
            )


def _functional(job: _Job) -> dict[str, Importance]:
    """Return the importance of both parents' layers, by role; empty without probes."""
    found: dict[str, Importance] = {}
    for role in ("father", "mother") if job.probes else ():

        def measure(role: str = role) -> Importance:
            with bar(f"probes of {role.capitalize()}", job.progress) as advance:
                name = job.names[role]
                return measure_importance(name, job.probes, job.options, advance)

        key = {"model": job.models[role].digest, **_probe_key(job.settings)}
        found[role] = job.partial.once("probes", Importance, key, measure)
    if found and found["father"].layers != found["mother"].layers:
        LOG.warning(
            "Father has %d layers and Mother %d: layers are compared by number as far"
            " as both have them.",
            found["father"].layers,
            found["mother"].layers,
        )
    return found


def _probe_key(settings: Settings) -> dict[str, object]:
    probes = {name: one.digest for name, one in settings.probes.items()}
    return {"tokens": settings.tokens, "dtype": settings.dtype, "probes": probes}


def _gains(job: _Job) -> tuple[Attribution, ...]:
    """Return what Father and Mother gain over the base; empty without a base."""
    if "base" not in job.names or not job.probes:
        return ()

    def measure() -> tuple[Attribution, Attribution]:
        base, father, mother = (job.names[r] for r in ("base", "father", "mother"))
        with bar("gains", job.progress) as advance:
            return measure_gains(base, father, mother, job.probes, job.options, advance)

    digests = {role: model.digest for role, model in job.models.items()}
    key = {"models": digests, **_probe_key(job.settings)}
    kind = tuple[Attribution, Attribution]
    found: tuple[Attribution, ...] = job.partial.once("gains", kind, key, measure)
    return found


def _report(
    job: _Job,
    rows: Sequence[TensorRow],
    found: Mapping[str, Importance],
    gains: Sequence[Attribution],
) -> Report:
    gained = dict(zip(("father", "mother"), gains, strict=False))
    reports = {}
    for role, name in job.names.items():
        probed, gain = found.get(role), gained.get(role)
        passes = probed.passes if probed else None
        reports[role] = ModelReport(
            model=name,
            revision=job.models[role].reference.model.revision,
            digest=job.models[role].digest,
            layers=probed.layers if probed else 0,
            stack=probed.stack if probed else "",
            tensors={
                row.name: row.statistics[role] for row in rows if role in row.statistics
            },
            probes=probed.distances if probed else {},
            probe_loss=probed.loss if probed else {},
            gain=gain.gain if gain else {},
            curvature=gain.curvature if gain else {},
            passes=gains[0].passes if role == "base" and gains else passes,
        )
    return Report(
        father=reports["father"],
        mother=reports["mother"],
        base=reports.get("base"),
        tool=versions("mergekit", "torch", "transformers"),
        settings=job.settings,
        pair=_pairs(rows) if "base" in job.names else None,
    )


def _pairs(rows: Sequence[TensorRow]) -> dict[str, PairStatistics]:
    return {row.name: row.pair for row in rows if row.pair is not None}


def _publish(report: Report, partial: Partial, draw: Draw | None) -> None:
    """Write report and pictures aside, then move them into place, the report last."""
    folder = partial.folder
    with writing(folder):
        pictures = draw(report, folder) if draw is not None else []
        write_whole(folder / "mds.json", report.model_dump_json(indent=1) + "\n")
    partial.publish([*pictures, "mds.json"])
