"""One run of mergekit: who its models are, its tensors' names, the record of each.

mergekit shows a merge method one tensor at a time. What makes a run of them is brought
by two public calls: validate_inputs(models, base, place) for each slice and then for
each tensor it plans, and between them the check of the parameter `darwin_run`, which
has no value of its own and hands out the MergeRun to which the tensor belongs.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Hashable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from mergekit.common import ModelReference

from mergekit_darwin.errors import DarwinError, Unchanged
from mergekit_darwin.files import write_whole
from mergekit_darwin.locks import Hold
from mergekit_darwin.merge.roles import Roles, roles_of
from mergekit_darwin.models.names import stack_depths
from mergekit_darwin.ratios.rules import Prescription, routes_of, spread_of
from mergekit_darwin.ratios.table import table_csv

LOG = logging.getLogger("mergekit_darwin")
RECORD_NAME = "darwin_ratios.csv"
_SLICE = re.compile(r"\.slices\[\d+\]$")


class MergeRun:
    """One planned run. Compared by identity; its record may be filled by threads.

    roles says for every planned tensor's name who its models are. out_path is the
    folder of the record, None for a mere plan; hold keeps it from other runs. copied
    names integer buffers, which mergekit copies without asking the method.
    """

    def __init__(self) -> None:
        self.roles: dict[str, Roles] = {}
        self.out_path: str | None = None
        self.hold: Hold | None = None
        self.copied: frozenset[str] = frozenset()
        self._rows: dict[str, Prescription] = {}
        self._taken: dict[str, int] = {"father": 0, "mother": 0}
        self._changed = False
        self._said_static: set[str] = set()
        self._lock = threading.Lock()

    @cached_property
    def depths(self) -> Mapping[str, int]:
        """The number of layers of every stack; to be asked when all is planned."""
        return stack_depths(self.roles)

    @property
    def undecided(self) -> bool:
        """Whether no tensor has been seen yet that differs from both parents."""
        return not self._changed

    def record(self, row: Prescription, *, parent: str | None) -> None:
        """Note a finished tensor; parent names whom it equals bit for bit, if anyone.

        The last tensor closes the record. Raises Unchanged if nothing was merged, and
        DarwinError if another run is writing to the same folder.
        """
        with self._lock:
            if self.out_path is not None and not self._rows:
                self.hold = Hold(Path(self.out_path), "output folder")
            self._rows[row.name] = row
            if parent is None:
                self._changed = True
            else:
                self._taken[parent] += 1
            if len(self._rows) < len(self.roles.keys() - self.copied):
                return
            if not self._changed:
                self._refuse_unchanged()
            self._close()

    def say_static(self, name: str, mri: str | None) -> None:
        """Log that ratios rest on static profiles measured in this pass.

        Once where there is no report (mri None), else for each tensor that the report
        does not know and that is therefore not read as mri says.
        """
        with self._lock:
            key = name if mri else ""
            if key in self._said_static:
                return
            self._said_static.add(key)
        if mri is None:
            LOG.warning(
                "No MDS report: ratios rest on static profiles, measured in this pass;"
                " mergekit-darwin-scan adds what the layers are for."
            )
        else:
            LOG.warning(
                "The MDS report does not know %s: its ratio rests on published static"
                " scores, measured in this pass, not on mri: %s.",
                name,
                mri,
            )

    def _refuse_unchanged(self) -> None:
        for parent, count in self._taken.items():
            if count == len(self._rows):
                raise Unchanged(
                    f"A merge must change something; all {count} tensors came out as"
                    f" the {parent.capitalize()}'s, bit for bit. Check that the parents"
                    " differ, and move the ratios away from the transplant limits.",
                    parent,
                )

    def _close(self) -> None:
        rows = [self._rows[name] for name in sorted(self._rows)]
        LOG.info(
            "darwin_v6: %d tensors: %d Father's, %d Mother's, %d blended",
            len(rows),
            *routes_of(rows).values(),
        )
        spread = spread_of(rows)
        if spread is not None:
            LOG.info("mri_ratio lies in [%.4f, %.4f]", spread.least, spread.most)
            if spread.warning:
                LOG.warning("%s", spread.warning)
        if self.out_path is not None:
            write_whole(Path(self.out_path) / RECORD_NAME, table_csv(rows))
        if self.hold is not None:
            self.hold.let_go()


class _Watch(threading.local):
    """What mergekit is planning in this thread, as far as it has told us."""

    run: MergeRun | None = None
    slices: frozenset[str] = frozenset()
    begun = False  # a tensor's parameters were asked for
    tensor: str | None = None  # the last tensor planned; "" while it is being planned

    def start(self) -> None:
        self.run, self.slices, self.begun, self.tensor = (
            MergeRun(),
            frozenset(),
            False,
            None,
        )


_watch = _Watch()


def observe(
    models: Sequence[Hashable], base: Hashable | None, place: str | None
) -> None:
    """Take in what mergekit says through validate_inputs.

    While it plans, it says the models of every slice, then those of every tensor, each
    after that tensor's parameters. Anything else ends the planning: a tensor that runs,
    or merge_tensors. Raises DarwinError if a slice's or a tensor's roles are unclear.
    """
    known = all(isinstance(model, ModelReference) for model in models)
    if known and (place is None or _SLICE.search(place)):
        roles_of(models, base)
        if _watch.run is None or _watch.begun or (place or "") in _watch.slices:
            _watch.start()
        _watch.slices |= {place or ""}
    elif known and _watch.run is not None and place and _watch.tensor == "":
        _watch.run.roles[place] = roles_of(models, base)
        _watch.tensor = place
    elif place != _watch.tensor:
        _watch.run = None


def current_run(value: object) -> MergeRun | None:
    """Return the run that mergekit is planning in this thread, None outside one.

    Raises DarwinError if the run as a whole is not a darwin_v6 merge that can work.
    """
    if isinstance(value, MergeRun):
        return value
    if value is not None:
        raise DarwinError("darwin_run is set by the run itself; leave it out.")
    run = _watch.run
    if run is not None:
        if not _watch.begun:
            _watch.begun = True
            _check(run)
        _watch.tensor = ""
    return run


def _check(run: MergeRun) -> None:
    # Imported late: while mergekit itself is being imported, its planner is not there.
    from mergekit_darwin.merge.checks import check_run
    from mergekit_darwin.merge.frames import planning

    found = planning()
    if found is not None:
        run.out_path = found.out_path
        run.copied = check_run(found)
