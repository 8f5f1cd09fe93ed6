"""lm-evaluation-harness as this package opens it: tasks, models, silence.

Tasks are loaded once and used as objects, models are given as objects; the harness's
response cache is never used (it is not keyed by model).
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mergekit_darwin.errors import DarwinError, about, nearest
from mergekit_darwin.models.loading import whole_models
from mergekit_darwin.talk import silent

FEWSHOT_SEED = 1234  # lm-evaluation-harness's own default


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the harness's progress bars and chatter away from the terminal."""
    with silent("lm_eval"), contextlib.redirect_stderr(io.StringIO()):
        yield


def load_tasks(
    names: Sequence[str],
    *,
    include_path: Sequence[str] = (),
    num_fewshot: int | None = None,
) -> dict[str, dict[str, Any]]:
    """Return every named task or group with its loaded leaf tasks by their own names.

    A name may be a YAML file. Raises DarwinError for one that the harness does not
    know, with the nearest it knows, or cannot load.
    """
    if not names:
        return {}
    manager = _manager(include_path, names)
    return {name: _leaves(manager, name, num_fewshot) for name in names}


def _manager(include_path: Sequence[str], names: Sequence[str]) -> Any:
    """Return a task manager; the harness's own thousands only if they are needed."""
    from lm_eval.tasks import TaskManager

    folders = list(include_path)
    with quiet():
        if folders:
            local = TaskManager(include_path=folders, include_defaults=False)
            if all(_is_file(name) or name in local.all_tasks for name in names):
                return local
        return TaskManager(include_path=folders)


def _is_file(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def _leaves(manager: Any, name: str, shots: int | None) -> dict[str, Any]:
    if name not in manager.all_tasks and not _is_file(name):
        raise DarwinError(
            f"tasks: lm-evaluation-harness knows no task {name!r}."
            f"{nearest(name, manager.all_tasks)} Folders of task YAMLs go into"
            " include_path."
        )
    try:
        with quiet():
            leaves = manager.load([name])["tasks"]
    except Exception as error:
        raise DarwinError(
            f"tasks: {name!r} cannot be loaded ({first_line(error)})."
        ) from error
    for task in leaves.values():
        _prepare(task, shots)
    return dict(leaves)


def _prepare(task: Any, shots: int | None) -> None:
    """Set few-shot count and seed, as the harness's simple_evaluate does."""
    own = task.get_config("num_fewshot")
    if shots is not None and own != 0:
        task.set_config(key="num_fewshot", value=shots)
    elif own is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=FEWSHOT_SEED)


def open_model(
    kind: str, args: Mapping[str, Any], *, batch_size: str | int, device: str | None
) -> Any:
    """Return a harness model (hf, vllm, local-completions ...) from its arguments.

    Raises DarwinError for an unknown kind, a model that cannot be opened, and one some
    of whose weights are missing or of another shape.
    """
    import lm_eval.models  # noqa: F401  (the registry is empty without it)
    from lm_eval.api.registry import get_model, model_registry

    if kind not in model_registry:
        raise DarwinError(
            f"lm-evaluation-harness knows no model type {kind!r}."
            f"{nearest(kind, model_registry.keys())}"
        )
    rest = {"batch_size": batch_size, "device": device}
    named = args.get("pretrained") or args.get("model") or kind
    hint = ""
    if "pretrained" in args and not Path(named).is_dir():
        hint = "No folder here has that name: it was taken for one of the hub's."
    with about(f"{named} cannot be opened as {kind}", hint), whole_models():
        return get_model(kind).create_from_arg_obj(dict(args), rest)


def first_line(error: BaseException) -> str:
    """Return the kind and first line of a foreign error."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
