"""The check as a whole: which models, in which order, what is written."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from mergekit.common import ModelReference
from mergekit.options import MergeOptions

from mergekit_darwin.files import write_whole
from mergekit_darwin.health import files
from mergekit_darwin.health.again import Verify, recipe_findings
from mergekit_darwin.health.facts import TensorFacts, same_bits, stream_facts
from mergekit_darwin.health.picture import save_health_plot
from mergekit_darwin.health.probing import (
    check_probes,
    measured,
    probe_family,
    probe_findings,
)
from mergekit_darwin.health.refitted import judge_refitted
from mergekit_darwin.health.relatives import Relatives, open_relatives
from mergekit_darwin.health.report import (
    Finding,
    Health,
    check_out,
    finding,
    health_json,
    verdict_of,
)
from mergekit_darwin.health.thresholds import Thresholds
from mergekit_darwin.health.weight_rules import count_facts, weight_findings
from mergekit_darwin.locks import Hold
from mergekit_darwin.models.checkpoint import Checkpoint
from mergekit_darwin.models.manifest import damage, has_manifest
from mergekit_darwin.models.opened import merge_options, ties_head
from mergekit_darwin.models.plan import model_loads
from mergekit_darwin.scan.probes import Probe, standard_probes
from mergekit_darwin.scan.report import Report, check_identity
from mergekit_darwin.talk import ProbeOptions, bar

_PLAIN, _LINES = ProbeOptions(), Thresholds()


def check(
    child: str,
    *,
    father: str | None = None,
    mother: str | None = None,
    base: str | None = None,
    report: Report | None = None,
    out: Path | None = None,
    options: ProbeOptions = _PLAIN,
    thresholds: Thresholds = _LINES,
    verify: Verify = "sample",
    probes: Sequence[Probe] | None = None,
    progress: bool = False,
) -> Health:
    """Return the health of a merged model; see api.check_health for what is given.

    report: a scan's, whose probes of the parents are taken; probes None: the standard
    ones. With out, nobody else may write there meanwhile. Raises DarwinError if a model
    cannot be opened or the parents are unknown.
    """
    probes = standard_probes() if probes is None else list(probes)
    if out is not None:
        check_out(out)
    with nullcontext() if out is None else closing(Hold(out, "--out")):
        merging = merge_options(options)
        family = open_relatives(child, father, mother, base, verify, merging)
        options = _fitting(report, family, probes, options)
        limits = _Limits(verify, thresholds, progress)
        health = _examined(family, report, probes, options, limits)
        if out is not None:
            write_whole(out / "health.json", health_json(health))
            save_health_plot(health, out / "health.png")
    return health


@dataclass(frozen=True)
class _Limits:
    """How far a check goes, where it draws its lines, whether it shows its way."""

    verify: Verify
    thresholds: Thresholds
    shown: bool


def _examined(
    family: Relatives,
    report: Report | None,
    probes: Sequence[Probe],
    options: ProbeOptions,
    limits: _Limits,
) -> Health:
    """Return the health of a family's child: files, weights, recipe, what it does."""
    merging, shown = merge_options(options), limits.shown
    facts = _stream(family, merging, shown)
    mixed, found = judge_refitted(facts, family, limits.thresholds)
    found += _file_findings(family, merging)
    found += weight_findings(mixed, limits.thresholds)
    found += _tokenizer_findings(family, probes, options)
    found += _manifest_findings(family, limits.verify)
    again, verified = _verify(family, limits.verify, merging, shown)
    with bar("probes", shown) as advance:
        probed, trouble = probe_family(family.names, report, probes, options, advance)
    found += [*again, *trouble, *probe_findings(probed, limits.thresholds)]
    return Health(
        **family.names,  # type: ignore[arg-type]
        verdict=verdict_of(found),
        findings=found,
        counts=_counts(facts, found, verified),
        settings=_settings(options, limits.thresholds, limits.verify),
        measured=measured(probed),
    )


def _fitting(
    report: Report | None,
    family: Relatives,
    probes: Sequence[Probe],
    options: ProbeOptions,
) -> ProbeOptions:
    """Return options that probe the child as the report's parents were probed.

    Raises DarwinError if the report is of other models, or of other probes.
    """
    if report is None:
        return options
    father, mother = family.parents
    check_identity(report, father.digest, mother.digest)
    if not report.father.probes:
        return options
    check_probes(report, probes)
    return replace(options, max_tokens=report.settings.tokens)


def _stream(family: Relatives, options: MergeOptions, shown: bool) -> list[TensorFacts]:
    """Return the facts; a layer is compared only where depths are the same."""
    models: dict[str, ModelReference] = {
        role: row.reference for role, row in family.checkpoints.items()
    }
    with bar("weights", shown) as advance:
        facts = list(stream_facts(models, options, advance))
    if family.same_depth:
        return facts
    return [
        row
        if row.layer is None
        else replace(row, father=None, mother=None, stray=None, equal=frozenset())
        for row in facts
    ]


def _file_findings(family: Relatives, options: MergeOptions) -> list[Finding]:
    child, config = family.checkpoints["child"], family.configs["child"]
    found = files.name_findings(
        files.loading_info(child, options), child, family.parents
    )
    tied = {
        role: ties_head(row, options.trust_remote_code)
        for role, row in family.configs.items()
    }
    parents = {role: row for role, row in tied.items() if role != "child"}
    found += files.head_findings(tied["child"], parents, _head_differs(child, options))
    found += files.dtype_findings(child, config, family.parents)
    return found + files.config_findings(
        config, family.configs["father"], family.configs["mother"]
    )


def _head_differs(child: Checkpoint, options: MergeOptions) -> bool | None:
    """Return whether head and embedding, if both are stored, differ in any bit."""
    stored = files.head_and_embedding(child.headers)
    if stored is None:
        return None
    loads = model_loads(child.reference, options)
    one = next(iter(loads.values()))
    head, rows = (one.model_copy(update=_plain(name)).execute() for name in stored)
    return head is None or rows is None or not same_bits(head, rows)


def _plain(name: str) -> dict[str, object]:
    return {"tensor": name, "aliases": None, "tied_names": None}


def _tokenizer_findings(
    family: Relatives, probes: Sequence[Probe], options: ProbeOptions
) -> list[Finding]:
    child, father, mother = (
        files.load_tokenizer(family.checkpoints[role], options.trust_remote_code)
        for role in ("child", "father", "mother")
    )
    texts = [item.prompt + item.completion for probe in probes for item in probe.items]
    return files.tokenizer_findings(
        child, father, mother, texts[:: max(1, len(probes))]
    )


def _manifest_findings(family: Relatives, verify: Verify) -> list[Finding]:
    """Return how the child's files differ from the manifest beside them, if any is."""
    folder = Path(family.checkpoints["child"].path)
    if verify == "none" or not has_manifest(folder):
        return []
    words = damage(folder)
    if words is None:
        return []
    return [finding("manifest", "error", words, "as it was written")]


def _verify(
    family: Relatives, verify: Verify, options: MergeOptions, shown: bool
) -> tuple[list[Finding], int]:
    recipe = family.recipe
    if recipe is None or not recipe.ours or verify == "none":
        return [], 0
    child = model_loads(family.checkpoints["child"].reference, options)
    with bar("merging again", shown) as advance:
        return recipe_findings(recipe, child, verify, options, advance)


def _counts(
    facts: Sequence[TensorFacts], found: Sequence[Finding], verified: int
) -> dict[str, int]:
    severities = [item.severity for item in found]
    return {
        **count_facts(facts),
        "verified": verified,
        "errors": severities.count("error"),
        "warnings": severities.count("warning"),
        "notes": severities.count("note"),
    }


def _settings(
    options: ProbeOptions, thresholds: Thresholds, verify: Verify
) -> dict[str, float | int | str | bool | None]:
    return {
        "device": options.device,
        "dtype": options.dtype,
        "tokens": options.max_tokens,
        "stream": options.stream,
        "verify": verify,
        **asdict(thresholds),
    }
