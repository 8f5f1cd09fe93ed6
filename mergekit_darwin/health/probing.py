"""Child and parents on the probes: importance by layer, losses, short answers."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.health.function_rules import (
    answer_findings,
    fault_of,
    importance_findings,
    perplexity_findings,
)
from mergekit_darwin.health.report import Answer, Finding, Measured, finding
from mergekit_darwin.health.thresholds import Severity, Thresholds
from mergekit_darwin.models.opened import OpenModel, open_model
from mergekit_darwin.scan.importance import importance_of
from mergekit_darwin.scan.probes import Probe
from mergekit_darwin.scan.report import ModelReport, Report
from mergekit_darwin.talk import ProbeOptions, Progress

LOG = logging.getLogger(__name__)

TOKENS = 24  # of an answer; our choice
PROMPTS = 2  # of each probe; our choice
_MOST_PROMPT = 512  # tokens of a prompt; our choice


@dataclass(frozen=True)
class Probed:
    """What the probes gave for one model: importance and loss by probe, answers.

    importance: [L] cosine distances in [0, 2]; loss in nats a token.
    """

    stack: str = ""
    importance: Mapping[str, list[float]] = field(default_factory=dict)
    loss: Mapping[str, float] = field(default_factory=dict)
    answers: tuple[Answer, ...] = ()


def probe_model(
    model: str,
    role: str,
    probes: Sequence[Probe],
    options: ProbeOptions,
    progress: Progress | None = None,
) -> Probed:
    """Return importance, losses and answers of a model.

    Answers are left out where the model is streamed. Raises DarwinError if it cannot
    be probed, NaN among its results included.
    """
    source = open_model(model, options)
    measured = importance_of(source, probes, options, progress)
    return Probed(
        measured.stack,
        measured.distances,
        {name: row.full for name, row in measured.loss.items()},
        tuple(_answers(source, role, probes)),
    )


def _answers(opened: OpenModel, role: str, probes: Sequence[Probe]) -> list[Answer]:
    if opened.disk is not None:
        LOG.info("%s: no short answers, as its weights are streamed", opened.name)
        return []
    if not opened.model.can_generate():  # type: ignore[operator]
        LOG.info("%s: no short answers, as it does not generate", opened.name)
        return []
    return answer_prompts(opened.model, opened.tokenizer, prompts_of(probes), role)


def prompts_of(probes: Sequence[Probe]) -> list[tuple[str, str]]:
    """Return (probe, prompt) pairs: the first two prompts of each probe."""
    rows = []
    for probe in probes:
        texts = [item.prompt or item.completion for item in probe.items]
        rows += [(probe.name, text) for text in texts[:PROMPTS]]
    return rows


def answer_prompts(
    model: Any, tokenizer: Any, prompts: Sequence[tuple[str, str]], role: str
) -> list[Answer]:
    """Return a greedy answer of at most 24 tokens to each (probe, prompt).

    model is transformers'; its answer ends at its end-of-text token, which is not
    part of the text. role goes into Answer.model.
    """
    return [_answer(model, tokenizer, probe, prompt, role) for probe, prompt in prompts]


@torch.inference_mode()
def _answer(model: Any, tokenizer: Any, probe: str, prompt: str, role: str) -> Answer:
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    ids = ids[:, -_MOST_PROMPT:].to(model.device)
    output = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=TOKENS,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        pad_token_id=_padding(tokenizer),
    )
    given = 1 if model.config.is_encoder_decoder else ids.shape[1]
    new = output[0, given:].tolist()
    text = tokenizer.decode(new, skip_special_tokens=True)
    return Answer(
        model=role, probe=probe, prompt=prompt, text=text, fault=fault_of(new, text)
    )


def _padding(tokenizer: Any) -> int | None:
    if tokenizer.pad_token_id is not None:
        return int(tokenizer.pad_token_id)
    return tokenizer.eos_token_id


def known_parent(
    known: ModelReport,
    model: str,
    role: str,
    probes: Sequence[Probe],
    options: ProbeOptions,
) -> Probed:
    """Return what an MDS report holds of one parent, and that parent's answers."""
    loss = {name: row.full for name, row in known.probe_loss.items()}
    answers: list[Answer] = []
    if not options.stream:
        answers = _answers(open_model(model, options), role, probes)
    return Probed(known.stack, dict(known.probes), loss, tuple(answers))


def probe_family(
    models: Mapping[str, str],
    report: Report | None,
    probes: Sequence[Probe],
    options: ProbeOptions,
    progress: Progress | None = None,
) -> tuple[dict[str, Probed], list[Finding]]:
    """Return the probes of father, mother and child (by role), and what went wrong.

    models are by role. Parents that cannot be probed are a note, and then nothing is
    compared; a child that cannot, where its parents can, is an error.
    """
    known = {"father": report.father, "mother": report.mother} if report else {}
    probed: dict[str, Probed] = {}
    if not probes:
        return {}, []
    for role in ("father", "mother", "child"):
        model = models[role]
        LOG.info("probing %s: %s", role, model)
        try:
            if role in known and known[role].probes:
                probed[role] = known_parent(known[role], model, role, probes, options)
            else:
                probed[role] = probe_model(model, role, probes, options, progress)
        except DarwinError as error:
            severity: Severity = "error" if role == "child" else "note"
            words = f"{role}: {error.message}"
            return {}, [finding("probes", severity, words, "a model that runs")]
    return probed, []


def measured(probed: Mapping[str, Probed]) -> Measured:
    """Return the probes of all roles as health.json holds them."""
    answers = [answer for row in probed.values() for answer in row.answers]
    return Measured(
        stack=probed["child"].stack if "child" in probed else "",
        importance={role: dict(row.importance) for role, row in probed.items()},
        loss={role: dict(row.loss) for role, row in probed.items()},
        answers=answers,
    )


def probe_findings(
    probed: Mapping[str, Probed], thresholds: Thresholds
) -> list[Finding]:
    """Return the findings on importance, perplexity and answers.

    Importance is compared only where child and parents have as many layers.
    """
    if not probed:
        return []
    child, father, mother = trio = [
        probed[role] for role in ("child", "father", "mother")
    ]
    found: list[Finding] = []
    depths = {len(row) for model in trio for row in model.importance.values()}
    if len(depths) == 1:
        found += importance_findings(
            child.importance, father.importance, mother.importance, thresholds
        )
    if all(row.loss.keys() == child.loss.keys() for row in trio):
        found += perplexity_findings(child.loss, father.loss, mother.loss, thresholds)
    answers = [answer for row in trio for answer in row.answers]
    return found + answer_findings(answers, thresholds)


def check_probes(report: Report, probes: Sequence[Probe]) -> None:
    """Refuse a report that was made with other probes. Raises DarwinError."""
    made = {name: row.digest for name, row in report.settings.probes.items()}
    used = {probe.name: probe.digest for probe in probes}
    if made != used:
        differ = sorted(
            name
            for name in made.keys() | used.keys()
            if made.get(name) != used.get(name)
        )
        raise DarwinError(
            "mds: the child must be probed as the parents were; the probes"
            f" {', '.join(differ)} differ. Give the --probes of that scan, or leave"
            " --mds out to probe the parents again."
        )
