"""What breaks where frames cannot be read: the checks and the record, not the merge."""

from __future__ import annotations

from pathlib import Path

import pytest

from mergekit_darwin.merge import frames
from tests.merging import PUBLISHED, darwin, differing, merge, record


def test_without_frames_bytes_are_the_same_but_typos_pass_and_no_record_is_kept(
    trio: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = merge(darwin(trio, **PUBLISHED), tmp_path / "whole")
    assert set(record(tmp_path / "whole")) == set(whole)
    monkeypatch.setattr(frames, "planning", lambda: None)
    child = merge(darwin(trio, **PUBLISHED, raito=0.1), tmp_path / "blind")
    assert differing(whole, child) == set()
    assert not (tmp_path / "blind" / "darwin_ratios.csv").exists()


def test_nothing_is_planned_outside_mergekit() -> None:
    assert frames.planning() is None
