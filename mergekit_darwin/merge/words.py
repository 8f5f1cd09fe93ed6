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
from mergekit_darwin.models.config import check_files


def check_words(config: MergeConfiguration, remote: bool = False) -> None:
    """Refuse a tokenizer of a model that has none, and no chat template.

    Raises DarwinError.
    """
    for where, model in dict(_sources(config)).items():
        _check_tokenizer(where, model, remote)
    _check_template(config.chat_template)


def _sources(config: MergeConfiguration) -> Iterator[tuple[str, ModelReference]]:
    """Yield the models that tokens are taken from, and the keys that name them."""
    if isinstance(config.tokenizer_source, ModelReference):
        yield "tokenizer_source", config.tokenizer_source
    chosen = config.tokenizer
    if chosen is None:
        return
    if isinstance(chosen.source, ModelReference):
        yield "tokenizer.source", chosen.source
    for token, given in (chosen.tokens or {}).items():
        source = given.source
        if isinstance(source, ModelTokenEmbedding):
            source = source.model
        if isinstance(source, ModelReference):
            yield f"tokenizer.tokens.{token}", source


def _check_tokenizer(where: str, model: ModelReference, remote: bool) -> None:
    from transformers import AutoTokenizer

    place = model.model
    check_files(place.path)
    with about(
        f"{where} must name a model with a tokenizer, union or base; that of {model}"
        " cannot be read",
    ):
        AutoTokenizer.from_pretrained(
            place.path, revision=place.revision, trust_remote_code=remote
        )


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
