"""The MDS report (mds.json): its schema, its reader, its identity."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    Field,
    FiniteFloat,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from mergekit_darwin.errors import DarwinError, some
from mergekit_darwin.files import Frozen, read_document
from mergekit_darwin.kernel.profile import Profile

Share = Annotated[FiniteFloat, Field(ge=0.0)]
Count = Annotated[int, Field(ge=0)]


Passes = Literal["layers", "whole"]  # how a model was run, see scan/whole.py


class ProbeLoss(Frozen):
    """Mean loss of a probe in nats a token: full model, and each layer skipped [L]."""

    full: FiniteFloat
    skipped: list[FiniteFloat]


class ModelReport(Frozen):
    """What the scan found in one model.

    digest identifies the files (checkpoints.digest); layers is L of the probed stack
    and stack its name prefix; probes holds [L] cosine distances in [0, 2] a probe;
    gain holds, for each probe, first-order gains by tensor (only with a base), and
    curvature the mean over items of the item's own squared gain. passes says how the
    model was run: layer by layer or in whole passes; None where it was not, or where
    an older version ran it.
    """

    model: str
    revision: str | None = None
    digest: str
    layers: Count = 0
    stack: str = ""
    tensors: dict[str, Profile] = Field(default_factory=dict)
    probes: dict[str, list[Annotated[FiniteFloat, Field(ge=0.0, le=2.0 + 1e-6)]]] = (
        Field(default_factory=dict)
    )
    probe_loss: dict[str, ProbeLoss] = Field(default_factory=dict)
    gain: dict[str, dict[str, FiniteFloat]] = Field(default_factory=dict)
    curvature: dict[str, dict[str, Share]] = Field(default_factory=dict)
    passes: Passes | None = None

    @model_serializer(mode="wrap")
    def _sparse(self, write: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Leave out what older reports do not have either, if it is empty."""
        content: dict[str, object] = write(self)
        later = {"curvature", "passes"}
        return {k: v for k, v in content.items() if v or k not in later}

    @model_validator(mode="after")
    def _lengths(self) -> ModelReport:
        for name, distances in self.probes.items():
            if len(distances) != self.layers:
                raise ValueError(
                    f"probe {name} must have {self.layers} distances, one a layer;"
                    f" got {len(distances)}"
                )
        return self


class ProbeSetting(Frozen):
    """One probe as it was run: digest of its items, how many, and its weight."""

    digest: str
    items: Count
    weight: Annotated[FiniteFloat, Field(ge=0.0, le=1e9)]


class Settings(Frozen):
    """How the probes were run; tokens is the most tokens taken of one item."""

    tokens: Count = 0
    dtype: str = "float32"
    probes: dict[str, ProbeSetting] = Field(default_factory=dict)


class PairStatistics(Frozen):
    """Two task vectors of a tensor: norms, cosine, share of opposite signs."""

    norm_father: Share
    norm_mother: Share
    cosine: Annotated[FiniteFloat, Field(ge=-1.0 - 1e-6, le=1.0 + 1e-6)]
    opposite_signs: Annotated[FiniteFloat, Field(ge=0.0, le=1.0)]


class Report(Frozen):
    """A whole MDS report: both parents, optionally their base and the pair."""

    format: Literal["mergekit-darwin/mds"] = "mergekit-darwin/mds"
    version: Literal[1] = 1
    tool: dict[str, str] = Field(default_factory=dict)
    settings: Settings = Field(default_factory=Settings)
    father: ModelReport
    mother: ModelReport
    base: ModelReport | None = None
    pair: dict[str, PairStatistics] | None = None

    @model_validator(mode="after")
    def _probes_agree(self) -> Report:
        father, mother = set(self.father.probes), set(self.mother.probes)
        if father != mother or father - set(self.settings.probes):
            raise ValueError(
                "settings, father and mother must name the same probes;"
                f" got {sorted(self.settings.probes)}, {sorted(father)},"
                f" {sorted(mother)}"
            )
        return self

    @property
    def models(self) -> dict[str, ModelReport]:
        """What there is of each model, by its role as in a sentence."""
        both = {"Father": self.father, "Mother": self.mother}
        return both if self.base is None else {**both, "Base": self.base}

    def identity(self) -> str:
        """Return 16 hex digits over everything in the report that can move a ratio.

        Paths, versions and losses are left out: they change no tensor.
        """
        kept = {
            "settings": self.settings.model_dump(),
            "father": _measured(self.father),
            "mother": _measured(self.mother),
        }
        text = json.dumps(kept, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _measured(model: ModelReport) -> dict[str, object]:
    return model.model_dump(exclude={"model", "revision", "probe_loss", "passes"})


def read_report(path: str | Path) -> Report:
    """Return the report in a file, or in `mds.json` of a folder.

    Raises DarwinError if there is none or it does not fit the schema.
    """
    return read_document(path, Report, "mds.json", "mergekit-darwin-scan")


def check_identity(
    report: Report, father: str, mother: str, where: str = "mds"
) -> None:
    """Refuse a report whose digests are not those of the two parents.

    father and mother are digests of the models in use. Raises DarwinError with the
    differences, and says so if the parents are merely swapped.
    """
    found = (report.father.digest, report.mother.digest)
    if found == (father, mother):
        return
    if found == (mother, father):
        raise DarwinError(
            f"{where}: the report has Father and Mother the other way round (its"
            f" Father is {report.father.model}). Swap the models, or scan again."
        )
    wrong = [
        f"{role} {model.model} has digest {model.digest}, the merge's {expected}"
        for role, model, expected in (
            ("Father", report.father, father),
            ("Mother", report.mother, mother),
        )
        if model.digest != expected
    ]
    raise DarwinError(
        f"{where}: the report must be of the models merged; {'; '.join(wrong)}."
        " Run mergekit-darwin-scan on these parents."
    )


def check_covers(report: Report, names: list[str], where: str = "mds") -> None:
    """Refuse a report that lacks a tensor both parents bring to the merge."""
    known = set(report.father.tensors) & set(report.mother.tensors)
    missing = [name for name in names if name not in known]
    if missing:
        raise DarwinError(
            f"{where}: the report has no tensor {some(missing)}; it has {len(known)}"
            " tensors of both parents. Run mergekit-darwin-scan on these parents."
        )
