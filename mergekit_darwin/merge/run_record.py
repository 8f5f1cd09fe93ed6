"""What a run keeps while it goes: roles, depths, the row of every finished tensor."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from pathlib import Path

from mergekit.common import ModelReference

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.files import write_whole
from mergekit_darwin.models.names import site_of
from mergekit_darwin.ratios.rules import SPREAD_WARNING, Prescription
from mergekit_darwin.ratios.table import table_csv

LOG = logging.getLogger("mergekit_darwin")
RECORD_NAME = "darwin_ratios.csv"

Roles = tuple[ModelReference | None, ModelReference, ModelReference]


class RunPlan:
    """One planned run. Compared by identity; its record may be filled by threads.

    roles holds (base, father, mother) of every slice, base None or the Father where
    there is no third model; depths the layers of every stack by its prefix.
    """

    def __init__(
        self,
        roles: frozenset[Roles],
        depths: Mapping[str, int],
        out_path: str | None,
    ):
        self.roles = roles
        self.depths = depths
        self.out_path = out_path
        self.planned = 0
        self._buffers: set[str] = set()
        self._rows: dict[str, Prescription] = {}
        self._taken: dict[str, int] = {"father": 0, "mother": 0}
        self._changed = False
        self._said_static = False
        self._lock = threading.Lock()

    def roles_of(self, base: object, others: tuple[object, ...]) -> Roles | None:
        """Return the roles these models fill together, or None if one is missing."""
        for roles in self.roles:
            third = roles[0] is not None and roles[0] != roles[1]
            wanted = roles[1:] if third or roles[0] is None else roles[2:]
            if base == roles[0] and others == wanted:
                return roles
        return None

    def expect_buffers(self, names: set[str]) -> None:
        """Note planned tensors that mergekit copies without asking the method."""
        self._buffers |= names

    def base_is_lost(self, others: tuple[object, ...]) -> bool:
        """Return whether others are both parents of a run, their third base absent."""
        return any(others == roles[1:] for roles in self.roles)

    def record(self, row: Prescription, *, parent: str | None) -> None:
        """Note a finished tensor; parent names whom it equals bit for bit, if anyone.

        The last tensor closes the record. Raises DarwinError if nothing was merged.
        """
        with self._lock:
            self._rows[row.name] = row
            if parent is None:
                self._changed = True
            else:
                self._taken[parent] += 1
            if len(self._rows) < self.planned - len(self._buffers):
                return
            if not self._changed:
                self._refuse_unchanged()
            self._close()

    def lone_row(self, name: str, model: object) -> Prescription:
        """Return the row of a tensor that only one model has: its, bit for bit."""
        mother = any(model == roles[2] for roles in self.roles)
        site = site_of(name)
        return Prescription(
            name=name,
            stack=site.stack,
            layer=site.layer,
            block=None,
            component=site.component,
            static_father=None,
            static_mother=None,
            probe_father=None,
            probe_mother=None,
            mri_ratio=None,
            genome_ratio=None,
            ratio=1.0 if mother else 0.0,
            route="mother" if mother else "father",
        )

    def say_static(self) -> None:
        """Log once that ratios rest on static profiles measured in this pass."""
        with self._lock:
            if self._said_static:
                return
            self._said_static = True
        LOG.warning(
            "No MDS report: ratios rest on static profiles, measured in this pass;"
            " mergekit-darwin-scan adds what the layers are for."
        )

    @property
    def undecided(self) -> bool:
        """Whether no tensor has been seen yet that differs from both parents."""
        return not self._changed

    def _refuse_unchanged(self) -> None:
        for parent, count in self._taken.items():
            if count == len(self._rows):
                raise DarwinError(
                    f"A merge must change something; all {count} tensors came out as"
                    f" the {parent.capitalize()}'s, bit for bit. Check that the parents"
                    " differ, and move the ratios away from the transplant limits."
                )

    def _close(self) -> None:
        rows = [self._rows[name] for name in sorted(self._rows)]
        counts = {
            route: sum(row.route == route for row in rows)
            for route in ("father", "mother", "blend")
        }
        LOG.info(
            "darwin_v6: %d tensors: %d Father's, %d Mother's, %d blended",
            len(rows),
            *counts.values(),
        )
        _report_spread([row.mri_ratio for row in rows if row.mri_ratio is not None])
        if self.out_path is not None:
            write_whole(Path(self.out_path) / RECORD_NAME, table_csv(rows))


def _report_spread(found: list[float]) -> None:
    if not found:
        return
    spread = max(found) - min(found)
    LOG.info("mri_ratio lies in [%.4f, %.4f]", min(found), max(found))
    if spread < SPREAD_WARNING:
        LOG.warning(
            "mri_ratio spreads over %.4f only (below %.2f): to this scan the parents"
            " are nearly the same, and mri_trust has little to say.",
            spread,
            SPREAD_WARNING,
        )
