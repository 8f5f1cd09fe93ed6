"""Whole passes with one layer skipped, for what cannot be run layer by layer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.models.opened import open_model
from mergekit_darwin.ratios.report_screen import screen
from mergekit_darwin.scan import importance
from mergekit_darwin.scan.importance import measure_importance
from mergekit_darwin.scan.probes import Encoded, Probe, ProbeItem
from mergekit_darwin.scan.report import read_report
from mergekit_darwin.scan.run import scan
from mergekit_darwin.scan.whole import open_whole, run_whole
from mergekit_darwin.talk import ProbeOptions
from tests import tiny
from tests.matrix import models

PROBES = [
    Probe("SUMS", (ProbeItem("12 + 30 =", " 42"), ProbeItem("7*8=", "56")), 1.0),
]
ITEM = Encoded(tuple(b"7*8=56"), 0, 4)


def test_whole_passes_give_what_layers_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = str(tiny.tiny_qwen3(tmp_path / "model", 1))
    layers = measure_importance(model, PROBES, ProbeOptions())
    monkeypatch.setattr(importance, "open_way", lambda source, _: open_whole(source))
    whole = measure_importance(model, PROBES, ProbeOptions())
    assert (layers.passes, whole.passes) == ("layers", "whole")
    assert whole.distances["SUMS"] == pytest.approx(layers.distances["SUMS"], abs=1e-5)
    assert whole.loss["SUMS"].skipped == pytest.approx(
        layers.loss["SUMS"].skipped, abs=1e-4
    )


@pytest.mark.parametrize("name", ["gemma4_e2b", "gemma3n_text", "t5", "bert"])
def test_models_of_shared_keys_streams_or_two_sides_are_run_whole(
    tmp_path: Path, name: str
) -> None:
    found = measure_importance(
        str(models.write(name, tmp_path / "m")), PROBES, ProbeOptions()
    )
    assert found.passes == "whole"
    assert all(distance > 0.0 for distance in found.distances["SUMS"])
    assert found.loss["SUMS"].full > 0.0


def test_a_skipped_layer_still_shares_its_keys_and_values(tmp_path: Path) -> None:
    source = open_model(str(models.write("gemma4_e2b", tmp_path / "m")), ProbeOptions())
    whole = open_whole(source)
    with torch.no_grad():
        full, _ = run_whole(whole, ITEM, None)
        skipped, _ = run_whole(whole, ITEM, 1)
        again, _ = run_whole(whole, ITEM, None)
    assert torch.equal(full, again)
    assert not torch.allclose(full, skipped)


def test_an_encoder_decoder_reads_the_prompt_and_guesses_the_completion(
    tmp_path: Path,
) -> None:
    source = open_model(str(models.write("t5", tmp_path / "m")), ProbeOptions())
    with torch.no_grad():
        _, losses = run_whole(open_whole(source), ITEM, None)
        model = source.model
        start = model.config.decoder_start_token_id
        logits = model(
            input_ids=torch.tensor([[*ITEM.ids[:4], tiny.EOS]]),
            decoder_input_ids=torch.tensor([[start, ITEM.ids[4]]]),
        ).logits[0]
    expected = torch.nn.functional.cross_entropy(
        logits, torch.tensor(ITEM.ids[4:]), reduction="none"
    )
    assert losses.tolist() == pytest.approx(expected.tolist(), abs=1e-5)


def test_a_masked_model_does_not_see_what_it_guesses(tmp_path: Path) -> None:
    source = open_model(str(models.write("bert", tmp_path / "m")), ProbeOptions())
    whole = open_whole(source)
    other = Encoded((*ITEM.ids[:4], ord("1"), ord("2")), 0, 4)
    with torch.no_grad():
        assert torch.equal(
            run_whole(whole, ITEM, None)[0], run_whole(whole, other, None)[0]
        )


def test_streaming_what_is_run_whole_is_refused_in_one_line(tmp_path: Path) -> None:
    model = str(models.write("gemma4_e2b", tmp_path / "m"))
    with pytest.raises(DarwinError, match="Scan it without --stream"):
        measure_importance(model, PROBES, ProbeOptions(stream=True))


def test_a_scan_says_which_way_was_taken(tmp_path: Path) -> None:
    base = models.write("gemma4_e2b", tmp_path / "base")
    father = tiny.nudged(base, tmp_path / "father", 2)
    report = scan(
        str(father),
        str(base),
        str(base),
        out=tmp_path / "mds",
        probes=PROBES,
        options=ProbeOptions(),
        progress=False,
    )
    assert report.base is not None
    assert {report.father.passes, report.base.passes} == {"whole"}
    assert read_report(tmp_path / "mds") == report
    assert screen(report).count("run in whole passes") == 3
    assert report.identity() == report.model_copy(deep=True).identity()


def test_a_report_of_an_older_version_still_reads(tmp_path: Path) -> None:
    path = str(tiny.tiny_llama(tmp_path / "model", 1))
    out = tmp_path / "mds"
    scan(path, path, out=out, probes=[], options=ProbeOptions(), progress=False)
    text = (out / "mds.json").read_text(encoding="utf-8")
    assert "passes" not in text and "curvature" not in text
    assert read_report(out).father.passes is None


def test_what_moves_no_ratio_does_not_change_a_reports_identity(
    tmp_path: Path,
) -> None:
    path = str(tiny.tiny_llama(tmp_path / "model", 1))
    out = tmp_path / "mds"
    report = scan(
        path, path, out=out, probes=[], options=ProbeOptions(), progress=False
    )
    father = report.father.model_copy(update={"passes": "whole"})
    other = report.model_copy(update={"father": father})
    assert other.identity() == report.identity()
    curved = report.father.model_copy(update={"curvature": {"A": {"x": 1.0}}})
    other = report.model_copy(update={"father": curved})
    assert other.identity() != report.identity()  # attribution reads it
