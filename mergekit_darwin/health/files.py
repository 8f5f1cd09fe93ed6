"""A child's files against its config and its parents': names, types, head, words."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from mergekit.options import MergeOptions
from transformers import AutoTokenizer, PretrainedConfig

from mergekit_darwin.errors import reason
from mergekit_darwin.health.report import Finding, finding
from mergekit_darwin.health.thresholds import Severity
from mergekit_darwin.models.checkpoint import Checkpoint
from mergekit_darwin.models.names import tails
from mergekit_darwin.models.opened import first_class, read_config
from mergekit_darwin.talk import silent

_SHAPING = (  # config values that change what weights mean; our choice
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "rms_norm_eps",
    "layer_norm_eps",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "sliding_window",
    "num_experts_per_tok",
    "attention_bias",
    "max_position_embeddings",
)
_ABSENT = "(absent)"
_TEXTS = 16  # texts encoded by every tokenizer; our choice
LOG = logging.getLogger(__name__)


def loading_info(checkpoint: Checkpoint, options: MergeOptions) -> dict[str, Any]:
    """Return what transformers says of a load without loading: nothing is allocated.

    Keys: missing_keys, unexpected_keys (names), mismatched_keys (name, file, model).
    Raises DarwinError if transformers cannot build the model.
    """
    name, remote = str(checkpoint.reference), options.trust_remote_code

    def load(kind: Any) -> dict[str, Any]:
        with silent("transformers"):
            _, info = kind.from_pretrained(
                checkpoint.path,
                device_map="meta",
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                trust_remote_code=remote,
            )
        return dict(info)

    return first_class(name, read_config(name, checkpoint.path, remote), load)


def name_findings(
    info: Mapping[str, Any], child: Checkpoint, parents: Sequence[Checkpoint]
) -> list[Finding]:
    """Return names missing, extra or of another shape, against config and parents.

    info is loading_info's. An extra tensor that a parent's files have too is a note,
    and so is one that all parents store, the child does not, and the config does not
    ask for.
    """
    known = {name for parent in parents for name in parent.headers}
    missing = set(info["missing_keys"])
    found = [
        finding("missing_tensor", "error", "missing", "stored", tensor=name)
        for name in sorted(missing)
    ]
    shared = set.intersection(*(set(parent.headers) for parent in parents))
    held = {tail for name in child.headers for tail in tails(name)}
    for name in sorted(shared - held - missing):
        words = "stored, as by both parents"
        found.append(finding("missing_tensor", "note", "missing", words, tensor=name))
    for name in sorted(info["unexpected_keys"]):
        severity: Severity = "note" if name in known else "warning"
        found.append(
            finding("extra_tensor", severity, "stored", "not stored", tensor=name)
        )
    for name, stored, wanted in sorted(info["mismatched_keys"], key=str):
        words = str(tuple(wanted))
        found.append(finding("shape", "error", str(tuple(stored)), words, tensor=name))
    return found


_HEADS = ("lm_head.weight", "embed_out.weight", "output.weight")
_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight")


def head_findings(
    tied: bool,
    parents: Mapping[str, bool],
    head_differs: bool | None,
) -> list[Finding]:
    """Return how the stored head disagrees with the config or with the parents.

    tied: what the child's config says; parents: the same by role; head_differs:
    whether the child stores a head whose bits are not the embedding's, None where it
    does not store both. Untied where the parents are tied still runs: a warning; so
    does a head of its own under a config that ties it, which transformers then uses.
    """
    found = []
    if tied and head_differs:
        words = "a head of its own is stored, which not every tool will use"
        found.append(_head("warning", words, "none, as the config ties the head"))
    if parents and all(own is not tied for own in parents.values()):
        words = f"tie_word_embeddings {str(tied).lower()}"
        severity: Severity = "error" if tied and not head_differs else "warning"
        wanted = f"{str(not tied).lower()}, as the parents"
        found.append(_head(severity, words, wanted))
    if not tied and head_differs is False and not any(parents.values()):
        words = "head and embedding are the same bits"
        found.append(_head("warning", words, "a head of its own"))
    return found


def _head(severity: Severity, found: str, expected: str) -> Finding:
    return finding("head_tying", severity, found, expected)


def head_and_embedding(headers: Mapping[str, object]) -> tuple[str, str] | None:
    """Return the names of the stored head and token embedding, if both are stored."""
    heads = [name for name in headers if name.endswith(_HEADS)]
    rows = [name for name in headers if name.endswith(_EMBEDDINGS)]
    return (heads[0], rows[0]) if heads and rows else None


def dtype_findings(
    child: Checkpoint, config: PretrainedConfig, parents: Iterable[Checkpoint]
) -> list[Finding]:
    """Return where the stored types are mixed, not the config's, or not the parents'.

    Only types of floating-point tensors count. Fewer bits than both parents have is a
    note at 16 bits, as merges are often saved so, and a warning below.
    """
    own = _dtypes(child)
    found: list[Finding] = []
    if not own:
        return found
    main = own.most_common(1)[0][0]
    of_parents = [_dtypes(parent) for parent in parents]
    if len(own) > 1 and all(len(row) < len(own) for row in of_parents):
        words = ", ".join(f"{count} {name}" for name, count in own.most_common())
        found.append(finding("dtype", "warning", words, "one type"))
    said = getattr(config, "dtype", None)
    if isinstance(said, torch.dtype) and str(said).removeprefix("torch.") not in own:
        words = str(said).removeprefix("torch.")
        found.append(finding("dtype", "warning", main, f"{words} (config)"))
    usual = [row.most_common(1)[0][0] for row in of_parents if row]
    if usual and all(_bits(main) < _bits(name) for name in usual):
        severity: Severity = "note" if _bits(main) >= 16 else "warning"
        found.append(finding("dtype", severity, main, ", ".join(sorted(set(usual)))))
    return found


def _dtypes(checkpoint: Checkpoint) -> Counter[str]:
    rows = (row.dtype for row in checkpoint.headers.values())
    return Counter(name for name in rows if "float" in name)


def _bits(name: str) -> int:
    dtype = getattr(torch, name, None)
    return 8 * dtype.itemsize if isinstance(dtype, torch.dtype) else 8


def config_findings(
    child: PretrainedConfig, father: PretrainedConfig, mother: PretrainedConfig
) -> list[Finding]:
    """Return config values that both parents share and the child does not."""
    texts = [config.get_text_config().to_dict() for config in (child, father, mother)]
    found = []
    for key in _SHAPING:
        own, *shared = (text.get(key, _ABSENT) for text in texts)
        if shared[0] == shared[1] != own:
            found.append(
                finding("config", "warning", f"{key} {own}", f"{key} {shared[0]}")
            )
    return found


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
    apart = {
        name: sum(child.encode(text) != known[name].encode(text) for text in chosen)
        for name in same
    }
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
