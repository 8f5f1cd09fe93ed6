"""`python -m mergekit_darwin`: version, what is registered, is the hook active."""

from __future__ import annotations

from importlib.metadata import version

import click

from mergekit_darwin import __version__, _autoload


def main() -> None:
    """Print three lines about this installation."""
    waiting = _autoload.installed()
    from mergekit.merge_methods import registered_methods

    known = [method.spec.name for method in registered_methods()]
    registered = "registered" if "darwin_v6" in known else "not registered"
    hook = "active" if waiting else "not active in this process"
    click.echo(f"mergekit-darwin {__version__} with mergekit {version('mergekit')}")
    click.echo(f"darwin_v6: {registered}")
    click.echo(f"autoload hook: {hook}")


if __name__ == "__main__":
    main()
