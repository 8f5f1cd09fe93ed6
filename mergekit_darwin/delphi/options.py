"""How a consensus run is done: every option has the command's name and meaning."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any

import click
from pydantic import ConfigDict, Field, FiniteFloat, ValidationError
from pydantic.dataclasses import dataclass

from mergekit_darwin.errors import DarwinError, refuse_unknown
from mergekit_darwin.talk import asked


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Options:
    """What may be chosen; all that is not said here is lm-evaluation-harness's.

    Settings of sampling and of the model are given as mappings.
    """

    samples: int = asked(16, "Most samples an item.")
    stage: int = asked(2, "Samples between looks.")
    risk: FiniteFloat = asked(
        0.01,
        "Largest chance, in the worst case, that the stopped vote is not that of all"
        " samples; 0: never.",
    )
    temperature: Annotated[FiniteFloat, Field(gt=0.0)] = asked(
        0.7, "Of sampling, above 0."
    )
    seed: int = asked(1, "Of all samples.")
    shadow: bool = asked(False, "Draw all samples; say where it would have stopped.")
    greedy: bool = asked(True, "Measure the greedy text of every item too.", off=True)
    metric: str | None = asked(
        None, "NAME or NAME,FILTER.  [default: the task's first]"
    )
    extract: str | None = asked(None, "Pattern that reads the answer from a text.")
    gen_kwargs: dict[str, Any] = field(default_factory=dict)
    limit: Annotated[int, Field(ge=1)] | None = asked(
        None, "Only the first items of each task.", type=int
    )
    num_fewshot: Annotated[int, Field(ge=0)] | None = asked(
        None, "Examples in front of an item.", type=int
    )
    include_path: tuple[str, ...] = asked(
        (),
        "Folder of task YAMLs; may be repeated.",
        type=click.Path(exists=True, file_okay=False),
        multiple=True,
    )
    apply_chat_template: bool = asked(False, "Prompts as chats.")
    fewshot_as_multiturn: bool = asked(True, "Examples as turns of the chat.", off=True)
    system_instruction: str | None = asked(None, "System turn of the chat.")
    model_type: str = asked("hf", "hf, vllm, local-completions, ...")
    model_args: dict[str, Any] = field(default_factory=dict)
    batch_size: Annotated[str, Field(pattern=r"^([1-9]\d*|auto(:\d+)?)$")] = asked(
        "16", "Requests a batch."
    )
    device: str | None = asked("cpu", "Where the model runs.")


def make_options(**given: Any) -> Options:
    """Return options. Raises DarwinError naming the first that does not fit."""
    refuse_unknown(given, Options.__dataclass_fields__)
    try:
        return Options(**given)
    except ValidationError as error:
        first = error.errors()[0]
        raise DarwinError(
            f"{first['loc'][0]}: {first['msg']}; got {first['input']!r}."
        ) from None
