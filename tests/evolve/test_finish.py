"""The final model is made again where it is damaged; a parent's twin is that parent."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

pytest.importorskip("lm_eval")

from mergekit_darwin.evolve.diagnose import Diagnosis, unmoved
from mergekit_darwin.evolve.finish import make_final_model
from mergekit_darwin.evolve.log import Candidate, EvaluationLog
from mergekit_darwin.evolve.pages import _sentence
from mergekit_darwin.evolve.reading import make_config
from mergekit_darwin.health.report import Finding
from mergekit_darwin.merge.roles import Roles
from mergekit_darwin.merge.settings import MergeSettings
from mergekit_darwin.merge.yaml import Common, genome_yaml
from mergekit_darwin.ratios.genome import extended_genes, make_genome
from mergekit_darwin.scan.run import scan
from mergekit_darwin.search.landscape import landscape
from mergekit_darwin.search.proxy import Anchors
from mergekit_darwin.search.space import make_space
from mergekit_darwin.talk import ProbeOptions
from tests import evolving
from tests.search.test_search import make_report


def test_a_damaged_final_model_is_made_again_and_a_whole_one_is_kept(tmp_path):
    family = evolving.write_family(tmp_path / "f")
    roles = Roles(*(str(family / name) for name in ("base", "father", "mother")))
    common = Common(roles, head={"dtype": "bfloat16"})
    run = SimpleNamespace(folder=tmp_path, model=tmp_path / "final_model", chosen=None)
    text = genome_yaml(common, make_genome({"lambda": 1.3}))
    (tmp_path / "best.yml").write_text(text)
    make_final_model(run, trust_remote_code=False)
    weights = run.model / "model.safetensors"
    whole, stamp = weights.read_bytes(), weights.stat().st_mtime_ns
    make_final_model(run, trust_remote_code=False)
    assert weights.stat().st_mtime_ns == stamp
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    make_final_model(run, trust_remote_code=False)
    assert weights.read_bytes() == whole
    (run.model / "config.json").unlink()
    make_final_model(run, trust_remote_code=False)
    assert (run.model / "config.json").exists()


def diagnosis() -> Diagnosis:
    """Return a diagnosis of made-up parents."""
    report = make_report()
    half = np.array([0.5, 0.5])
    land = landscape(report, "published", ["a", "b"], 6)
    return Diagnosis(
        report=report,
        common=Common(Roles("b", "f", "m"), MergeSettings()),
        space=make_space("extended", 6),
        land=land,
        still=np.zeros(len(land.names), dtype=bool),
        family=(),
        anchors=Anchors(half, half, half, half),
        noise=0.01,
    )


def ratios(value: float) -> dict[str, float]:
    """Return genes that give every tensor this ratio."""
    names = [gene.name for gene in extended_genes(6) if gene.name.endswith("_ratio")]
    return {**dict.fromkeys(names, value), "mri_trust": 0.0}


def test_a_genome_that_gives_a_parent_back_is_that_parent():
    found = diagnosis()
    father = found.candidate(make_genome(ratios(0.1)))
    assert (father.twin, father.model, father.yaml) == ("father", "f", None)
    mother = found.candidate(make_genome(ratios(0.9)))
    assert (mother.twin, mother.model) == ("mother", "m")
    child = found.candidate(make_genome({**ratios(0.1), "embed_ratio": 0.5}))
    assert child.twin is None and child.yaml is not None


def test_tensors_that_nobody_changed_do_not_make_a_child():
    found = diagnosis()
    embeds = found.land.component == found.land.columns["embed_ratio"]
    genome = make_genome({**ratios(0.1), "embed_ratio": 0.5})
    assert embeds.any() and found.candidate(genome).twin is None
    assert replace(found, still=embeds).candidate(genome).twin == "father"


@pytest.mark.parametrize("based", [True, False])
def test_frozen_tensors_are_found_bit_for_bit(tmp_path, based):
    """Of parents that share embeddings and norms; permuted ones are not the same."""
    family = evolving.write_family(tmp_path / "f")
    names = ("father", "mother", "base")
    weights = {x: load_file(family / x / "model.safetensors") for x in names}
    keys = sorted(weights["base"])
    embed = next(key for key in keys if "embed" in key)
    other = next(key for key in keys if "q_proj" in key)
    for name in names:
        weights[name][embed] = weights["base"][embed]
        flipped = weights["base"][other].flip(0).contiguous()
        weights[name][other] = weights["base"][other] if name != "mother" else flipped
        save_file(weights[name], family / name / "model.safetensors", {"format": "pt"})
    content = evolving.content(family)
    if not based:
        content.pop("base_model")
    config = make_config(content)
    report = scan(
        config.father,
        config.mother,
        base=config.third_base,
        out=tmp_path / "mds",
        probes=[],
        options=ProbeOptions(),
        progress=False,
    )
    land = landscape(report, "published", [], 6)
    still = unmoved(config, report, land)
    equal = [
        torch.equal(weights["father"][n], weights["mother"][n])
        and torch.equal(weights["father"][n], weights["base"][n])
        for n in land.names
    ]
    assert still.tolist() == equal and not still[land.names.index(other)]
    assert still[land.names.index(embed)]


def test_a_twins_score_is_the_parents_and_is_not_measured_again(tmp_path):
    log = EvaluationLog(tmp_path / "evaluations.jsonl")
    parent = Candidate("father", model="f").line(0, "parent", 0, "items")
    log.append(parent.model_copy(update={"score": 0.7}))
    twin = diagnosis().candidate(make_genome(ratios(0.0)))
    line = twin.line(1, "real", 0, "items")
    known = log.earlier(line, twin.twin)
    assert known is not None and known.score == 0.7
    assert log.earlier(line, "mother") is None
    assert log.earlier(twin.line(1, "real", 0, "other items"), twin.twin) is None


def test_a_finding_reads_as_a_sentence():
    found = Finding(
        rule="function_loss",
        severity="note",
        layer=3,
        probe="MATH",
        found=0.4551943504743113,
        expected="at least 0.5",
        advice="Look at its ratios.",
    )
    assert _sentence(found) == (
        "note: function loss in layer 3, probe MATH: 0.4552, expected at least 0.5."
        " Look at its ratios."
    )
