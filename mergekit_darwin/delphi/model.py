"""Consensus as a model of lm-evaluation-harness: any of its models, asked often.

For each item it draws samples in stages until the vote may stop, and answers with the
first text that has the winning answer; so every task scores it as it scores any model.
Registered as "delphi". Log-likelihoods are the inner model's, untouched.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lm_eval.api.model import LM

from mergekit_darwin.delphi.answers import Reader, reader_of
from mergekit_darwin.delphi.draw import Item, Sampling, Source, draw
from mergekit_darwin.delphi.guarantee import make_plan
from mergekit_darwin.delphi.samples import Samples, chosen
from mergekit_darwin.delphi.vote import Plan
from mergekit_darwin.errors import DarwinError
from mergekit_darwin.models.checks import whole_models
from mergekit_darwin.models.harness import load_tasks

_OWN = ("samples", "stage", "risk", "temperature", "seed", "metric", "extract")


class Consensus(LM):
    """A harness model around another that answers by staged vote.

    attach() tells it how to read tasks; without it, tasks are loaded by the names on
    their requests. samples holds all texts of the last call by task and item.
    """

    def __init__(
        self, inner: Any, plan: Plan | None = None, sampling: Sampling | None = None
    ):
        super().__init__()
        self.inner = inner
        self.plan = plan or make_plan()
        self.sampling = sampling or Sampling()
        self.samples = Samples()
        self._readers: dict[str, Reader] = {}
        self._reading: dict[str, Any] = {}
        self._folders: list[str] = []

    def attach(self, readers: Mapping[str, Reader]) -> None:
        """Say how tasks are read, by the names that their requests carry."""
        self._readers.update(readers)

    def generate_until(
        self, requests: list[Any], disable_tqdm: bool = False
    ) -> list[str]:
        """Return one text a request: the first with the answer that won its vote."""
        items = [Item(request, self._reader(request)) for request in requests]
        self.samples = Samples()
        draw(Source(self.inner, self.sampling), items, self.plan, self.samples)
        held = self.samples.held
        return [chosen(held[item.key], self.plan)[1].text for item in items]

    def _reader(self, request: Any) -> Reader:
        name = request.task_name
        if name not in self._readers:
            try:
                task = load_tasks([name], include_path=self._folders)[name][name]
            except (DarwinError, KeyError) as error:
                raise DarwinError(
                    f"delphi cannot find task {name!r} by its name to read its answers."
                    " Give include_path among its model_args, or use"
                    " mergekit-darwin-delphi."
                ) from error
            self._readers[name] = reader_of(name, task, **self._reading)
        return self._readers[name]

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        """Return what the inner model returns."""
        return self.inner.loglikelihood(requests)

    def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
        """Return what the inner model returns."""
        return self.inner.loglikelihood_rolling(requests)

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> Consensus:
        """Return a consensus from model_args: its own, `model`, and the inner's own."""
        from lm_eval.api.registry import get_model

        rest = {key: value for key, value in arg_dict.items() if key not in _OWN}
        given = {key: arg_dict[key] for key in _OWN if key in arg_dict}
        folders = rest.pop("include_path", None)
        kind = get_model(rest.pop("model", "hf"))
        counts = {k: int(given[k]) for k in ("samples", "stage") if k in given}
        plan = make_plan(**counts, risk=float(given.get("risk", 0.01)))
        sampling = Sampling(
            float(given.get("temperature", 0.7)), int(given.get("seed", 1))
        )
        with whole_models():
            inner = kind.create_from_arg_obj(rest, additional_config)
        made = cls(inner, plan, sampling)
        made._folders = [folders] if folders else []
        made._reading = {k: given[k] for k in ("metric", "extract") if k in given}
        return made

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: dict[str, Any] | None = None
    ) -> Consensus:
        """Return a consensus from "model=hf,pretrained=...,samples=16,stage=4"."""
        from lm_eval.utils import simple_parse_args_string

        arguments = simple_parse_args_string(arg_string)
        return cls.create_from_arg_obj(arguments, additional_config)

    # LM defines these itself, so that __getattr__ would not reach the inner model's.
    # The cache hook stays here: its key would file a consensus under the greedy text.

    @property
    def rank(self) -> int:
        """The inner model's."""
        return self.inner.rank

    @property
    def world_size(self) -> int:
        """The inner model's."""
        return self.inner.world_size

    @property
    def device(self) -> Any:
        """The inner model's."""
        return self.inner.device

    @property
    def tokenizer_name(self) -> str:
        """The inner model's."""
        return self.inner.tokenizer_name

    def all_gather(self, tensor: Any) -> Any:
        """Return what the inner model returns."""
        return self.inner.all_gather(tensor)

    def gather_object(self, obj: Any, dst: int = 0) -> Any:
        """Return what the inner model returns."""
        return self.inner.gather_object(obj, dst)

    def barrier(self) -> None:
        """Wait as the inner model does."""
        self.inner.barrier()

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """Return what the inner model returns."""
        return self.inner.chat_template(chat_template)

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Return what the inner model returns."""
        return self.inner.apply_chat_template(chat_history, add_generation_prompt)

    def __getattr__(self, name: str) -> Any:
        """Return what else the inner model has: tokenizer, batch sizes, max_length."""
        if name == "inner":  # not there yet: an object half made, or being copied
            raise AttributeError(name)
        return getattr(self.inner, name)
