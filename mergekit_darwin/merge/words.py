"""What a merge says of its child's words, tokenizers and chat template, looked at.

mergekit asks for them only when the weights are merged already.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources

from mergekit import _data
from mergekit.common import ModelReference
from mergekit.config import MergeConfiguration
from mergekit.tokenizer.config import ModelTokenEmbedding

from mergekit_darwin.errors import DarwinError, about
from mergekit_darwin.models.checks import check_files

_MOST_PADDED = 65536  # rows; ours: no hardware asks for more
_Source = tuple[ModelReference, str | None]


def check_words(config: MergeConfiguration, remote: bool = False) -> None:
    """Refuse a tokenizer of a model that has none, and no chat template.

    Raises DarwinError.
    """
    words: dict[ModelReference, set[str]] = {}
    for where, (model, token) in dict(_sources(config)).items():
        if model not in words:
            words[model] = _vocabulary(where, model, remote)
        if token is not None and token not in words[model]:
            raise DarwinError(
                f"{where} must name a model's token; {model} has no {token!r}."
            )
    _check_template(config.chat_template)
    padding = config.tokenizer.pad_to_multiple_of if config.tokenizer else None
    if padding is not None and not 1 <= padding <= _MOST_PADDED:
        raise DarwinError(
            f"tokenizer.pad_to_multiple_of must lie in [1, {_MOST_PADDED}]; got"
            f" {padding}."
        )


def _sources(config: MergeConfiguration) -> Iterator[tuple[str, _Source]]:
    """Yield keys that name models, those models, and the token to take from each."""
    if isinstance(config.tokenizer_source, ModelReference):
        yield "tokenizer_source", (config.tokenizer_source, None)
    chosen = config.tokenizer
    if chosen is None:
        return
    if isinstance(chosen.source, ModelReference):
        yield "tokenizer.source", (chosen.source, None)
    for token, given in (chosen.tokens or {}).items():
        source, where = given.source, f"tokenizer.tokens.{token}"
        if isinstance(source, ModelTokenEmbedding):
            yield where, (source.model, source.token)
        if isinstance(source, ModelReference):
            yield where, (source, token)


def _vocabulary(where: str, model: ModelReference, remote: bool) -> set[str]:
    """Return a model's tokens. Raises DarwinError where it has no tokenizer."""
    from transformers import AutoTokenizer

    place = model.model
    check_files(place.path)
    with about(
        f"{where} must name a model with a tokenizer, union or base; that of {model}"
        " cannot be read",
    ):
        found = AutoTokenizer.from_pretrained(
            place.path, revision=place.revision, trust_remote_code=remote
        )
        return set(found.get_vocab())


def _check_template(given: str | None) -> None:
    """Refuse what mergekit 0.1.5 (merge.py, _set_chat_template) does."""
    if not given or given == "auto" or (len(given) >= 20 and "{" in given):
        return
    shipped = resources.files(_data) / "chat_templates"
    known = sorted(
        file.name.removesuffix(".jinja")
        for file in shipped.iterdir()
        if file.name.endswith(".jinja")
    )
    if given not in known:
        raise DarwinError(
            "chat_template must be auto, a Jinja template, or one of"
            f" {', '.join(known)}; got {given!r}."
        )
