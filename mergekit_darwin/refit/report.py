"""refit.json: what a child was refitted from, on which texts, and what it changed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, FiniteFloat

from mergekit_darwin.files import Frozen, read_document
from mergekit_darwin.scan.probes import Probe

ALLOWED = 1.05  # general text's loss against the worse parent's; ours
REPORT = "refit.json"


class Drift(Frozen):
    """How far the child's stream is from each parent's after one layer.

    Root mean square of the distance relative to the parent's stream, over the real
    tokens of that parent's texts; before is measured on the first of them.
    """

    father_before: FiniteFloat
    father_after: FiniteFloat
    mother_before: FiniteFloat
    mother_after: FiniteFloat


class Losses(Frozen):
    """Mean loss in nats a token of one group of texts, by model."""

    father: FiniteFloat
    mother: FiniteFloat
    before: FiniteFloat
    after: FiniteFloat


class Used(Frozen):
    """One group of texts: tokens that were fitted, and each probe's digest."""

    tokens: int
    probes: dict[str, str]

    @classmethod
    def of(cls, tokens: int, probes: Sequence[Probe]) -> Used:
        """Return so many tokens of these probes."""
        return cls(tokens=tokens, probes={p.name: p.digest for p in probes})


class Model(Frozen):
    """A model as it was named, and the digest of its files."""

    model: str
    digest: str


class RefitReport(Frozen):
    """All of refit.json. layers has one row a layer; left names what was not touched.

    fitted names what was, as the files do, numbers as *. general is on texts that no
    map was fitted to or held by.
    """

    format: Literal["mergekit-darwin/refit"] = "mergekit-darwin/refit"
    version: Literal[1] = 1
    tool: dict[str, str]
    settings: dict[str, str | int | float | bool | None]
    models: dict[str, Model]
    texts: dict[str, Used]
    maps: int
    fitted: list[str] = Field(default_factory=list)
    left: list[str]
    layers: list[Drift]
    father_texts: Losses
    mother_texts: Losses
    general: Losses
    seconds: FiniteFloat
    verdict: Literal["sound", "general text lost"]


def kind_of(name: str) -> str:
    """Return a tensor's name with * for every number of a layer or an expert."""
    return ".".join("*" if part.isdigit() else part for part in name.split("."))


def verdict_of(general: Losses) -> Literal["sound", "general text lost"]:
    """Return whether general text stays within 5 % above the worse parent's loss."""
    worse = max(general.father, general.mother)
    return "sound" if general.after <= ALLOWED * worse else "general text lost"


def read_refit(place: Path) -> RefitReport:
    """Return the report of a refitted child, by its folder or the file itself."""
    return read_document(place, RefitReport, REPORT, "mergekit-darwin-refit")


def refit_text(report: RefitReport) -> str:
    """Return the report as a few lines for the terminal."""
    rows: list[tuple[str, ...]] = [("", "father", "mother", "before", "after")]
    for name, losses in (
        ("Father's texts", report.father_texts),
        ("Mother's texts", report.mother_texts),
        ("general text", report.general),
    ):
        values = (losses.father, losses.mother, losses.before, losses.after)
        rows.append((name, *(f"{value:.4f}" for value in values)))
    lines = [f"{row[0]:<16}" + "".join(f"{x:>10}" for x in row[1:]) for row in rows]
    last = report.layers[-1]
    lines += [
        "loss, nats a token; general text was neither fitted nor held",
        f"drift after the last layer: to the Father {last.father_before:.3f} ->"
        f" {last.father_after:.3f}, to the Mother {last.mother_before:.3f} ->"
        f" {last.mother_after:.3f}",
        f"{report.maps} maps refitted in {report.seconds:.0f} s: {report.verdict}",
    ]
    return "\n".join(lines) + "\n"
