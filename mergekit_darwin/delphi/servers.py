"""The harness's model types that ask a server: checked first, asked as often as it may.

local-completions, local-chat-completions and the types derived from them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from mergekit_darwin.errors import DarwinError, reason
from mergekit_darwin.models.harness import quiet


def _is_server(inner: Any) -> bool:
    from lm_eval.models.api_models import TemplateAPI

    return isinstance(inner, TemplateAPI)


def check_server(inner: Any, *, chats: bool) -> None:
    """Refuse, before anything is asked or written, what a server's type cannot do.

    chats: prompts are to be chats. Other models pass.
    """
    from lm_eval.models.openai_completions import LocalChatCompletion

    if not _is_server(inner):
        return
    if not inner.base_url:
        raise DarwinError(
            "--model-args must say where the server is: base_url=http://HOST:PORT/v1"
            "/completions, for chats /chat/completions."
        )
    if isinstance(inner, LocalChatCompletion):
        if not chats:
            raise DarwinError(
                f"{inner.base_url} is asked for chats, and prompts are plain text: give"
                " --apply-chat-template, or another --model-type."
            )
    elif chats and not inner.tokenized_requests:
        raise DarwinError(
            f"{inner.base_url} is asked for completions, and without a tokenizer no"
            " chat becomes plain text: use a chat type (local-chat-completions), or"
            " give tokenizer=PATH among --model-args."
        )


def generated(inner: Any, requests: Sequence[Any]) -> list[str]:
    """Return a text a request, in one call; to a server in as many as it may be sent.

    The harness sends a server requests of unequal settings, here seeds, one after the
    other, however many it may send at once.
    """
    at_once = inner._concurrent if _is_server(inner) else 1
    if at_once <= 1:
        return list(inner.generate_until(requests))
    with quiet(), ThreadPoolExecutor(at_once) as pool:
        texts = pool.map(lambda request: inner.generate_until([request]), requests)
        return [text for (text,) in texts]


def untouched(inner: Any, requests: Sequence[Any]) -> list[str]:
    """Return a text a request, asked as the harness asks.

    A server's first request goes alone: where nobody answers one says so, and not all
    that may be under way at once.
    """
    first = 1 if _is_server(inner) and inner._concurrent > 1 else 0
    parts = (requests[:first], requests[first:])
    return [text for part in parts if part for text in inner.generate_until(part)]


@contextmanager
def answering(inner: Any) -> Iterator[None]:
    """Say in one line what a server did not answer; a model's own errors pass."""
    try:
        yield
    except Exception as error:
        if not _is_server(inner):
            raise
        raise DarwinError(
            f"{inner.base_url} must answer every request ({reason(error)}). What it"
            " answered is kept: the same command goes on from there."
        ) from error
