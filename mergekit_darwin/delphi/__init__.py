"""Consensus at test time: staged samples, a majority vote, an early stop that is exact.

What a consensus scores belongs to model and engine together; merges are compared by
greedy answers.
"""

from __future__ import annotations

from importlib.metadata import entry_points

NAME, GROUP = "delphi", "lm_eval.models"
TARGET = "mergekit_darwin.delphi.model:Consensus"  # as pyproject.toml declares it


def register() -> None:
    """Make `delphi` known to lm-evaluation-harness; calling again is harmless.

    lm_eval.models is imported first: with a model in its registry before that, the
    harness would never look for its own names. What is registered is our entry point
    itself, so that a harness which reads entry points finds nothing new.
    """
    import lm_eval.models  # noqa: F401
    from lm_eval.api.registry import model_registry

    if NAME not in model_registry:
        found = [entry for entry in entry_points(group=GROUP) if entry.name == NAME]
        model_registry.register(NAME, target=found[0] if found else TARGET)
