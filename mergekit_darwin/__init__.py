"""darwin_v6 for mergekit: diagnose two parents, merge tensor by tensor, breed.

    import mergekit_darwin as md

    report = md.scan_parents("father", "mother", base="base", out="mds")
    child = md.merge_yaml("darwin.yml", "child")

Importing this package has no side effect and loads neither torch nor mergekit: it is
imported whenever Python starts, so its names are found when they are first asked for.
"""

TYPE_CHECKING = False  # typing's own would cost a start of Python more than all this
if TYPE_CHECKING:
    from mergekit_darwin.api.breeding import breed as breed
    from mergekit_darwin.api.breeding import check_breeding as check_breeding
    from mergekit_darwin.api.breeding import consensus as consensus
    from mergekit_darwin.api.breeding import family as family
    from mergekit_darwin.api.breeding import refit_child as refit_child
    from mergekit_darwin.api.breeding import start_breeding as start_breeding
    from mergekit_darwin.api.merging import check_health as check_health
    from mergekit_darwin.api.merging import merge_yaml as merge_yaml
    from mergekit_darwin.api.merging import preview_merges as preview_merges
    from mergekit_darwin.api.merging import ratio_table as ratio_table
    from mergekit_darwin.api.merging import read_genome as read_genome
    from mergekit_darwin.api.merging import read_report as read_report
    from mergekit_darwin.api.merging import register as register
    from mergekit_darwin.api.merging import scan_parents as scan_parents
    from mergekit_darwin.errors import DarwinError as DarwinError

__version__ = "0.1.0"

_HOMES = {
    "api.breeding": (
        *("breed", "check_breeding", "consensus"),
        *("family", "refit_child", "start_breeding"),
    ),
    "api.merging": (
        *("check_health", "merge_yaml", "preview_merges", "ratio_table"),
        *("read_genome", "read_report", "register", "scan_parents"),
    ),
    "errors": ("DarwinError",),
}
_NAMES = {name: home for home, names in _HOMES.items() for name in names}

__all__ = ["__version__", *_NAMES]


def __getattr__(name: str) -> object:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_NAMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
