"""Drawing: the greedy text of every item, and samples of the undecided, in stages.

Whatever is still undecided is asked for in one call a stage, so that batches stay full;
every text is kept as soon as its call is over.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from mergekit_darwin.delphi.answers import Reader, read, score
from mergekit_darwin.delphi.samples import Key, Sample, Samples, sampled
from mergekit_darwin.delphi.servers import answering, generated, untouched
from mergekit_darwin.delphi.vote import Plan, replay

CALL = 512  # requests in one call at most: full batches, and all that a kill can lose


@dataclass(frozen=True)
class Sampling:
    """How samples are drawn: temperature > 0, the seed of all, further gen_kwargs."""

    temperature: float = 0.7
    seed: int = 1
    gen_kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Item:
    """One request, and how its texts are read."""

    request: Any
    reader: Reader

    @property
    def key(self) -> Key:
        """Its task and number there."""
        return (self.reader.name, int(self.request.doc_id))


@dataclass(frozen=True, eq=False)
class Source:
    """Where texts come from: a harness model, and how it samples."""

    inner: Any
    sampling: Sampling


def draw(
    source: Source,
    items: Sequence[Item],
    plan: Plan,
    log: Samples,
    *,
    every: bool = False,
) -> None:
    """Draw samples stage by stage for all items that are not decided yet.

    What the log holds already is not asked for again. every: draw the whole plan,
    decided or not.
    """
    unique = {item.key: item for item in items}
    start = 0
    for number, end in enumerate(plan.looks, start=1):
        undecided = [
            item
            for key, item in unique.items()
            if every or not _decided(log.of(key), start, plan)
        ]
        size = max(1, CALL // (end - start))
        for first in range(0, len(undecided), size):
            part = undecided[first : first + size]
            missing = [
                (item, sample)
                for item in part
                for sample in range(start, end)
                if len(sampled(log.of(item.key))) <= sample
            ]
            if missing:
                mark = f"{number}/{first}"
                texts = _texts(source, missing, mark)
                log.keep(_samples(source.inner, missing, texts, number))
        start = end


def _decided(samples: Sequence[Sample], drawn: int, plan: Plan) -> bool:
    """Return whether the first samples of an item decide it; none never do."""
    answers = [sample.answer for sample in sampled(samples)[:drawn]]
    return drawn > 0 and replay(answers, plan)[1].stop


def _texts(source: Source, wanted: Sequence[tuple[Item, int]], mark: str) -> list[str]:
    """Return a sampled text for each item and sample number, in one call."""
    inner, sampling = source.inner, source.sampling
    if _draws_from_torch(inner):
        # Unset, transformers would take the model's own habits, or a top_k of 50.
        settings = [{"top_k": 0, "top_p": 1.0} for _ in wanted]
    else:
        settings = [
            {"seed": _seed(sampling.seed, item.key, sample)} for item, sample in wanted
        ]
    requests = [
        _sampling_request(item.request, sampling, setting)
        for (item, _), setting in zip(wanted, settings, strict=True)
    ]
    with _torch_seed(_seed(sampling.seed, mark)), answering(inner):
        return generated(inner, requests)


def _sampling_request(request: Any, sampling: Sampling, setting: dict[str, Any]) -> Any:
    """Return a copy of a request that samples; its prompt is the same object."""
    context, gen_kwargs, *rest = request.arguments
    kwargs = {
        **gen_kwargs,
        **setting,
        **sampling.gen_kwargs,
        "do_sample": True,
        "temperature": sampling.temperature,
    }
    arguments = (context, kwargs, *rest)
    return replace(request, arguments=arguments, resps=[], filtered_resps={})


def _draws_from_torch(inner: Any) -> bool:
    """Return whether a model draws from torch's stream and takes no seed of its own."""
    from lm_eval.models.huggingface import HFLM

    return isinstance(inner, HFLM)


@contextmanager
def _torch_seed(seed: int) -> Iterator[None]:
    """Seed torch for a moment; its streams go on afterwards as if nothing was drawn."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def _seed(*parts: Any) -> int:
    """Return 31 bits that depend on all parts; servers take no larger seeds."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def greedy(inner: Any, items: Sequence[Item], log: Samples) -> None:
    """Ask for the greedy text of all items that have none yet, requests untouched."""
    unique = {item.key: item for item in items}
    missing = [
        (item, 0)
        for key, item in unique.items()
        if not any(sample.stage == 0 for sample in log.of(key))
    ]
    for first in range(0, len(missing), CALL):
        part = missing[first : first + CALL]
        with answering(inner):
            texts = untouched(inner, [item.request for item, _ in part])
        log.keep(_samples(inner, part, texts, stage=0))


def _samples(
    inner: Any, wanted: Sequence[tuple[Item, int]], texts: Sequence[str], stage: int
) -> list[Sample]:
    """Return texts as samples: read, scored, counted; equal texts of an item once."""
    seen: dict[tuple[Key, str], Sample] = {}
    found = []
    for (item, number), text in zip(wanted, texts, strict=True):
        if (item.key, text) not in seen:
            seen[item.key, text] = _sample(inner, item, text, stage)
        found.append(seen[item.key, text].model_copy(update={"sample": number}))
    return found


def _sample(inner: Any, item: Item, text: str, stage: int) -> Sample:
    task, number = item.key
    doc = item.request.doc
    return Sample(
        task=task,
        item=number,
        stage=stage,
        sample=0,
        text=text,
        answer=read(item.reader, doc, text),
        correct=score(item.reader, doc, text),
        tokens=_tokens(inner, text),
    )


def _tokens(inner: Any, text: str) -> int | None:
    encode = getattr(inner, "tok_encode", None)
    if encode is None or getattr(inner, "tokenizer", None) is None:
        return None
    return len(encode(text))
