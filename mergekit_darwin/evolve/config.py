"""EVOLVE.yml: every key, its default and its meaning."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    FiniteFloat,
    field_validator,
    model_validator,
)

from mergekit_darwin.files import Frozen
from mergekit_darwin.merge.settings import Number, WholeMerge
from mergekit_darwin.ratios.genome import MAX_BLOCKS
from mergekit_darwin.ratios.scores import Mri
from mergekit_darwin.search.cma import SearchSettings

# What evolve gives lm-evaluation-harness itself, and where a user says it.
OWN_ARGS = {
    "pretrained": "father and mother",
    "tokenizer": "tokenizer_source",
    "batch_size": "--batch-size",
    "max_batch_size": "--batch-size",
    "device": "--device",
    "dtype": "--eval-dtype",
    "trust_remote_code": "--trust-remote-code",
}


class TaskSetting(Frozen):
    """One lm-evaluation-harness task: its weight in the score, and its metric.

    metric may name a filter after a comma ("exact_match,strict-match"); a metric that
    is better when lower enters the score negated.
    """

    name: str
    weight: Annotated[FiniteFloat, Field(gt=0.0)] = 1.0
    metric: str = "acc"

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


class EvolveConfig(WholeMerge):
    """A whole EVOLVE.yml. Paths are absolute once `read_config` has read it."""

    father: str
    mother: str
    base_model: str | None = None
    dtype: str = "bfloat16"
    out_dtype: str | None = None
    tokenizer: dict[str, Any] | None = None
    tokenizer_source: str | None = None
    chat_template: str | None = None
    blocks: Annotated[int, Field(ge=1, le=MAX_BLOCKS)] | None = None
    genes: Literal["published", "extended"] | None = None
    mri: Mri | None = None  # type: ignore[assignment]
    mask_seed: Annotated[int | Literal["genome"], Number] = 1
    mds: str | None = None
    probes: str | None = None
    probe_items: Annotated[int, Field(ge=1)] = 16
    include_path: list[str] = Field(default_factory=list)
    tasks: Annotated[list[TaskSetting], Field(min_length=1)]
    heldout: (
        Annotated[FiniteFloat, Field(gt=0.0, lt=1.0)]
        | Annotated[list[TaskSetting], Field(min_length=1)]
    ) = 0.5
    limit: Annotated[int, Field(ge=1)] | None = None
    num_fewshot: Annotated[int, Field(ge=0)] | None = None
    apply_chat_template: bool = False
    fewshot_as_multiturn: bool = True
    model_type: str = "hf"
    model_args: dict[str, Any] = Field(default_factory=dict)
    search: SearchSettings = Field(default_factory=SearchSettings)
    refit: bool | None = None
    refit_texts: str | None = None

    @field_validator("include_path", mode="before")
    @classmethod
    def _one_path(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("model_args")
    @classmethod
    def _not_ours(cls, value: dict[str, Any]) -> dict[str, Any]:
        for key in value:
            if key in OWN_ARGS:
                raise ValueError(f"{key} is set by evolve itself; use {OWN_ARGS[key]}")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> EvolveConfig:
        if self.tokenizer is not None and self.tokenizer_source is not None:
            raise ValueError("tokenizer and tokenizer_source exclude each other")
        if self.transplant_low > self.transplant_high:
            raise ValueError("transplant_low must not exceed transplant_high")
        if self.father == self.mother:
            raise ValueError("father and mother must be two different models")
        if self.refit_texts is not None and self.refit is False:
            raise ValueError("refit_texts is of no use with refit: false")
        names = [task.name for task in self.tasks]
        if len(set(names)) < len(names):
            raise ValueError("a task occurs twice among tasks")
        if isinstance(self.heldout, list):
            both = sorted({task.name for task in self.heldout} & set(names))
            if both:
                raise ValueError(f"{both[0]!r} is both searched on and held out")
        return self

    @property
    def third_base(self) -> str | None:
        """The base model, unless it is one of the parents or absent."""
        return self.base_model if self.base_model != self.father else None

    @property
    def refits(self) -> bool:
        """Whether children are refitted at the end; by default with refit_texts."""
        return self.refit_texts is not None if self.refit is None else self.refit

    @property
    def gene_kind(self) -> Literal["published", "extended"]:
        """The genes to search: extended by default where there is a third base."""
        return self.genes or ("extended" if self.third_base else "published")
