"""The scan: from two parents (and their base) to a report with its pictures."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from mergekit_darwin.errors import some
from mergekit_darwin.models.checkpoint import Checkpoint, model_loads, open_checkpoint
from mergekit_darwin.models.opened import merge_options as default_merge_options
from mergekit_darwin.scan.attribution import measure_gains
from mergekit_darwin.scan.importance import Importance, ProbeOptions, measure_importance
from mergekit_darwin.scan.partial import (
    Partial,
    importance_json,
    importance_of,
    writing,
)
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
from mergekit_darwin.talk import versions

if TYPE_CHECKING:
    from mergekit.options import MergeOptions

LOG = logging.getLogger(__name__)
Gains = dict[str, dict[str, float]]
Draw = Callable[[Report, Path], list[str]]  # draws into a folder, returns file names


def scan(
    father: str,
    mother: str,
    base: str | None = None,
    *,
    out: str | Path,
    probes: Sequence[Probe],
    options: ProbeOptions,
    merge_options: MergeOptions | None = None,
    progress: bool = True,
    draw: Draw | None = None,
) -> Report:
    """Scan two parents into the folder out and return the report written there.

    Writes mds.json and the pictures of draw (plots.scan.draw). Without probes only the
    static profiles are measured. What was finished before a stop is used again; a
    finished report of the same parents and settings is returned as it is. Raises
    DarwinError, leaving no report behind, for whatever the user can repair.
    """
    loading = merge_options or default_merge_options(options)
    names = {"father": father, "mother": mother}
    if base is not None:
        names["base"] = base
    models = {role: open_checkpoint(name, loading) for role, name in names.items()}
    settings = _settings(probes, options)
    done = _existing(Path(out), models, settings)
    if done is not None:
        LOG.info("%s already holds this scan; nothing is left to do.", out)
        return done
    partial = Partial(Path(out) / ".scan")
    rows = _static(models, loading, partial, progress)
    _warn_missing(rows, models)
    found = _functional(names, models, probes, settings, options, partial, progress)
    gains = _gains(names, models, probes, settings, options, partial, progress)
    report = _report(names, models, settings, rows, found, gains)
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
        LOG.info("%s holds a scan with other settings; it will be replaced.", out)
        return None
    return report


def _static(
    models: Mapping[str, Checkpoint],
    loading: MergeOptions,
    partial: Partial,
    progress: bool,
) -> list[TensorRow]:
    loads = {role: model_loads(m.reference, loading) for role, m in models.items()}
    names = all_names(loads)
    key = {role: model.digest for role, model in models.items()}
    rows = partial.rows(key)
    left = [name for name in names if name not in rows]
    bar = _bar("tensors", len(names), progress, done=len(names) - len(left))
    with bar, partial.recorder(key) as record:
        for row in scan_tensors(loads, left):
            record(row)
            rows[row.name] = row
            bar.update()
    return [rows[name] for name in names if rows[name].statistics]


def _bar(what: str, total: int, progress: bool, done: int = 0) -> tqdm:
    return tqdm(total=total, initial=done, desc=what, disable=not progress, leave=False)


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


def _functional(
    names: Mapping[str, str],
    models: Mapping[str, Checkpoint],
    probes: Sequence[Probe],
    settings: Settings,
    options: ProbeOptions,
    partial: Partial,
    progress: bool,
) -> dict[str, Importance]:
    """Return the importance of both parents' layers, by role; empty without probes."""
    found: dict[str, Importance] = {}
    for role in ("father", "mother") if probes else ():
        key = {"model": models[role].digest, **_probe_key(settings)}
        known = partial.read("probes", key)
        if known is None:
            with _Advance(f"probes of {role.capitalize()}", progress) as advance:
                result = measure_importance(names[role], probes, options, advance)
            known = importance_json(result)
            partial.write("probes", key, known)
        found[role] = importance_of(known)
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


class _Advance:
    """A progress bar that a library function moves by calling it: done, total."""

    def __init__(self, what: str, progress: bool) -> None:
        self.bar = _bar(what, 0, progress)

    def __enter__(self) -> _Advance:
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()

    def __call__(self, done: int, total: int) -> None:
        self.bar.total = total
        self.bar.update(done - self.bar.n)


def _gains(
    names: Mapping[str, str],
    models: Mapping[str, Checkpoint],
    probes: Sequence[Probe],
    settings: Settings,
    options: ProbeOptions,
    partial: Partial,
    progress: bool,
) -> tuple[Gains, Gains]:
    """Return the gains of Father and Mother over the base; empty without a base."""
    if "base" not in names or not probes:
        return {}, {}
    digests = {role: model.digest for role, model in models.items()}
    key = {"models": digests, **_probe_key(settings)}
    known = partial.read("gains", key)
    if known is None:
        with _Advance("gains", progress) as advance:
            known = measure_gains(
                names["base"],
                names["father"],
                names["mother"],
                probes,
                options,
                advance,
            )
        partial.write("gains", key, known)
    left, right = known
    return left, right


def _report(
    names: Mapping[str, str],
    models: Mapping[str, Checkpoint],
    settings: Settings,
    rows: Sequence[TensorRow],
    found: Mapping[str, Importance],
    gains: tuple[Gains, Gains],
) -> Report:
    reports = {}
    for role, gain in zip(names, (*gains, {}), strict=False):
        probed = found.get(role)
        reports[role] = ModelReport(
            model=names[role],
            revision=models[role].reference.model.revision,
            digest=models[role].digest,
            layers=probed.layers if probed else 0,
            stack=probed.stack if probed else "",
            tensors={
                row.name: row.statistics[role] for row in rows if role in row.statistics
            },
            probes=probed.distances if probed else {},
            probe_loss=probed.loss if probed else {},
            gain=gain,
        )
    return Report(
        father=reports["father"],
        mother=reports["mother"],
        base=reports.get("base"),
        tool=versions("mergekit", "torch", "transformers"),
        settings=settings,
        pair=_pairs(rows) if "base" in names else None,
    )


def _pairs(rows: Sequence[TensorRow]) -> dict[str, PairStatistics]:
    return {row.name: row.pair for row in rows if row.pair is not None}


def _publish(report: Report, partial: Partial, draw: Draw | None) -> None:
    """Write report and pictures aside, then move them into place, the report last."""
    folder = partial.folder
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        pictures = draw(report, folder) if draw is not None else []
        text = report.model_dump_json(indent=1) + "\n"
        (folder / "mds.json").write_text(text, encoding="utf-8")
    partial.publish([*pictures, "mds.json"])
