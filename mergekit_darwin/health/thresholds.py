"""Where health draws its lines, and what each rule means: numbers and words only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from mergekit_darwin.errors import DarwinError, refuse_unknown

Severity = Literal["note", "warning", "error"]
RANKS: dict[Severity, int] = {"note": 1, "warning": 2, "error": 3}


def _line(default: float, meaning: str) -> Any:
    return field(default=default, metadata={"meaning": meaning})


@dataclass(frozen=True)
class Thresholds:
    """Every number a verdict depends on. All >= 0; source of each: our choice.

    The thresholds of the published engine are not public.
    """

    norm_low: float = _line(0.5, "least norm or std, as share of the smaller parent's")
    norm_high: float = _line(2.0, "most norm or std, over the larger parent's")
    stray: float = _line(1.0, "most distance to the parents' span, over their changes")
    stray_blind: float = _line(4.0, "the same where no base is known")
    stray_outlier: float = _line(4.0, "most distance, over the median of its kind")
    stray_floor: float = _line(0.25, "distance below which no tensor is an outlier")
    stray_floor_blind: float = _line(1.25, "the same where no base is known")
    stray_vector: float = _line(0.25, "for vectors too: that distance, over the norm")
    lines: float = _line(0.01, "share of rows or columns far off that is an error")
    grid: float = _line(0.6, "least distinct values, as share of the parents'")
    quantised: float = _line(0.3, "most distance over the norm that a grid explains")
    refitted: float = _line(0.8, "most distance of a refitted map, over its norm")
    calm: float = _line(0.5, "least change where parents agree, over change anywhere")
    turned: float = _line(0.5, "most cosine distance to the nearest parent or base")
    coarse_bits: float = _line(2.0, "unused low bits, above the parents', that alarm")
    zeros: float = _line(0.5, "share of zeros that alarms where parents have none")
    interference: float = _line(1.5, "most importance, over the larger parent's")
    interference_warning: float = _line(2.5, "the same, as a warning; a note below")
    interference_floor: float = _line(0.05, "importance below which nothing interferes")
    function_quarter: float = _line(0.25, "top share of a parent's layers that matter")
    function_loss: float = _line(0.5, "least share of importance kept in such a layer")
    function_error: float = _line(0.1, "share kept below which the layer is an error")
    perplexity_warning: float = _line(3.0, "most perplexity, over the worse parent's")
    perplexity_error: float = _line(10.0, "the same, as an error")
    collapse: float = _line(0.5, "share of collapsed answers, above the parents'")

    def __post_init__(self) -> None:
        """Raise DarwinError for a threshold that is negative or not finite."""
        for line in fields(self):
            value = getattr(self, line.name)
            if not (math.isfinite(value) and value >= 0.0):
                raise DarwinError(
                    f"Threshold {line.name} must be a number of at least 0;"
                    f" got {value!r}."
                )


def moved(lines: Mapping[str, float]) -> Thresholds:
    """Return the thresholds with some lines moved, by name.

    Raises DarwinError for a name that is none, or a value that is no line.
    """
    known = [line.name for line in fields(Thresholds)]
    refuse_unknown(lines, known, "There is no threshold")
    return Thresholds(**lines)


@dataclass(frozen=True)
class Rule:
    """What a rule measures, in words and unit, and what its reader can try."""

    meaning: str
    advice: str


_MERGE_AGAIN = "Merge this tensor again, or take it from a parent (ratio 0 or 1)."
_MISPLACED = (
    "It is probably of another layer, permuted, or damaged: check the slices and the"
    " order of layers, heads and tokens, then merge it again."
)
_SOFTER = "Move the ratios of this layer towards one parent (below 0.15 or above 0.85)."

RULES: dict[str, Rule] = {
    "nan": Rule("elements that are NaN", _MERGE_AGAIN),
    "inf": Rule(
        "elements that are infinite",
        "Merge again with a wider dtype (bfloat16 or float32 instead of float16).",
    ),
    "no_weight": Rule(
        "type of a matrix that is no floating-point one",
        "Dequantise the model first: integers cannot be compared with weights.",
    ),
    "no_parent": Rule(
        "tensors that the child shares with this parent, by name",
        "Check --father and --mother: this model is of another architecture.",
    ),
    "dead_tensor": Rule("tensor that is zero or constant", _MERGE_AGAIN),
    "zeros": Rule(
        "share of zeros, in [0, 1]",
        "Give the merge its base model, or raise the density.",
    ),
    "norm_range": Rule(
        "norm over the parents' nearer norm", "Lower lambda or the weights."
    ),
    "std_range": Rule(
        "standard deviation over the parents' nearer one",
        "Lower lambda or the weights.",
    ),
    "stray": Rule(
        "distance to what the parents and base span, over the size of their changes",
        _MISPLACED,
    ),
    "turned": Rule(
        "cosine distance to the nearest of parents and base, in [0, 2]", _MISPLACED
    ),
    "lines": Rule(
        "rows or columns of a matrix that are far from the parents' (or zero)",
        _MISPLACED,
    ),
    "quantised": Rule(
        "distance of a tensor with fewer distinct values than the parents' have",
        "Take the weights from before they were quantised, if there are any.",
    ),
    "refitted": Rule(
        "distance of a refitted map to the parents' span, over its norm",
        "Refit again, on more texts; the report beside the child says how it was made.",
    ),
    "coarse": Rule(
        "low mantissa bits that are zero in every element",
        "Save the merge with the parents' dtype and without quantisation.",
    ),
    "duplicate": Rule(
        "layers with the same bytes",
        "Check the slices: one layer was written in the place of another.",
    ),
    "nothing_changed": Rule(
        "tensors that equal this model's",
        "Nothing was merged. Check the models' order, the ratios and the routes.",
    ),
    "parents_identical": Rule(
        "tensors in which the parents differ", "Check the paths: are they two models?"
    ),
    "missing_tensor": Rule(
        "tensor that the config asks for",
        "It would be filled with random numbers. Merge again or correct config.json.",
    ),
    "extra_tensor": Rule(
        "tensor that the config has no place for", "Correct config.json, or drop it."
    ),
    "shape": Rule("shape of a tensor", "Take config.json from the right parent."),
    "head_tying": Rule(
        "LM head as stored, against tie_word_embeddings",
        "Set tie_word_embeddings as the parents have it and store the head likewise.",
    ),
    "dtype": Rule("type the weights are stored in", "Set dtype or out_dtype."),
    "config": Rule(
        "config value that both parents share", "Take config.json from a parent."
    ),
    "tokenizer": Rule(
        "tokenizer against the parents'",
        "Copy the tokenizer of the parent whose embeddings were merged"
        " (mergekit: tokenizer_source).",
    ),
    "recipe": Rule(
        "elements that differ from what mergekit_config.yml gives",
        "Merge again from that file; child, parents or file were changed since.",
    ),
    "manifest": Rule(
        "files and tensors against the manifest.json beside them",
        "The child was changed since it was written: write or download it again.",
    ),
    "probes": Rule(
        "what the model computes on the probes",
        "Look at the findings on weights and files first.",
    ),
    "interference": Rule("importance over the larger parent's", _SOFTER),
    "function_loss": Rule("importance as a share of the parent's", _SOFTER),
    "perplexity": Rule(
        "perplexity over the worse parent's",
        "Compare with a linear merge at 0.5; lower lambda, raise the density.",
    ),
    "collapse": Rule(
        "share of short greedy answers that are empty, unprintable or repeat",
        "Read the answers in the report; look at the findings on weights first.",
    ),
}
