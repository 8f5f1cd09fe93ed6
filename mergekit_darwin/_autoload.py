"""Register darwin_v6 and delphi as soon as their hosts' registries are imported.

mergekit 0.1.5 and lm-evaluation-harness 0.4.13 look for no plugins, so the wheel ships
mergekit_darwin.pth, whose line calls install() when Python starts. Standard library
only; nothing here raises. MERGEKIT_DARWIN_AUTOLOAD=0 switches it off.
"""

import os
import sys

_METHODS = "mergekit.merge_methods"
_MODELS = "lm_eval.models"


class _RegisterOnImport:
    """A finder that finds nothing itself; it appends our call to one import."""

    def __init__(self, module, call):  # type: ignore[no-untyped-def]
        self.module, self.call = module, call

    def find_spec(self, name, path=None, target=None):  # type: ignore[no-untyped-def]
        if name != self.module:
            return None
        sys.meta_path[:] = [finder for finder in sys.meta_path if finder is not self]
        spec = _find_elsewhere(name, path, target)
        if spec is not None and spec.loader is not None:
            _call_after(spec.loader, self.call)
        return spec


def _find_elsewhere(name, path, target):  # type: ignore[no-untyped-def]
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        spec = find(name, path, target) if find else None
        if spec is not None:
            return spec
    return None


def _call_after(loader, call) -> None:  # type: ignore[no-untyped-def]
    """Make a loader call us once, after it has run its module."""
    original = loader.exec_module

    def exec_module(module):  # type: ignore[no-untyped-def]
        del loader.exec_module
        original(module)
        call()

    try:
        loader.exec_module = exec_module
    except AttributeError:
        pass  # a loader that takes no attributes: register() must be called by hand


def _register() -> None:
    try:
        from mergekit_darwin.api.merging import register

        register()
    except Exception as error:
        _warn("darwin_v6", error)


def _register_delphi() -> None:
    try:
        from mergekit_darwin.delphi import register

        register()
    except Exception as error:
        _warn("delphi", error)


def _warn(name: str, error: Exception) -> None:
    import logging

    logging.getLogger("mergekit_darwin").warning("%s is not available: %s", name, error)


def installed() -> bool:
    """Return whether the hook waits for mergekit in this process."""
    return any(
        isinstance(finder, _RegisterOnImport) and finder.module == _METHODS
        for finder in sys.meta_path
    )


def install() -> None:
    """Put the hooks in place, or register at once what is imported already."""
    if os.environ.get("MERGEKIT_DARWIN_AUTOLOAD", "1") == "0" or installed():
        return
    for module, call in ((_METHODS, _register), (_MODELS, _register_delphi)):
        if module in sys.modules:
            call()
        else:
            sys.meta_path.insert(0, _RegisterOnImport(module, call))
