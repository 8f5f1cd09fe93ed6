"""The scan from end to end: report, pictures, resuming, bad input."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file

from mergekit_darwin.cli.scan import main
from mergekit_darwin.errors import DarwinError
from mergekit_darwin.kernel.profile import Profile, profile_tensor
from mergekit_darwin.models.checkpoint import open_checkpoint
from mergekit_darwin.ratios.report_picture import draw, draw_gains, draw_scan
from mergekit_darwin.ratios.report_screen import screen
from mergekit_darwin.scan import partial
from mergekit_darwin.scan import run as scanning
from mergekit_darwin.scan.importance import measure_importance
from mergekit_darwin.scan.probes import Probe, ProbeItem
from mergekit_darwin.scan.report import (
    ModelReport,
    Report,
    read_report,
)
from mergekit_darwin.scan.run import scan
from mergekit_darwin.scan.static import pair_statistics
from mergekit_darwin.talk import ProbeOptions
from tests import tiny

pytestmark = pytest.mark.usefixtures("one_thread")
PROBES = [
    Probe("SUMS", (ProbeItem("1+1=", "2"), ProbeItem("7*8=", "56")), 0.75),
    Probe("WORDS", (ProbeItem("수도는", " 서울"),), 0.25),
]
OPTIONS = ProbeOptions(batch_size=4)


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("family")
    base = tiny.tiny_llama(root / "base", 1, layers=3, dtype=torch.bfloat16)
    return {
        "base": str(base),
        "father": str(tiny.nudged(base, root / "father", 2)),
        "mother": str(tiny.nudged(base, root / "mother", 3)),
    }


def run(family: dict[str, str], out: Path, **other: Any) -> Report:
    settings: dict[str, Any] = {
        "out": out,
        "probes": PROBES,
        "options": OPTIONS,
        "progress": False,
        **other,
    }
    return scan(family["father"], family["mother"], family["base"], **settings)


@pytest.fixture(scope="module")
def done(
    family: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Report, Path]:
    out = tmp_path_factory.mktemp("done")
    return run(family, out, draw=draw), out


def test_report_on_disk_is_what_scan_returns(done: tuple[Report, Path]) -> None:
    report, out = done
    assert read_report(out) == report
    assert sorted(p.name for p in out.iterdir()) == ["gains.png", "mds.json", "mds.png"]


def test_report_holds_every_tensors_profile(
    done: tuple[Report, Path], family: dict[str, str]
) -> None:
    weights = load_file(Path(family["mother"]) / "model.safetensors")
    assert set(done[0].mother.tensors) == set(weights)
    for name, row in done[0].mother.tensors.items():
        assert row == profile_tensor(weights[name])


def test_report_identifies_its_models_and_settings(
    done: tuple[Report, Path], family: dict[str, str]
) -> None:
    report, _ = done
    assert report.base is not None
    for model, role in (
        (report.father, "father"),
        (report.mother, "mother"),
        (report.base, "base"),
    ):
        assert model.model == family[role]
        assert model.digest == open_checkpoint(family[role]).digest
    assert report.settings.probes["SUMS"].weight == 0.75
    assert report.settings.probes["WORDS"].digest == PROBES[1].digest
    assert {"mergekit", "torch", "transformers"} <= set(report.tool)


def test_probes_of_the_report_are_those_of_each_parent(
    done: tuple[Report, Path], family: dict[str, str]
) -> None:
    found = measure_importance(family["mother"], PROBES, OPTIONS)
    mother = done[0].mother
    assert (mother.probes, mother.probe_loss) == (found.distances, found.loss)
    assert (mother.layers, mother.stack) == (3, "model.layers")
    assert done[0].father.probes != mother.probes


def test_pair_statistics_by_hand() -> None:
    base = torch.tensor([1.0, 1.0, 1.0, 1.0], dtype=torch.bfloat16)
    father = torch.tensor([4.0, 1.0, 5.0, 1.0], dtype=torch.bfloat16)  # 3 0 4 0
    mother = torch.tensor([-2.0, 2.0, 5.0, 1.0], dtype=torch.bfloat16)  # -3 1 4 0
    found = pair_statistics(base, father, mother)
    assert found.norm_father == 5.0
    assert found.norm_mother == pytest.approx(26**0.5, rel=1e-12)
    assert found.cosine == pytest.approx(7 / (5 * 26**0.5), rel=1e-12)
    assert found.opposite_signs == 0.5
    still = pair_statistics(base, base, mother)
    assert (still.cosine, still.opposite_signs, still.norm_father) == (0.0, 0.0, 0.0)


def test_pair_statistics_of_many_pieces_equal_torch() -> None:
    draw = torch.Generator().manual_seed(1)
    base, father, mother = (torch.randn(200, 999, generator=draw) for _ in range(3))
    left, right = (x.double() - base.double() for x in (father, mother))
    found = pair_statistics(base, father, mother)
    assert found.norm_mother == pytest.approx(float(right.norm()), rel=1e-12)
    cosine = torch.cosine_similarity(left.flatten(), right.flatten(), dim=0)
    assert found.cosine == pytest.approx(float(cosine), rel=1e-9)
    assert found.opposite_signs == float((left * right < 0).double().mean())


def test_a_scan_of_gemma4_31b_layout_has_1188_tensors(tmp_path: Path) -> None:
    path = str(tiny.tiny_gemma4(tmp_path / "model", 1))
    report = scan(
        path, path, out=tmp_path / "out", probes=[], options=OPTIONS, progress=False
    )
    assert len(report.father.tensors) == tiny.GEMMA4_TENSORS
    assert sum("vision_tower" in name for name in report.father.tensors) == 355


class Stop(Exception):
    """Stands for a power cut."""


def test_stopped_in_the_static_pass_it_goes_on_where_it_was(
    family: dict[str, str],
    done: tuple[Report, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, seen = scanning.scan_tensors, []

    def stopping(loads: Any, names: list[str]) -> Iterator[Any]:
        for count, row in enumerate(real(loads, names)):
            if count == 7:
                raise Stop
            yield row

    def watching(loads: Any, names: list[str]) -> Iterator[Any]:
        seen.extend(names)
        yield from real(loads, names)

    monkeypatch.setattr(scanning, "scan_tensors", stopping)
    with pytest.raises(Stop):
        run(family, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [".scan"]
    monkeypatch.setattr(scanning, "scan_tensors", watching)
    assert run(family, tmp_path) == done[0]
    assert len(seen) == len(done[0].father.tensors) - 7


def test_stopped_after_the_fathers_probes_they_are_not_run_again(
    family: dict[str, str],
    done: tuple[Report, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, seen = scanning.measure_importance, []

    def stopping(model: str, *rest: Any) -> Any:
        seen.append(model)
        if model == family["mother"] and seen.count(model) == 1:
            raise Stop
        return real(model, *rest)

    monkeypatch.setattr(scanning, "measure_importance", stopping)
    with pytest.raises(Stop):
        run(family, tmp_path)
    assert run(family, tmp_path) == done[0]
    assert seen == [family["father"], family["mother"], family["mother"]]


def test_a_line_cut_off_by_a_stop_is_measured_again(
    family: dict[str, str],
    done: tuple[Report, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stop(*args: Any) -> None:
        raise Stop

    monkeypatch.setattr(scanning, "measure_importance", stop)
    with pytest.raises(Stop):
        run(family, tmp_path)
    (file,) = (tmp_path / ".scan").glob("tensors-*")
    os.truncate(file, file.stat().st_size - 30)
    monkeypatch.undo()
    assert run(family, tmp_path) == done[0]


def test_a_finished_scan_is_returned_without_another_run(
    family: dict[str, str],
    done: tuple[Report, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scanning, "scan_tensors", None)
    assert run(family, done[1]) == done[0]


def test_other_settings_replace_the_report(
    family: dict[str, str], tmp_path: Path
) -> None:
    first = run(family, tmp_path, probes=[])
    assert first.father.probes == {}
    assert set(run(family, tmp_path).father.probes) == {"SUMS", "WORDS"}
    assert set(read_report(tmp_path).father.probes) == {"SUMS", "WORDS"}


def test_folder_with_a_report_of_other_parents_is_refused_and_kept(
    family: dict[str, str], done: tuple[Report, Path]
) -> None:
    before = (done[1] / "mds.json").read_bytes()
    with pytest.raises(DarwinError, match="must be of the models"):
        scan(
            family["base"],
            family["mother"],
            out=done[1],
            probes=PROBES,
            options=OPTIONS,
        )
    assert (done[1] / "mds.json").read_bytes() == before
    assert not (done[1] / ".scan").exists()


def test_no_space_is_a_clear_error_and_leaves_no_report(
    family: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(partial.os, "replace", full)
    with pytest.raises(DarwinError, match="No space is left"):
        run(family, tmp_path)
    assert not (tmp_path / "mds.json").exists()


def test_out_that_is_a_file_is_a_clear_error(
    family: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DarwinError, match="must be a folder"):
        run(family, tmp_path / "file")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_named(
    family: dict[str, str], tmp_path: Path, bad: float
) -> None:
    ill = tiny.nudged(family["base"], tmp_path / "ill", 4)
    weights = load_file(ill / "model.safetensors")
    weights["model.layers.2.mlp.up_proj.weight"][3, 3] = bad
    save_file(weights, ill / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DarwinError, match=r"layers\.2\.mlp\.up_proj") as error:
        run({**family, "mother": str(ill)}, tmp_path / "out")
    assert str(ill) in error.value.message
    assert not (tmp_path / "out" / "mds.json").exists()


def test_parents_of_other_depth_are_compared_as_far_as_both_go(
    family: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    deep = str(tiny.tiny_llama(tmp_path / "deep", 5, layers=4))
    with caplog.at_level(logging.WARNING):
        report = scan(
            family["father"],
            deep,
            out=tmp_path / "out",
            probes=PROBES,
            options=OPTIONS,
            progress=False,
            draw=draw,
        )
    assert (report.father.layers, report.mother.layers) == (3, 4)
    assert "Father has 3 layers and Mother 4" in caplog.text
    assert "lacks 9 tensors" in caplog.text and "model.layers.3" in caplog.text
    assert "mri_ratio" in screen(report)


def test_without_base_there_are_no_pairs_gains_or_second_picture(
    family: dict[str, str], tmp_path: Path
) -> None:
    report = scan(
        family["father"],
        family["mother"],
        out=tmp_path,
        probes=PROBES,
        options=OPTIONS,
        progress=False,
        draw=draw,
    )
    assert (report.base, report.pair, report.father.gain) == (None, None, {})
    assert not (tmp_path / "gains.png").exists()


def test_screen_says_where_the_parents_differ(done: tuple[Report, Path]) -> None:
    text = screen(done[0])
    assert "SUMS" in text and "mri_ratio" in text and "First-order gain" in text
    assert len(text.splitlines()) < 40


def test_screen_of_one_model_twice_says_that_mri_trust_has_little_to_say(
    done: tuple[Report, Path],
) -> None:
    twin = done[0].model_copy(update={"mother": done[0].father})
    assert "the parents are nearly the same" in screen(twin)


@pytest.mark.parametrize("depth", [1, 6, 60])
def test_pictures_are_drawn_at_every_depth(tmp_path: Path, depth: int) -> None:
    report = made_up(depth)
    draw_scan(report, tmp_path / "mds.png")
    draw_gains(report, tmp_path / "gains.png")
    for name in ("mds.png", "gains.png"):
        assert (tmp_path / name).read_bytes()[1:4] == b"PNG"


def made_up(depth: int) -> Report:
    """Return a report of random numbers, with five probes and a base."""
    draw = torch.Generator().manual_seed(depth)
    names = [f"model.layers.{i}.mlp.up_proj.weight" for i in range(depth)]
    probes = ("REASONING", "CODE", "MATH", "KNOWLEDGE", "LANGUAGE")

    def side() -> ModelReport:
        row = Profile(entropy=0.8, std=0.1, norm=1.0, max_abs=1.0, zeros=0, numel=100)
        return ModelReport(
            model="x",
            digest="0" * 16,
            layers=depth,
            stack="model.layers",
            tensors={name: row for name in (*names, "lm_head.weight")},
            probes={p: torch.rand(depth, generator=draw).tolist() for p in probes},
            gain={
                p: dict(
                    zip(names, torch.randn(depth, generator=draw).tolist(), strict=True)
                )
                for p in probes
            },
        )

    one = {"digest": "0" * 16, "items": 8, "weight": 0.2}
    return Report.model_validate(
        {
            "settings": {"probes": {p: one for p in probes}},
            "father": side().model_dump(),
            "mother": side().model_dump(),
        }
    )


def call(*words: str) -> Result:
    return CliRunner().invoke(main, list(words))


def test_command_writes_the_report_and_prints_one_screen(
    family: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "probes"
    folder.mkdir()
    (folder / "sums.jsonl").write_text('{"prompt": "1+1=", "completion": "2"}\n')
    words = [family["father"], family["mother"], "--base", family["base"]]
    words += ["--out", str(tmp_path / "out"), "--probes", str(folder)]
    result = call(*words)
    assert result.exit_code == 0, result.output
    assert "mri_ratio" in result.stdout
    assert read_report(tmp_path / "out").settings.probes.keys() == {"SUMS"}
    again = call(*words, "--json", "--quiet")
    assert json.loads(again.stdout)["format"] == "mergekit-darwin/mds"


def test_command_reports_errors_in_one_line_with_exit_1(tmp_path: Path) -> None:
    result = call("no/such", str(tmp_path), "--out", str(tmp_path / "out"))
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: no/such")
    assert not (tmp_path / "out").exists()


def test_command_without_out_is_a_usage_error() -> None:
    assert call("a", "b").exit_code == 2


def test_help_loads_no_torch() -> None:
    code = (
        "import sys\n"
        "from mergekit_darwin.cli.scan import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "FATHER MOTHER" in run.stdout
