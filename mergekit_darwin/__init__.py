"""darwin_v6 for mergekit: diagnose two parents, merge tensor by tensor, breed.

Importing this package has no side effect and loads neither torch nor mergekit.
"""

__version__ = "0.1.0"


def register() -> None:
    """Make `darwin_v6` known to mergekit in this process; calling again is harmless.

    Raises DarwinError if the installed mergekit is not a supported version.
    """
    from mergekit_darwin.host import check_mergekit

    check_mergekit()  # before the import below, which another mergekit might break
    from mergekit_darwin.merge.method import register as register_method

    register_method()
