"""lm-evaluation-harness as this package opens it: tasks, models, silence.

Tasks are loaded once and used as objects, models are given as objects; the harness's
response cache is never used (it is not keyed by model).
"""

from __future__ import annotations

import contextlib
import io
import re
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mergekit_darwin.errors import DarwinError, about, nearest, reason, some
from mergekit_darwin.files import read_bytes
from mergekit_darwin.models.checks import whole_models
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
    for file in _yamls(folders):
        if file.exists() and not file.is_file():
            raise DarwinError(
                f"include_path must hold regular files; {file} is none. Take it away."
            )
    with quiet(), about("The harness must find its tasks, each of a name that is text"):
        if folders:
            local = TaskManager(include_path=folders, include_defaults=False)
            known = local.all_tasks
            others = [
                name for name in names if not _is_file(name) and name not in known
            ]
            if not others:
                return local
            _refuse_unread(local, others)
        return TaskManager(include_path=folders)


def _is_file(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def _leaves(manager: Any, name: str, shots: int | None) -> dict[str, Any]:
    if _is_file(name):
        read_bytes(Path(name), f"tasks: {name} cannot be read")
    elif name not in manager.all_tasks:
        raise DarwinError(
            f"tasks: lm-evaluation-harness knows no task {name!r}."
            f"{nearest(name, manager.all_tasks)}{_passed_over(manager)} Folders of"
            " task YAMLs go into include_path."
        )
    else:
        _refuse_twice(manager, name)
    try:
        with quiet():
            leaves = manager.load([name])["tasks"]
    except (Exception, SystemExit) as error:  # a task's own code may end the process
        raise DarwinError(
            f"tasks: {name!r} cannot be loaded ({first_line(error)})."
        ) from error
    if not leaves:
        raise DarwinError(f"tasks: {name!r} must have tasks in it; it is empty.")
    for leaf, task in leaves.items():
        with about(f"tasks: {leaf!r} must have items that the harness reads"), quiet():
            _prepare(task, shots)
            len(task.eval_docs)
    return dict(leaves)


def _yamls(folders: Sequence[str]) -> list[Path]:
    """Return the files that the harness looks for tasks in, as it does."""
    return sorted(file for folder in folders for file in Path(folder).glob("**/*.yaml"))


def _passed_over(manager: Any) -> str:
    """Return which files of include_path the harness takes for no tasks, or ""."""
    folders = manager.include_path or []
    read = {entry.yaml_path for entry in manager.task_index.values()}
    other = [file for folder in folders for file in Path(folder).glob("**/*.yml")]
    names = [str(file) for file in [*_yamls(folders), *other] if file not in read]
    return f" No tasks to it are {some(names, 3)}." if names else ""


def _declaring(manager: Any, name: str) -> list[Path]:
    """Return the files of include_path that declare a task or group of this name."""
    words = rf"^(task|group): *['\"]?{re.escape(name)}['\"]?\s*$"
    line = re.compile(words.encode(), re.M)
    files = _yamls(manager.include_path or [])
    return [file for file in files if file.is_file() and line.search(file.read_bytes())]


def _refuse_unread(manager: Any, names: Sequence[str]) -> None:
    """Refuse a task that a file declares which the harness passes over in silence."""
    read = {entry.yaml_path for entry in manager.task_index.values()}
    for name in names:
        for file in _declaring(manager, name):
            if file not in read:
                with about(f"tasks: {file} must be the YAML of {name!r}"):
                    manager.load([str(file)])


def _refuse_twice(manager: Any, name: str) -> None:
    """Refuse a task that two files of include_path declare: one would be taken."""
    found = {file.resolve(): file for file in _declaring(manager, name)}
    if len(found) > 1:
        one, other = list(found.values())[:2]
        raise DarwinError(
            f"tasks: {name!r} must be declared once; {one} and {other} both are of"
            " that name. Rename one."
        )


def _prepare(task: Any, shots: int | None) -> None:
    """Set few-shot count and seed, as the harness's simple_evaluate does."""
    own = task.get_config("num_fewshot")
    if shots is not None and own != 0:
        task.set_config(key="num_fewshot", value=shots)
    elif own is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=FEWSHOT_SEED)


def check_kind(kind: str) -> None:
    """Refuse a type of models that the harness does not have. Raises DarwinError."""
    import lm_eval.models  # noqa: F401  (the registry is empty without it)
    from lm_eval.api.registry import model_registry

    if kind not in model_registry:
        raise DarwinError(
            f"model_type must be one that lm-evaluation-harness has, not {kind!r}."
            f"{nearest(kind, model_registry.keys())}"
        )


def open_model(
    kind: str, args: Mapping[str, Any], *, batch_size: str | int, device: str | None
) -> Any:
    """Return a harness model (hf, vllm, local-completions ...) from its arguments.

    Raises DarwinError for an unknown kind, a model that cannot be opened, and one some
    of whose weights are missing or of another shape.
    """
    from lm_eval.api.registry import get_model

    check_kind(kind)
    rest = {"batch_size": batch_size, "device": device}
    named = args.get("pretrained") or args.get("model") or kind
    hint = ""
    if "pretrained" in args and not Path(named).is_dir():
        hint = "No folder here has that name: it was taken for one of the hub's."
    with about(f"{named} cannot be opened as {kind}", hint), whole_models():
        return get_model(kind).create_from_arg_obj(dict(args), rest)


def first_line(error: BaseException) -> str:
    """Return the kind and first line of a foreign error, and of what caused it.

    Of one without words, the function that raised it.
    """
    lines, kind = str(error).strip().splitlines(), type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{kind} in {frames[-1].name}" if frames else kind
    said = f"{kind}: {lines[0]}" if lines else place
    cause = error.__cause__
    return said if cause is None else f"{said}: {reason(cause)}"
