"""Scan, ratios, merge, health: what one merge asks for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mergekit_darwin.errors import DarwinError, refuse_unknown
from mergekit_darwin.talk import ProbeOptions

if TYPE_CHECKING:
    from mergekit_darwin.health.report import Health
    from mergekit_darwin.merge.preview import Preview
    from mergekit_darwin.ratios.genome import Genome
    from mergekit_darwin.ratios.rules import Prescription
    from mergekit_darwin.scan.probes import Probe
    from mergekit_darwin.scan.report import Report

SUPPORTED = ((0, 1, 5), (0, 2))  # mergekit: from, up to but not including
PathLike = str | Path  # a file or folder


def scan_parents(
    father: str,
    mother: str,
    base: str | None = None,
    *,
    out: PathLike,
    probes: PathLike | Sequence[Probe] | None = None,
    progress: bool = False,
    **running: Any,
) -> Report:
    """Measure what every tensor and layer of two parents is for.

    Writes mds.json and its pictures into the folder out, and returns the report: static
    profiles of all tensors, probe distances [L] in [0, 2] for each probe and parent,
    with a base the gains in nats a token. probes: a folder of .jsonl or .txt files,
    None for those that come with the package, () for no probes at all. A scan that was
    stopped goes on; a finished one of the same parents and settings is returned as it
    is. running are the fields of talk.ProbeOptions (device, dtype, batch_size, stream,
    ...). Raises DarwinError, leaving no report behind.
    """
    from mergekit_darwin.ratios.report_picture import draw
    from mergekit_darwin.scan.partial import check_out
    from mergekit_darwin.scan.run import scan

    options = _running(running)
    check_out(Path(out))
    return scan(
        father,
        mother,
        base,
        out=Path(out),
        probes=probes_of(probes),
        options=options,
        progress=progress,
        draw=draw,
    )


def ratio_table(config: PathLike, **merging: Any) -> list[Prescription]:
    """Return the ratio of every tensor that a darwin_v6 YAML would write, by name.

    Nothing is merged; weights are read only where no report knows a tensor. merging
    are mergekit's options (trust_remote_code, lora_merge_cache, ...). Their
    columns are a pandas frame: `pandas.DataFrame(row.columns() for row in rows)`.
    Raises DarwinError.
    """
    from mergekit_darwin.merge.preview import plan_run, ratio_rows
    from mergekit_darwin.merge.yaml import read_config

    return ratio_rows(plan_run(read_config(config), _merging(merging)))


def preview_merges(
    config: PathLike,
    *,
    step: str | None = None,
    intermediate_dir: str | None = None,
    allow_missing: bool = False,
    **merging: Any,
) -> dict[str, Preview]:
    """Return the darwin_v6 merges of a YAML, or of a mergekit-multi file, by name.

    Each is looked at when asked: whether its models fit, the ratios, one tensor's
    reasons. A merge without a name is "", the final one. step chooses one;
    intermediate_dir is where mergekit-multi keeps the results of its steps;
    allow_missing goes on where weights would be left out; merging as in ratio_table.
    Raises DarwinError.
    """
    from mergekit_darwin.merge.preview import Preview
    from mergekit_darwin.merge.yaml import read_steps

    options = _merging(merging)
    steps = read_steps(config, intermediate_dir, step)
    for merge in steps.values() if allow_missing else ():
        merge.parameters = {**(merge.parameters or {}), "allow_missing": True}
    return {name: Preview(merge, options) for name, merge in steps.items()}


def merge_yaml(config: PathLike, out: PathLike, **merging: Any) -> Path:
    """Merge a YAML into the folder out as mergekit-yaml does, and return the folder.

    Any method of mergekit will do. merging are mergekit's options (copy_tokenizer,
    lazy_unpickle, device, ...). Raises DarwinError for what darwin_v6 refuses, and what
    mergekit raises for the rest.
    """
    from mergekit_darwin.files import read_text
    from mergekit_darwin.merge.yaml import merge_to

    text = read_text(Path(config), f"{config} cannot be read as YAML")
    merge_to(text, Path(out), _merging(merging))
    return Path(out)


def check_health(
    child: str,
    father: str | None = None,
    mother: str | None = None,
    base: str | None = None,
    *,
    mds: PathLike | None = None,
    out: PathLike | None = None,
    verify: Literal["sample", "all", "none"] = "sample",
    probes: PathLike | Sequence[Probe] | None = None,
    thresholds: Mapping[str, float] | None = None,
    progress: bool = False,
    **running: Any,
) -> Health:
    """Return the health of a merged model, of any tool, against its parents.

    Parents and base left out come from the child's own mergekit_config.yml. mds: a
    scan's report, so that the parents are not probed again. verify: which tensors of a
    darwin_v6 child are merged again and compared bit for bit. thresholds: lines to
    move, by name (health.thresholds.Thresholds). With out, health.json and health.png
    are written there. running as in scan_parents. Raises DarwinError if a model cannot
    be opened or the parents are unknown; a bad child raises nothing, its verdict does.
    """
    from mergekit_darwin.health.run import check
    from mergekit_darwin.health.thresholds import moved

    return check(
        child,
        father=father,
        mother=mother,
        base=base,
        report=None if mds is None else read_report(mds),
        out=None if out is None else Path(out),
        options=_running(running),
        thresholds=moved(thresholds or {}),
        verify=verify,
        probes=probes_of(probes),
        progress=progress,
    )


def read_report(path: PathLike) -> Report:
    """Return the report in a folder or file that a scan wrote. Raises DarwinError."""
    from mergekit_darwin.scan.report import read_report as read

    return read(path)


def read_genome(path: PathLike) -> Genome:
    """Return the genome in a JSON file that evolve wrote. Raises DarwinError."""
    from mergekit_darwin.ratios.genome import read_genome as read

    return read(path)


def register() -> None:
    """Make `darwin_v6` known to mergekit in this process; calling again is harmless.

    Raises DarwinError if the installed mergekit is not a supported version.
    """
    _check_mergekit()  # before the import below, which another mergekit might break
    from mergekit_darwin.merge.method import register as register_method

    register_method()


def probes_of(given: PathLike | Sequence[Probe] | None) -> list[Probe]:
    """Return probes as they are, those of a folder, or for None the package's.

    Raises DarwinError for a folder that cannot be read.
    """
    from mergekit_darwin.scan.probes import read_probes, standard_probes

    if given is None:
        return standard_probes()
    if isinstance(given, (str, Path)):
        return read_probes(given)
    return list(given)


def _running(given: Mapping[str, Any]) -> ProbeOptions:
    from mergekit_darwin.models.opened import check_device

    refuse_unknown(given, ProbeOptions.__dataclass_fields__)
    check_device(given.get("device", "cpu"))
    return ProbeOptions(**given)


def _merging(given: Mapping[str, Any]) -> Any:
    from mergekit.options import MergeOptions

    refuse_unknown(given, MergeOptions.model_fields)
    return MergeOptions(**given)


def _check_mergekit() -> None:
    found = version("mergekit")
    numbers = tuple(int(part) for part in re.findall(r"\d+", found)[:3])
    if not SUPPORTED[0] <= numbers < SUPPORTED[1]:
        raise DarwinError(
            f"mergekit-darwin needs mergekit >=0.1.5,<0.2; found {found}."
            " Install a supported version: pip install 'mergekit>=0.1.5,<0.2'."
        )
