"""The measurer: a candidate and its waiting line go in, the line with its score out."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mergekit_darwin.errors import DarwinError, Unchanged, reason
from mergekit_darwin.evolve.config import EvolveConfig
from mergekit_darwin.evolve.fitness import Result, evaluate, not_the_genome
from mergekit_darwin.evolve.log import Candidate, Evaluation, Part
from mergekit_darwin.evolve.options import RunOptions, fits_in_memory
from mergekit_darwin.evolve.tasks import TaskSet, load_task_sets
from mergekit_darwin.merge.yaml import merge_into, merge_to, output_config
from mergekit_darwin.models.harness import open_model
from mergekit_darwin.models.opened import fresh_model, load_model
from mergekit_darwin.talk import silent

LOG = logging.getLogger("mergekit_darwin")


class Worker:
    """One long-lived measurer: tasks, tokenizer and mergekit's loaders stay open."""

    def __init__(
        self,
        config: EvolveConfig,
        options: RunOptions,
        scratch: str,
        tasks: Mapping[Part, TaskSet] | None = None,
    ):
        from mergekit.options import MergeOptions

        self.config, self.options, self.scratch = config, options, scratch
        if options.num_threads is not None:
            import torch

            torch.set_num_threads(options.num_threads)
        self.tasks = load_task_sets(config) if tasks is None else tasks
        self.merging = MergeOptions(
            device=options.device,
            trust_remote_code=options.trust_remote_code,
            random_seed=config.search.seed,
            quiet=True,
        )
        self._tokenizers: dict[str, Any] = {}
        self._inner: Any = None
        self._inside = options.in_memory
        if self._inside is None:
            self._inside = fits_in_memory(config, options)

    def measure(self, candidate: Candidate, line: Evaluation, part: Part) -> Evaluation:
        """Return the line with its score, or with the reason why there is none.

        A merge that gives a parent back has that parent's score.
        Raises DarwinError where the failure is not the candidate's own.
        """
        started = time.perf_counter()
        # What every single merge and load would say about itself again is kept back.
        talkers = ("mergekit_darwin", "lm_eval", "lm_eval.models.huggingface")
        try:
            with silent(*talkers, "transformers"), self._model(candidate) as opened:
                merged = time.perf_counter() - started
                result = evaluate(self.harness(*opened), self.tasks[part])
        except Unchanged as same:  # which only the merge itself could show
            parent = str(getattr(self.config, same.parent))
            return self.measure(replace(candidate, yaml=None, model=parent), line, part)
        except Exception as error:
            if candidate.yaml is None or not_the_genome(error):
                raise DarwinError(
                    f"{candidate.name} could not be measured, which is not its own"
                    f" fault: {_said(error)}. Nothing was logged of it; mend this, and"
                    " start again."
                ) from error
            return line.model_copy(update={"error": _said(error)})
        spent = time.perf_counter() - started
        times = {"merge_s": round(merged, 3), "eval_s": round(spent - merged, 3)}
        return line.model_copy(update={**vars(result), **times})

    @contextlib.contextmanager
    def _model(self, candidate: Candidate) -> Iterator[tuple[Any, Any, str]]:
        """Yield model (None where the harness loads it), tokenizer and path."""
        if candidate.yaml is None:
            path = _local(str(candidate.model))
            yield self._load(path), self.tokenizer(path), path
            return
        # Other methods draw from a global stream that only a run to the disk seeds.
        if candidate.genome is not None and self._merge_inside(candidate.yaml):
            donor = _local(self.config.base_model or self.config.father)
            yield self._inner, self.tokenizer(donor), donor
            return
        with self.merged(candidate.yaml) as folder:
            yield self._load(folder), self.tokenizer(folder, "merged"), folder

    @contextlib.contextmanager
    def merged(self, text: str, name: str | None = None) -> Iterator[str]:
        """Give a folder of the scratch with the merge of a YAML; it is gone afterwards.

        name is its end where reports will show it, None for any that is free. Raises
        whatever mergekit does.
        """
        Path(self.scratch).mkdir(parents=True, exist_ok=True)
        folder = os.path.join(self.scratch, f"candidate-{name}")
        if name is None:
            folder = tempfile.mkdtemp(prefix="candidate-", dir=self.scratch)
        try:
            merge_to(text, Path(folder), self.merging)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _merge_inside(self, text: str) -> bool:
        """Merge into the model that is kept for it; return whether that is possible.

        Raises DarwinError where it was asked for and is not possible.
        """
        if not self._inside:
            return False
        try:
            if self.config.tokenizer or self.config.tokenizer_source:
                raise DarwinError(
                    "--in-memory cannot change the tokenizer; leave out --in-memory,"
                    " or tokenizer and tokenizer_source."
                )
            if self._inner is None:
                self._inner = self._empty(text)
            merge_into(text, self._inner, self.merging)
        except Unchanged:
            raise
        except DarwinError as error:
            if self.options.in_memory:
                raise
            LOG.info("Merging over the disk from here on: %s", error.message)
            self._inside, self._inner = False, None
        return bool(self._inside)

    def _empty(self, text: str) -> Any:
        """Return a model of the merge's architecture, its weights still to come."""
        import transformers

        config = output_config(text, self.merging)
        trusted = self.options.trust_remote_code
        model = fresh_model("The child", config, self._dtype(), trusted)
        donor = _local(self.config.base_model or self.config.father)
        if os.path.exists(os.path.join(donor, "generation_config.json")):
            found = transformers.GenerationConfig.from_pretrained(donor)
            model.generation_config = found
        return model.to(self.options.device)

    def _dtype(self) -> Any:
        import torch

        named = self.options.eval_dtype
        if named == "auto":
            return torch.float32 if self.options.device == "cpu" else "auto"
        return getattr(torch, named)

    def _load(self, path: str) -> Any:
        """Return a model in memory, None where the harness is to load it itself."""
        if self.config.model_type != "hf" or self.config.model_args:
            return None
        remote = self.options.trust_remote_code
        return load_model(path, path, self._dtype(), remote).to(self.options.device)

    def tokenizer(self, model: str, key: str | None = None) -> Any:
        """Return a model's tokenizer; with chats, one that has a template.

        It stays open under a key, by default the model's place.
        """
        path = _local(model)
        key = key or path
        if key not in self._tokenizers:
            import transformers

            found = transformers.AutoTokenizer.from_pretrained(
                path, trust_remote_code=self.options.trust_remote_code
            )
            if self.config.apply_chat_template and key != _local(self.config.father):
                if not found.chat_template:
                    father = self.tokenizer(self.config.father)
                    found.chat_template = father.chat_template
                    LOG.warning(
                        "%s has no chat template and is measured with the Father's."
                        " A child has the base's tokenizer unless told otherwise:"
                        " chat_template: auto gives it a template.",
                        key,
                    )
            self._tokenizers[key] = found
        return self._tokenizers[key]

    def try_out(self, tasks: TaskSet) -> Result:
        """Return what the Father scores on some tasks. Raises whatever goes wrong."""
        father = Candidate("father", model=self.config.father)
        with silent("lm_eval", "transformers"), self._model(father) as opened:
            return evaluate(self.harness(*opened), tasks)

    def template(self) -> Any:
        """Return a harness model of the Father, for its chat template alone."""
        for model in filter(None, (self.config.mother, self.config.base_model)):
            self.tokenizer(model)  # says here if it has none
        path = _local(self.config.father)
        return self.harness(self._load(path), self.tokenizer(path), path)

    def harness(self, model: Any, tokenizer: Any, path: str) -> Any:
        """Return a harness model around a loaded one, or by its path."""
        if model is None:
            given = {"pretrained": path, **self.config.model_args}
            if self.config.model_type == "hf" or self.options.eval_dtype != "auto":
                given["dtype"] = str(self._dtype()).removeprefix("torch.")
            return open_model(
                self.config.model_type,
                given,
                batch_size=self.options.batch_size,
                device=self.options.device,
            )
        from lm_eval.models.huggingface import HFLM

        return HFLM(
            pretrained=model, tokenizer=tokenizer, batch_size=self.options.batch_size
        )


def _local(model: str) -> str:
    """Return where a model lies on this machine; hub names are downloaded."""
    if os.path.isdir(model):
        return model
    from mergekit.common import ModelReference

    return str(ModelReference.parse(model).merged().local_path())


def _said(error: BaseException) -> str:
    if isinstance(error, DarwinError):
        return error.message
    return f"{type(error).__name__}: {reason(error)}"
