"""One toy family through everything: scan, ratios, merge, health, load, forward."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
import yaml
from mergekit.options import MergeOptions

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.health.run import check
from mergekit_darwin.merge.headers import fit_of
from mergekit_darwin.merge.preview import plan_run, ratio_rows
from mergekit_darwin.merge.yaml import read_config
from mergekit_darwin.scan.probes import Probe, ProbeItem
from mergekit_darwin.scan.report import Report
from mergekit_darwin.scan.run import scan
from mergekit_darwin.talk import ProbeOptions
from tests import merging, tiny
from tests.matrix import models

PROBES = [Probe("SUMS", (ProbeItem("1+1=", "2"), ProbeItem("7*8=", "56")), 1.0)]
BEHAVIOUR = {"collapse", "perplexity", "interference", "function_loss"}  # of noise


@dataclass(frozen=True)
class Outcome:
    """How far a family came: what was found on the way, or why it was refused.

    passes: how the scan ran the model; stopped: the step that refused, and reason, its
    one line; problems: what should not be, empty where all is well.
    """

    passes: str | None
    tensors: int
    stopped: str | None
    reason: str | None
    problems: tuple[str, ...]


def run_chain(name: str, root: Path) -> Outcome:
    """Build the family of one row and take it through everything."""
    logging.getLogger("mergekit_darwin").setLevel(logging.ERROR)
    base = models.write(name, root / "base")
    trio = {
        "base": str(base),
        "father": str(tiny.nudged(base, root / "father", 2)),
        "mother": str(tiny.nudged(base, root / "mother", 3)),
    }
    report, stopped, reason = None, None, None
    try:
        report = _scan(trio, root / "mds")
    except DarwinError as error:
        stopped, reason = "scan", error.message
    config = merging.darwin(trio, **({"mds": str(root / "mds")} if report else {}))
    config["dtype"] = "float32"  # what is nearly constant stays so no further
    (root / "darwin.yml").write_text(yaml.safe_dump(config))
    if stopped is None:
        try:
            return _rest(name, root, trio, config, report)
        except DarwinError as error:
            stopped, reason = "merge", error.message
    passes = report.father.passes if report else None
    problems = () if reason and "\n" not in reason else (f"several lines: {reason}",)
    return Outcome(passes, 0, stopped, reason, problems)


def _scan(trio: dict[str, str], out: Path) -> Report:
    return scan(
        trio["father"],
        trio["mother"],
        trio["base"],
        out=out,
        probes=PROBES,
        options=ProbeOptions(batch_size=4),
        progress=False,
    )


def _rest(
    name: str, root: Path, trio: dict[str, str], config: dict, report: Report | None
) -> Outcome:
    assert report is not None
    stops = [
        finding.line()
        for finding in fit_of(read_config(root / "darwin.yml"), MergeOptions())
        if finding.severity == "stops"
    ]
    if stops:
        return Outcome(report.father.passes, 0, "ratios", stops[0], ())
    rows = ratio_rows(plan_run(read_config(root / "darwin.yml")))
    child = merging.merge(config, root / "child")
    found = check(
        str(root / "child"),
        father=trio["father"],
        mother=trio["mother"],
        base=trio["base"],
        probes=PROBES,
    )
    problems = [
        *_same_names("report", report.father.tensors, child),
        *_same_names("ratios", [row.name for row in rows], child),
        *_same_names("record", merging.record(root / "child"), child),
        *_gains(report, child),
        *[
            f"health: {one.rule} {one.tensor or ''} {one.found}"
            for one in found.findings
            if (one.severity == "error" and one.rule not in BEHAVIOUR)
            or one.rule == "probes"
        ],
        *_runs(name, root / "child"),
    ]
    return Outcome(report.father.passes, len(child), None, None, tuple(problems))


def _same_names(what: str, names: object, child: dict[str, torch.Tensor]) -> list[str]:
    lacks, more = sorted(set(child) - set(names)), sorted(set(names) - set(child))
    lines = [f"{what} lacks {len(lacks)} of the child's: {lacks[:2]}"] if lacks else []
    return lines + ([f"{what} has {len(more)} more: {more[:2]}"] if more else [])


def _gains(report: Report, child: dict[str, torch.Tensor]) -> list[str]:
    """Experts and attention must gain; a tower that no text goes through does not."""
    gain = report.father.gain["SUMS"]
    lacks = sorted(set(child) - set(gain))
    lines = [f"gains lack {len(lacks)} tensors: {lacks[:2]}"] if lacks else []
    if not any(value for value in gain.values()):
        lines.append("no tensor gains")
    still = [name for name, value in gain.items() if "experts" in name and not value]
    return lines + ([f"experts gain nothing: {still[:2]}"] if still else [])


def _runs(name: str, child: Path) -> list[str]:
    kind = getattr(transformers, models.ROWS[name].model)
    model, info = kind.from_pretrained(child, output_loading_info=True)
    ids = torch.arange(4)[None]
    more = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        logits = model.eval()(input_ids=ids, **more).logits
    lines = [f"the child lacks {sorted(info['missing_keys'])[:2]}"]
    lines = lines if info["missing_keys"] else []
    return lines if bool(torch.isfinite(logits).all()) else [*lines, "no finite logits"]
