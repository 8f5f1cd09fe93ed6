"""Who measures: one long-lived worker in this process, or Ray actors.

A job is data; an outcome is data; a failure is an outcome with its reason. Which
worker takes which job changes no result.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.evolve.config import EvolveConfig
from mergekit_darwin.evolve.fitness import Exam, Marks, load_exams, measure

LOG = logging.getLogger("mergekit_darwin")
Part = Literal["search", "heldout"]


@dataclass(frozen=True)
class Job:
    """Measure a model as it is, or merge a YAML first; on one part of the items."""

    index: int
    name: str
    part: Part
    model: str | None = None
    recipe: str | None = None


@dataclass(frozen=True)
class Outcome:
    """What a job gave: marks, or the reason there are none; times in seconds."""

    index: int
    marks: Marks | None
    merge_s: float | None = None
    eval_s: float | None = None
    error: str | None = None


@dataclass(frozen=True)
class Bench:
    """Where and how workers measure; the same for all of them.

    eval_dtype "auto" is float32 on a CPU, else the files' own. num_threads are torch's,
    in every worker alike, so that sums come out the same in all of them.
    """

    config: EvolveConfig
    scratch: str
    device: str = "cpu"
    eval_dtype: str = "auto"
    batch_size: str = "64"
    in_memory: bool = False
    trust_remote_code: bool = False
    progress: bool = True
    num_threads: int | None = None
    merge_options: dict[str, Any] = field(default_factory=dict)


class Pool(Protocol):
    """Measures jobs; outcomes come as they are finished, in any order."""

    def run(self, jobs: Sequence[Job]) -> Iterator[Outcome]: ...

    def close(self) -> None: ...


def exams_of(config: EvolveConfig) -> dict[Part, Exam]:
    """Return the searched and the held-out exam of a configuration."""
    search, heldout = load_exams(
        config.tasks,
        config.heldout,
        include_path=config.include_path,
        limit=config.limit,
        num_fewshot=config.num_fewshot,
        chat=config.apply_chat_template,
        multiturn=config.fewshot_as_multiturn,
    )
    return {"search": search, "heldout": heldout}


def merge_options(bench: Bench) -> Any:
    """Return mergekit's options for a candidate: as plain as mergekit-yaml's own."""
    from mergekit.options import MergeOptions

    return MergeOptions(
        device=bench.device,
        trust_remote_code=bench.trust_remote_code,
        random_seed=bench.config.search.seed,
        quiet=True,
        **bench.merge_options,
    )


class Worker:
    """One long-lived measurer: tasks, tokenizer and mergekit's loaders stay open."""

    def __init__(self, bench: Bench, exams: dict[Part, Exam] | None = None):
        self.bench = bench
        if bench.num_threads is not None:
            import torch

            torch.set_num_threads(bench.num_threads)
        self.exams = exams if exams is not None else exams_of(bench.config)
        self._options = merge_options(bench)
        self._tokenizers: dict[str, Any] = {}
        self._inner: Any = None
        quieten()

    def measure(self, job: Job) -> Outcome:
        """Return a job's outcome; whatever fails becomes its reason."""
        started = time.perf_counter()
        merged: float | None = None
        try:
            with _hushed(), self._model(job) as (model, tokenizer, path):
                merged = time.perf_counter() - started
                marks = measure(
                    self.harness(model, tokenizer, path), self.exams[job.part]
                )
        except Exception as error:  # one failing candidate must not end the run
            LOG.debug("evaluation %d failed", job.index, exc_info=True)
            return Outcome(job.index, None, merged, None, _reason(error))
        spent = time.perf_counter() - started
        return Outcome(job.index, marks, merged, spent - merged)

    @contextlib.contextmanager
    def _model(self, job: Job) -> Iterator[tuple[Any, Any, str]]:
        """Yield model (None where the harness loads it), tokenizer and path."""
        if job.recipe is None:
            path = _local(str(job.model))
            yield self._load(path), self._tokenizer(path, path), path
            return
        if self.bench.in_memory:
            model = self._merged_inside(job.recipe)
            donor = _local(self.bench.config.base_model or self.bench.config.father)
            yield model, self._tokenizer(donor, donor), donor
            return
        Path(self.bench.scratch).mkdir(parents=True, exist_ok=True)
        prefix = f"candidate-{job.index}-"
        folder = tempfile.mkdtemp(prefix=prefix, dir=self.bench.scratch)
        try:
            from mergekit_darwin.merge.into import merge_to

            merge_to(job.recipe, Path(folder), self._options)
            yield self._load(folder), self._tokenizer("merged", folder), folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _merged_inside(self, text: str) -> Any:
        from mergekit_darwin.merge.into import merge_into, output_config

        config = self.bench.config
        if config.tokenizer or config.tokenizer_source:
            raise DarwinError(
                "--in-memory cannot change the tokenizer; leave out --in-memory, or"
                " tokenizer and tokenizer_source."
            )
        if self._inner is None:
            import transformers

            self._inner = transformers.AutoModelForCausalLM.from_config(
                output_config(text, self._options),
                dtype=self._dtype(),
                trust_remote_code=self.bench.trust_remote_code,
            )
            self._inner.to(self.bench.device).eval().requires_grad_(False)
        merge_into(text, self._inner, self._options)
        return self._inner

    def _dtype(self) -> Any:
        import torch

        named = self.bench.eval_dtype
        if named == "auto":
            return torch.float32 if self.bench.device == "cpu" else "auto"
        return getattr(torch, named)

    def _load(self, path: str) -> Any:
        """Return a model in memory, None where the harness is to load it itself."""
        if self.bench.config.model_type != "hf" or self.bench.config.model_args:
            return None
        import transformers

        model = transformers.AutoModelForCausalLM.from_pretrained(
            path, dtype=self._dtype(), trust_remote_code=self.bench.trust_remote_code
        )
        loaded: Any = model
        return loaded.to(self.bench.device).eval()

    def _tokenizer(self, key: str, path: str) -> Any:
        if key not in self._tokenizers:
            import transformers

            self._tokenizers[key] = transformers.AutoTokenizer.from_pretrained(
                path, trust_remote_code=self.bench.trust_remote_code
            )
        return self._tokenizers[key]

    def template(self, model: str) -> Any:
        """Return a harness model that is there for its chat template alone."""
        path = _local(model)
        return self.harness(self._load(path), self._tokenizer(path, path), path)

    def harness(self, model: Any, tokenizer: Any, path: str) -> Any:
        """Return a harness model around a loaded one, or by its path."""
        if model is None:
            from lm_eval.api.registry import get_model

            given = {"pretrained": path, **self.bench.config.model_args}
            if self.bench.config.model_type == "hf" and "dtype" not in given:
                named = self._dtype()
                given["dtype"] = str(named).removeprefix("torch.")
            kind = get_model(self.bench.config.model_type)
            rest = {"batch_size": self.bench.batch_size, "device": self.bench.device}
            return kind.create_from_arg_obj(given, rest)
        from lm_eval.models.huggingface import HFLM

        logger = logging.getLogger("lm_eval.models.huggingface")
        level = logger.level
        logger.setLevel(logging.ERROR)  # it warns of every model given as an object
        try:
            return HFLM(
                pretrained=model, tokenizer=tokenizer, batch_size=self.bench.batch_size
            )
        finally:
            logger.setLevel(level)


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Keep back what every single merge would say about itself again."""
    level = LOG.level
    LOG.setLevel(logging.ERROR)
    try:
        yield
    finally:
        LOG.setLevel(level)


def quieten() -> None:
    """Silence the bars and notes that every load of a candidate would print again."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)


def _local(model: str) -> str:
    """Return where a model lies on this machine; hub names are downloaded."""
    if os.path.isdir(model):
        return model
    from mergekit.common import ModelReference

    reference = ModelReference.parse(model)
    return str(reference.merged().local_path())


def _reason(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    text = lines[0].strip() if lines else "no message"
    return text if isinstance(error, DarwinError) else f"{type(error).__name__}: {text}"


class SerialPool:
    """One worker, here, one job after the other."""

    def __init__(self, worker: Worker):
        self.worker = worker

    def run(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """Yield each job's outcome in order."""
        for job in jobs:
            yield self.worker.measure(job)

    def close(self) -> None:
        """Nothing is held outside this process."""


class RayPool:
    """As many actors as asked for, on one machine or a cluster that is up."""

    def __init__(self, bench: Bench, workers: int, gpus: float):
        try:
            import ray
        except ImportError:
            raise DarwinError(
                "--strategy ray needs Ray: pip install 'mergekit-darwin[ray]'."
            ) from None
        self._ray = ray
        self._started = not ray.is_initialized()
        if self._started:
            ray.init(log_to_driver=False, include_dashboard=False)
        actor: Any = ray.remote(num_cpus=1, num_gpus=gpus)(Worker)
        self._actors: list[Any] = [actor.remote(bench) for _ in range(workers)]

    def run(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """Yield outcomes as actors finish them; an actor that dies fails its job."""
        waiting = list(jobs)
        idle = list(self._actors)
        running: dict[Any, tuple[Any, Job]] = {}
        while waiting or running:
            while waiting and idle:
                job, actor = waiting.pop(0), idle.pop(0)
                running[actor.measure.remote(job)] = (actor, job)
            done, _ = self._ray.wait(list(running), num_returns=1)
            actor, job = running.pop(done[0])
            idle.append(actor)
            try:
                yield self._ray.get(done[0])
            except Exception as error:
                yield Outcome(job.index, None, error=_reason(error))

    def close(self) -> None:
        """Let the actors go, and Ray too if it was started here."""
        for actor in self._actors:
            self._ray.kill(actor)
        if self._started:
            self._ray.shutdown()
