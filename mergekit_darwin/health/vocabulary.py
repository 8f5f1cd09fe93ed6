"""A child's tokenizer against its parents': the same words, the same numbers."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from transformers import AutoTokenizer

from mergekit_darwin.errors import reason
from mergekit_darwin.health.report import Finding, finding
from mergekit_darwin.health.thresholds import Severity
from mergekit_darwin.models.checkpoint import Checkpoint

LOG = logging.getLogger(__name__)

_TEXTS = 16  # texts encoded by every tokenizer; our choice


def load_tokenizer(checkpoint: Checkpoint, trust_remote_code: bool) -> Any | None:
    """Return a model's tokenizer, or None (with a warning) if it has none."""
    try:
        return AutoTokenizer.from_pretrained(
            checkpoint.path, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        LOG.warning("%s: no tokenizer (%s)", checkpoint.reference, reason(error))
        return None


def tokenizer_findings(
    child: Any | None, father: Any | None, mother: Any | None, texts: Sequence[str]
) -> list[Finding]:
    """Return how the child's tokenizer disagrees with those of its parents.

    Tokenizers are transformers' or None. It must number the tokens as one parent
    does and encode the texts as that one; where the parents differ, one that knows
    all tokens of both (mergekit's union) is only noted.
    """
    parents = {"Father": father, "Mother": mother}
    known = {name: row for name, row in parents.items() if row is not None}
    if not known:
        return []
    if child is None:
        words = f"one, as {' and '.join(known)} have"
        return [finding("tokenizer", "warning", "none", words)]
    own = child.get_vocab()
    vocabularies = {name: row.get_vocab() for name, row in known.items()}
    same = [name for name, row in vocabularies.items() if clashes(own, row) == 0]
    if not same:
        return [_strange(own, vocabularies)]
    chosen = list(texts)[:_TEXTS]
    apart = {name: _apart(child, known[name], chosen) for name in same}
    if chosen and min(apart.values()) > 0:
        name = min(apart, key=lambda key: apart[key])
        words = f"{apart[name]} of {len(chosen)} texts encoded unlike {name}"
        return [finding("tokenizer", "warning", words, "all alike")]
    return []


def clashes(own: Mapping[str, int], other: Mapping[str, int]) -> int:
    """Return how many tokens of another vocabulary have another number, or none."""
    return sum(own.get(token) != index for token, index in other.items())


def _strange(
    own: Mapping[str, int], vocabularies: Mapping[str, Mapping[str, int]]
) -> Finding:
    parents = list(vocabularies.values())
    differ = len(parents) == 2 and parents[0] != parents[1]
    union = all(token in own for row in parents for token in row)
    name = min(vocabularies, key=lambda key: clashes(own, vocabularies[key]))
    words = f"{clashes(own, vocabularies[name])} tokens not numbered as {name}'s"
    severity: Severity = "note" if differ and union else "error"
    return finding("tokenizer", severity, words, "0")


def _apart(child: Any, parent: Any, texts: Iterable[str]) -> int:
    return sum(child.encode(text) != parent.encode(text) for text in texts)
