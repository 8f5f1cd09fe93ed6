"""Names of other packages that are not theirs to keep, and what we need them for.

When one is gone this test says so before a user's run does. transformers, mergekit and
accelerate promise nothing about them; each row is to be replaced once something public
does the same.
"""

from __future__ import annotations

import importlib

import pytest

NAMES = [  # (module, name, what for)
    (
        "mergekit.merge",
        "_model_out_config",
        "models/plan.py: the child's config as run_merge writes it, for a plan",
    ),
    (
        "mergekit.architecture.conversion",
        "can_convert_checkpoint_keys",
        "models/plan.py: whether a tensor is made of several, as experts are",
    ),
    (
        "mergekit.common",
        "get_auto_cls",
        "models/opened.py: the auto class that an architecture's name asks for",
    ),
    (
        "transformers.initialization",
        "no_init_weights",
        "models/stream.py: a model without weights in no time",
    ),
    (
        "transformers.conversion_mapping",
        "get_model_conversion_mapping",
        "models/stream.py: how a model's files become its tensors",
    ),
    ("transformers.core_model_loading", "WeightConverter", "models/stream.py: same"),
    ("transformers.core_model_loading", "WeightRenaming", "models/stream.py: same"),
    (
        "transformers.core_model_loading",
        "rename_source_key",
        "models/stream.py: the name that a file's tensor has in the model",
    ),
    (
        "transformers.core_model_loading",
        "convert_and_load_state_dict_in_model",
        "models/stream.py: one layer's weights into the model, packed as it wants them",
    ),
    (
        "transformers.modeling_utils",
        "LoadStateDictConfig",
        "models/stream.py: what the former is told",
    ),
    (
        "transformers.core_model_loading",
        "revert_weight_conversion",
        "scan/tally.py: gradients of packed tensors by the files' names",
    ),
    (
        "transformers.modeling_utils",
        "PreTrainedModel.get_expanded_tied_weights_keys",
        "models/opened.py, models/stream.py: fills all_tied_weights_keys, read by us",
    ),
    (
        "transformers.modeling_utils",
        "PreTrainedModel.set_experts_implementation",
        "models/opened.py: experts in float64, which grouped kernels have not",
    ),
]


@pytest.mark.parametrize(("module", "path", "use"), NAMES)
def test_a_foreign_private_name_is_still_there(
    module: str, path: str, use: str
) -> None:
    found: object = importlib.import_module(module)
    for part in path.split("."):
        assert hasattr(found, part), f"{module}.{path} is gone. It was for {use}"
        found = getattr(found, part)
