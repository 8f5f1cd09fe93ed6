"""A consensus run: a model, generative tasks, an output folder; resumable."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mergekit_darwin.delphi.answers import Reader, reader_of
from mergekit_darwin.delphi.draw import Item, Sampling, Source, draw, greedy
from mergekit_darwin.delphi.folder import claim, keep_settings
from mergekit_darwin.delphi.guarantee import make_plan
from mergekit_darwin.delphi.options import Options
from mergekit_darwin.delphi.page import markdown
from mergekit_darwin.delphi.picture import draw_report
from mergekit_darwin.delphi.report import Report, make_report
from mergekit_darwin.delphi.samples import SAMPLES_NAME, Samples
from mergekit_darwin.delphi.servers import check_server
from mergekit_darwin.delphi.vote import Plan
from mergekit_darwin.errors import DarwinError, about
from mergekit_darwin.files import write_whole
from mergekit_darwin.locks import locked
from mergekit_darwin.models.checks import check_files
from mergekit_darwin.models.harness import load_tasks, open_model, quiet
from mergekit_darwin.models.opened import check_device
from mergekit_darwin.talk import versions

LOG = logging.getLogger("mergekit_darwin")
JSON_NAME, PAGE_NAME, PICTURE_NAME = "report.json", "report.md", "delphi.png"


def consensus(
    model: str | Any,
    tasks: Sequence[str],
    out: str | Path,
    options: Options | None = None,
) -> Report:
    """Ask a model each item of generative tasks until its vote may stop, and report.

    model is a path or name, or a harness model that is open. Writes samples.jsonl,
    report.json, report.md and delphi.png to the folder out; called again with the same
    arguments it goes on where it was stopped. Raises DarwinError for tasks that cannot
    be voted on, for numbers that make no plan, and for a folder of another run.
    """
    options = options or Options()
    plan = make_plan(options.samples, options.stage, options.risk)
    readers = _readers(tasks, options)
    folder = Path(out)
    claim(folder)
    with locked(folder, "--out"):
        inner = _opened(model, options) if isinstance(model, str) else model
        check_server(inner, chats=options.apply_chat_template)
        if options.apply_chat_template:
            _check_template(inner, _name(model))
        items = [item for reader in readers for item in _items(reader, inner, options)]
        settings = _settings(model, options, items)
        keep_settings(folder, settings)
        log = Samples(folder / SAMPLES_NAME)
        sampling = Sampling(options.temperature, options.seed, options.gen_kwargs)
        with about("The model must give a text for every item"):
            if options.greedy:
                greedy(inner, items, log)
            draw(Source(inner, sampling), items, plan, log, every=options.shadow)
        report = _reported(items, log, plan, options.risk, settings)
        _write(report, folder)
    return report


def _reported(
    items: Sequence[Item],
    log: Samples,
    plan: Plan,
    risk: float,
    settings: Mapping[str, Any],
) -> Report:
    """Return what all samples of the items, task by task, come to."""
    readers = dict.fromkeys(item.reader for item in items)
    held = {
        reader.name: [log.of(item.key) for item in items if item.reader is reader]
        for reader in readers
    }
    metrics = {reader.name: (reader.words, reader.sign) for reader in readers}
    found = make_report(settings["model"], plan, held, metrics=metrics, risk=risk)
    made_with = versions("lm_eval", "transformers", "torch")
    return replace(found, settings=settings, versions=made_with)


def _readers(tasks: Sequence[str], options: Options) -> list[Reader]:
    """Return how every leaf task is read; refuses before any model is opened."""
    if not tasks:
        raise DarwinError("--tasks must name at least one task.")
    found = load_tasks(
        tasks, include_path=options.include_path, num_fewshot=options.num_fewshot
    )
    leaves = {name: task for group in found.values() for name, task in group.items()}
    return [
        reader_of(name, task, metric=options.metric, extract=options.extract)
        for name, task in leaves.items()
    ]


def _opened(model: str, options: Options) -> Any:
    check_files(model)
    for key in ("pretrained", "device", "batch_size"):
        if key in options.model_args:
            raise DarwinError(
                f"--model-args must not hold {key}: the model is an argument, device"
                " and batch size are options of their own."
            )
    given = {"pretrained": model, **options.model_args}
    if options.model_type == "hf" and options.device:
        check_device(options.device)
    if options.model_type == "hf" and options.device == "cpu":
        given.setdefault("dtype", "float32")  # as evolve measures on a CPU
    return open_model(
        options.model_type,
        given,
        batch_size=options.batch_size,
        device=options.device,
    )


def _check_template(inner: Any, named: str) -> None:
    """Refuse chats of a model whose tokenizer, where there is one, has no template."""
    tokenizer = getattr(inner, "tokenizer", None)
    if not getattr(tokenizer, "chat_template", True):
        raise DarwinError(
            f"--apply-chat-template needs a model with a chat template; {named} has"
            " none. Leave it out, or give its tokenizer one."
        )


def _name(model: str | Any) -> str:
    return model if isinstance(model, str) else type(model).__name__


def _items(reader: Reader, inner: Any, options: Options) -> list[Item]:
    """Return a task's requests, as the harness itself would build them."""
    chat = options.apply_chat_template
    words = f"{reader.name}: the harness must make a request of every item"
    with quiet(), about(words):
        reader.task.build_all_requests(
            limit=options.limit,
            system_instruction=options.system_instruction,
            apply_chat_template=chat,
            fewshot_as_multiturn=options.fewshot_as_multiturn,
            chat_template=inner.apply_chat_template if chat else None,
            tokenizer_name=inner.tokenizer_name if chat else "",
        )
    requests = list(reader.task.instances)
    if len({request.doc_id for request in requests}) < len(requests):
        raise DarwinError(
            f"{reader.name}: an item must be one request; it has several. The vote"
            " cannot tell which of them it is about."
        )
    return [Item(request, reader) for request in requests]


def _settings(
    model: str | Any, options: Options, items: Sequence[Item]
) -> dict[str, Any]:
    """Return all that decides which samples are drawn."""
    tasks: dict[str, Any] = {}
    for item in items:
        mark = tasks.setdefault(item.reader.name, hashlib.sha256())
        request = item.request
        content = [request.arguments[:2], request.doc, item.reader.words]
        mark.update(json.dumps(content, default=str, sort_keys=True).encode())
    digests = {name: mark.hexdigest()[:16] for name, mark in tasks.items()}
    rest = asdict(options)
    del rest["include_path"]
    return {"model": _name(model), "tasks": digests, **rest}


def _write(report: Report, folder: Path) -> None:
    text = json.dumps(report.as_json(), indent=2, ensure_ascii=False, allow_nan=False)
    write_whole(folder / JSON_NAME, text + "\n")
    draw_report(report, folder / PICTURE_NAME)
    write_whole(folder / PAGE_NAME, markdown(report, PICTURE_NAME))
