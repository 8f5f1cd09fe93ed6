"""Register darwin_v6 as soon as mergekit's merge methods are imported.

mergekit 0.1.5 looks for no plugins, so the wheel ships mergekit_darwin.pth, whose
line calls install() when Python starts. Standard library only; nothing here raises.
MERGEKIT_DARWIN_AUTOLOAD=0 switches it off.
"""

import os
import sys

_TARGET = "mergekit.merge_methods"


class _RegisterOnImport:
    """A finder that finds nothing itself; it appends our call to one import."""

    def find_spec(self, name, path=None, target=None):  # type: ignore[no-untyped-def]
        if name != _TARGET:
            return None
        sys.meta_path[:] = [finder for finder in sys.meta_path if finder is not self]
        spec = _find_elsewhere(name, path, target)
        if spec is not None and spec.loader is not None:
            _call_after(spec.loader)
        return spec


def _find_elsewhere(name, path, target):  # type: ignore[no-untyped-def]
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        spec = find(name, path, target) if find else None
        if spec is not None:
            return spec
    return None


def _call_after(loader) -> None:  # type: ignore[no-untyped-def]
    """Make a loader register darwin_v6 once, after it has run its module."""
    original = loader.exec_module

    def exec_module(module):  # type: ignore[no-untyped-def]
        del loader.exec_module
        original(module)
        _register()

    try:
        loader.exec_module = exec_module
    except AttributeError:
        pass  # a loader that takes no attributes: register() must be called by hand


def _register() -> None:
    try:
        from mergekit_darwin import register

        register()
    except Exception as error:
        import logging

        logging.getLogger("mergekit_darwin").warning(
            "darwin_v6 is not available: %s", error
        )


def installed() -> bool:
    """Return whether the hook waits for mergekit in this process."""
    return any(isinstance(finder, _RegisterOnImport) for finder in sys.meta_path)


def install() -> None:
    """Put the hook in place, or register at once where mergekit is imported already."""
    if os.environ.get("MERGEKIT_DARWIN_AUTOLOAD", "1") == "0" or installed():
        return
    if _TARGET in sys.modules:
        _register()
    else:
        sys.meta_path.insert(0, _RegisterOnImport())
