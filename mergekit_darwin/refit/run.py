"""The refit as a whole: which models, one pass over their layers, what is written."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree

import torch
from torch import nn

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.locks import beside
from mergekit_darwin.models.stream import disk_weights
from mergekit_darwin.refit.course import Course, Pass, make_report, start_course
from mergekit_darwin.refit.family import Family, check_words, open_family
from mergekit_darwin.refit.layer import Rule, refit_layer
from mergekit_darwin.refit.options import RefitOptions
from mergekit_darwin.refit.order import find_stages
from mergekit_darwin.refit.output import write_beside
from mergekit_darwin.refit.report import Drift, Model, RefitReport
from mergekit_darwin.refit.teaching import chosen, hold, teach
from mergekit_darwin.refit.texts import TextChoice, Texts, choose_texts
from mergekit_darwin.refit.write import ChildWriter, copy_rest
from mergekit_darwin.talk import Progress

LOG = logging.getLogger("mergekit_darwin")


def refit(
    models: Mapping[str, str],
    out: Path,
    choice: TextChoice,
    options: RefitOptions,
    progress: Progress | None = None,
) -> RefitReport:
    """Refit a child and write it, whole or not at all, into the new folder out.

    models are child, father, mother and, if given, base. Raises DarwinError where they
    or the texts do not fit each other, and where out has something in it.
    """
    if options.rho != 1.0 and "base" not in models:
        raise DarwinError(f"--rho {options.rho:g} needs the --base it starts from.")
    with torch.no_grad(), _new_folder(out) as aside:
        child: Model | None = None
        for sweep in range(options.sweeps):
            last = sweep + 1 == options.sweeps
            folder = aside if last else aside / f"sweep{sweep}"
            report = _sweep(models, folder, choice, options, progress)
            child = child or report.models["child"]
            models = {**models, "child": str(folder)}
        for folder in aside.glob("sweep*"):
            rmtree(folder)
        report = report.model_copy(update={"models": {**report.models, "child": child}})
        write_beside(report, aside, out.name)
    return report


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """Give a place to write at that becomes out. Raises DarwinError if out is taken."""
    if out.is_symlink() or (
        out.exists() and not (out.is_dir() and not any(out.iterdir()))
    ):
        raise DarwinError(
            f"--out must be a new or an empty folder; {out} is there. Name another."
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    with beside(out, folder=True) as aside:
        yield aside
        aside.replace(out)


def _sweep(
    models: Mapping[str, str],
    folder: Path,
    choice: TextChoice,
    options: RefitOptions,
    progress: Progress | None,
) -> RefitReport:
    """Refit once and write the weights and all files beside them but our own."""
    family = open_family(models, options.probing)
    tokens = options.probing.max_tokens
    texts = choose_texts(choice, family.parents, tokens)
    check_words(family, texts)
    size = options.probing.batch_size
    keep = options.keep_weight > 0.0
    course = start_course(family, texts, keep=keep, max_tokens=tokens, size=size)
    _say_tokens(family, course, texts)
    checkpoint = family.checkpoints["child"]
    source = family.child.source
    dtype = getattr(torch, options.probing.dtype)
    disk = source.disk or disk_weights(
        source.name, source.model, checkpoint.path, dtype, source.device
    )
    folder.mkdir(exist_ok=True)
    writer = ChildWriter(checkpoint, disk, folder)
    found = _layers(family, course, options, writer, progress)
    report = make_report(family, texts, course, options, found)
    writer.finish()
    copy_rest(Path(checkpoint.path), folder)
    return report


def _layers(
    family: Family,
    course: Course,
    options: RefitOptions,
    writer: ChildWriter,
    progress: Progress | None,
) -> Pass:
    """Take all texts through all layers, refitting each layer of the child."""
    child = family.child
    drifts: list[Drift] = []
    left: set[str] = set()
    maps, began = 0, time.monotonic()
    residual = options.targets == "residual"
    rule = Rule(
        options.ridge, options.keep_weight, residual, writer.dtype, options.maps
    )
    for layer in range(child.depth):
        with family.loaded(layer):
            stages = find_stages(child, layer)
            solved = rule.chosen(stages)
            course.measure(family, layer)
            held = hold(child, layer, stages, solved, course.keep)
            texts = [
                (group, teach(group, layer, stages, residual))
                for group in course.groups
            ]
            modules = chosen(child, layer, solved)
            if options.rho != 1.0:
                _stretch(modules, family.decoders["base"].layers[layer], options.rho)
            refit_layer(child, layer, stages, texts, held, rule)
            drifts.append(course.compare(family, layer))
            prefix = f"{child.path}.{layer}"
            fitted = _weights(modules)
            writer.save([f"{prefix}.{name}" for name in fitted])
            left |= _left(child.layers[layer], fitted)
            maps += len(modules)
        if progress is not None:
            progress(layer + 1, child.depth)
    return Pass(drifts, maps, writer.fitted, sorted(left), began)


def _stretch(modules: Mapping[str, nn.Module], base: nn.Module, rho: float) -> None:
    """Move maps to base + rho (child - base)."""
    for path, module in modules.items():
        theirs = dict(base.get_submodule(path).named_parameters())
        for name, weight in module.named_parameters():
            start = theirs[name].double()
            weight.copy_(start + rho * (weight.double() - start))


def _weights(modules: Mapping[str, nn.Module]) -> list[str]:
    return [
        f"{path}.{name}"
        for path, module in modules.items()
        for name, _ in module.named_parameters(recurse=False)
    ]


def _left(layer: nn.Module, fitted: Sequence[str]) -> set[str]:
    """Return a layer's matrices that no stage had, by their names in it."""
    rest = {n for n, p in layer.named_parameters() if p.dim() > 1}
    return rest - set(fitted)


def _say_tokens(family: Family, course: Course, texts: Texts) -> None:
    """Warn where a parent's texts do not reach to fix the widest map by themselves."""
    counts = {"father": texts.father, "mother": texts.mother}
    widest = max(
        weight.shape[-1]
        for weight in family.child.layers[0].parameters()
        if weight.dim() > 1
    )
    for group in course.groups:
        if group.tokens < widest:
            count = sum(len(probe.items) for probe in counts[group.name])
            LOG.warning(
                "The %s's %d texts have %d tokens, and the widest map has up to %d"
                " inputs: ridge and general text decide the rest. About %d such texts"
                " would do.",
                group.name.capitalize(),
                count,
                group.tokens,
                widest,
                math.ceil(count * widest / group.tokens),
            )
