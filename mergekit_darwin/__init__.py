"""darwin_v6 for mergekit: diagnose two parents, merge tensor by tensor, breed.

    import mergekit_darwin as md

    report = md.scan_parents("father", "mother", base="base", out="mds")
    child = md.merge_yaml("darwin.yml", "child")

Importing this package has no side effect and loads neither torch nor mergekit: it is
imported whenever Python starts, so its names are found when they are first asked for.
"""

TYPE_CHECKING = False  # typing's own would cost a start of Python more than all this
if TYPE_CHECKING:
    from mergekit_darwin.api import breed as breed
    from mergekit_darwin.api import check_breeding as check_breeding
    from mergekit_darwin.api import check_health as check_health
    from mergekit_darwin.api import consensus as consensus
    from mergekit_darwin.api import family as family
    from mergekit_darwin.api import merge_yaml as merge_yaml
    from mergekit_darwin.api import preview_merges as preview_merges
    from mergekit_darwin.api import ratio_table as ratio_table
    from mergekit_darwin.api import read_genome as read_genome
    from mergekit_darwin.api import read_report as read_report
    from mergekit_darwin.api import refit_child as refit_child
    from mergekit_darwin.api import register as register
    from mergekit_darwin.api import scan_parents as scan_parents
    from mergekit_darwin.api import start_breeding as start_breeding
    from mergekit_darwin.errors import DarwinError as DarwinError

__version__ = "0.1.0"

_HOMES = dict.fromkeys(
    (
        "breed",
        "check_breeding",
        "check_health",
        "consensus",
        "family",
        "merge_yaml",
        "preview_merges",
        "ratio_table",
        "read_genome",
        "read_report",
        "refit_child",
        "register",
        "scan_parents",
        "start_breeding",
    ),
    "mergekit_darwin.api",
) | {"DarwinError": "mergekit_darwin.errors"}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
