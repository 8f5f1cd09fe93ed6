"""The check as a whole: which models, in which order, what is written."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from mergekit.common import ModelReference
from mergekit.options import MergeOptions
from tqdm import tqdm
from transformers import PretrainedConfig

from mergekit_darwin.checkpoints import (
    Checkpoint,
    model_loads,
    open_checkpoint,
    parse_model,
)
from mergekit_darwin.errors import DarwinError
from mergekit_darwin.health import files
from mergekit_darwin.health.output import write_health
from mergekit_darwin.health.probing import (
    check_probes,
    measured,
    probe_family,
    probe_findings,
)
from mergekit_darwin.health.recipe import (
    Recipe,
    Verify,
    check_places,
    looks_local,
    read_recipe,
    recipe_findings,
)
from mergekit_darwin.health.schema import Finding, Health, verdict_of
from mergekit_darwin.health.thresholds import Thresholds
from mergekit_darwin.health.vocabulary import load_tokenizer, tokenizer_findings
from mergekit_darwin.health.weight_rules import count_facts, weight_findings
from mergekit_darwin.health.weights import (
    TensorFacts,
    forget,
    same_bits,
    stream_facts,
)
from mergekit_darwin.importance import Progress
from mergekit_darwin.probes import Probe, standard_probes
from mergekit_darwin.report import Report, check_identity
from mergekit_darwin.weights import ProbeOptions, merge_options

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Family:
    """The models of one check: names and opened checkpoints by role, configs."""

    names: dict[str, str]
    checkpoints: dict[str, Checkpoint]
    configs: dict[str, PretrainedConfig]
    recipe: Recipe | None

    @property
    def parents(self) -> list[Checkpoint]:
        return [self.checkpoints["father"], self.checkpoints["mother"]]

    @property
    def same_depth(self) -> bool:
        depths = {
            getattr(config.get_text_config(), "num_hidden_layers", None)
            for config in self.configs.values()
        }
        return len(depths) == 1


def check(
    child: str,
    *,
    father: str | None = None,
    mother: str | None = None,
    base: str | None = None,
    report: Report | None = None,
    out: Path | None = None,
    options: ProbeOptions | None = None,
    thresholds: Thresholds | None = None,
    verify: Verify = "sample",
    probes: Sequence[Probe] | None = None,
) -> Health:
    """Return the health of a merged model, seen against its parents.

    Models are paths or hub names. Parents and base left out come from the child's
    mergekit_config.yml. With a report the parents' probes are taken from it. probes
    None means the standard ones, an empty list none at all. verify merges tensors of a
    darwin_v6 child again (sample: eight) and compares bits. With out, health.json and
    health.png are written into that folder. Raises DarwinError if a model cannot be
    opened or the parents are unknown.
    """
    options, thresholds = options or ProbeOptions(), thresholds or Thresholds()
    probes = standard_probes() if probes is None else list(probes)
    merging = merge_options(options)
    family = _open_family(child, father, mother, base, verify, merging)
    if report is not None:
        digests = [parent.digest for parent in family.parents]
        check_identity(report, digests[0], digests[1])
        check_probes(report, probes)
        options = replace(options, max_tokens=report.settings.tokens)
    facts = _stream(family, merging)
    texts = [item.prompt + item.completion for probe in probes for item in probe.items]
    again, verified = _verify(family, verify, merging)
    found = [
        *_file_findings(family, merging),
        *weight_findings(facts, thresholds),
        *tokenizer_findings(*_tokenizers(family, options), texts[:: len(probes) or 1]),
        *again,
    ]
    with _bar("probes", "layer") as progress:
        probed, trouble = (
            probe_family(family.names, report, probes, options, progress)
            if probes
            else ({}, [])
        )
    found += [*trouble, *probe_findings(probed, thresholds)]
    health = Health(
        verdict=verdict_of(found),
        child=child,
        father=family.names["father"],
        mother=family.names["mother"],
        base=family.names.get("base"),
        findings=found,
        counts=_counts(facts, found, verified),
        settings=_settings(options, thresholds, verify),
        measured=measured(probed),
    )
    if out is not None:
        write_health(health, Path(out))
    return health


def _open_family(
    child: str,
    father: str | None,
    mother: str | None,
    base: str | None,
    verify: Verify,
    options: MergeOptions,
) -> _Family:
    forget({"child": parse_model(child)})
    opened = open_checkpoint(child, options)
    recipe = read_recipe(opened.path)
    if recipe is not None and (
        father is None or mother is None or (recipe.ours and verify != "none")
    ):
        check_places(recipe)
    names = _names(child, father, mother, base, recipe)
    forget({role: parse_model(name) for role, name in names.items()})
    checkpoints = {role: open_checkpoint(name, options) for role, name in names.items()}
    configs = {
        role: files.read_config(checkpoints[role], options)
        for role in ("child", "father", "mother")
    }
    return _Family(names, checkpoints, configs, recipe)


def _names(
    child: str,
    father: str | None,
    mother: str | None,
    base: str | None,
    recipe: Recipe | None,
) -> dict[str, str]:
    """Return the models by role, what is not given taken from the recipe."""
    given = father is not None and mother is not None
    father = father or (recipe.father if recipe else None)
    mother = mother or (recipe.mother if recipe else None)
    if father is None or mother is None:
        lacks = "names no two parents" if recipe else "is not there"
        raise DarwinError(
            "The child's parents must be known; --father and --mother are not both"
            f" given, and mergekit_config.yml in {child} {lacks}."
            " Give --father and --mother."
        )
    if base is None and recipe is not None:
        base = recipe.base or (recipe.father if recipe.ours else None)
        if given and base and not (recipe.ours and not looks_local(base)):
            base = base if Path(base).is_dir() else None
    names = {"child": child, "father": father, "mother": mother}
    return {**names, "base": base} if base else names


@contextmanager
def _bar(words: str, unit: str) -> Iterator[Progress]:
    """Show progress on a terminal; give what is to be called with (done, total)."""
    quiet = None if LOG.isEnabledFor(logging.INFO) else True
    with tqdm(desc=words, unit=unit, disable=quiet, leave=False) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.n = done
            bar.refresh()

        yield progress


def _stream(family: _Family, options: MergeOptions) -> list[TensorFacts]:
    """Return the facts; a layer is compared only where depths are the same."""
    models: dict[str, ModelReference] = {
        role: row.reference for role, row in family.checkpoints.items()
    }
    with _bar("weights", "tensor") as progress:
        facts = list(stream_facts(models, options, progress))
    if family.same_depth:
        return facts
    return [
        row
        if row.layer is None
        else replace(row, father=None, mother=None, course=None, equal=frozenset())
        for row in facts
    ]


def _file_findings(family: _Family, options: MergeOptions) -> list[Finding]:
    child, config = family.checkpoints["child"], family.configs["child"]
    found = files.name_findings(
        files.loading_info(child, options), child, family.parents
    )
    tied = {role: files.is_tied(row) for role, row in family.configs.items()}
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


def _tokenizers(family: _Family, options: ProbeOptions) -> list[object]:
    return [
        load_tokenizer(family.checkpoints[role], options.trust_remote_code)
        for role in ("child", "father", "mother")
    ]


def _verify(
    family: _Family, verify: Verify, options: MergeOptions
) -> tuple[list[Finding], int]:
    recipe = family.recipe
    if recipe is None or not recipe.ours or verify == "none":
        return [], 0
    child = model_loads(family.checkpoints["child"].reference, options)
    return recipe_findings(recipe, child, verify, options)


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
