"""From scores to ratios and routes."""

from __future__ import annotations

import math

import pytest

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.kernel.profile import Profile
from mergekit_darwin.models.names import site_of
from mergekit_darwin.ratios.genome import make_genome
from mergekit_darwin.ratios.rules import Routing, gene_terms, prescribe, spread_of
from mergekit_darwin.ratios.scores import (
    Scores,
    combined_terms,
    promise,
    published_scores,
    report_scores,
    share,
    total,
)
from mergekit_darwin.scan.report import (
    ModelReport,
    PairStatistics,
    ProbeSetting,
    Report,
    Settings,
)

Q3 = "model.layers.3.self_attn.q_proj.weight"
HEAD = "lm_head.weight"
SOME = Scores((1.0, 1.0), None, 0.5)


def profile(entropy: float) -> Profile:
    return Profile(entropy, 0.02, 30.0, 0.1, 0, 100)


def report(gain: bool = False) -> Report:
    """Return a report of two models with 4 layers, one probe, two tensors."""

    def model(name: str, entropy: float, distance: float, gains: float) -> ModelReport:
        return ModelReport(
            model=name,
            digest=name,
            layers=4,
            stack="model.layers",
            tensors={n: profile(entropy) for n in (Q3, HEAD)},
            probes={"CODE": [distance] * 4},
            gain={"CODE": {Q3: gains, HEAD: -1.0}} if gain else {},
        )

    return Report(
        settings=Settings(probes={"CODE": ProbeSetting(digest="d", items=8, weight=1)}),
        father=model("father", 0.8, 0.1, 1.0),
        mother=model("mother", 0.9, 0.3, 3.0),
        pair={
            Q3: PairStatistics(
                norm_father=1, norm_mother=1, cosine=0, opposite_signs=0.5
            )
        },
    )


def test_published_constants() -> None:
    assert profile(0.5).static == pytest.approx(0.3 * 0.5 + 0.2 * 0.02 + 0.002 * 30)
    both = total(combined_terms(0.5, 0.25))
    assert both == pytest.approx(0.4 * 0.5 + 0.6 * 0.25)
    assert total(combined_terms(0.5, None)) == 0.5
    assert (Routing().low, Routing().high) == (0.15, 0.85)


def test_ratio_is_the_mothers_share_and_half_where_both_are_zero() -> None:
    assert share(1.0, 3.0) == 0.75
    assert share(0.0, 0.0) == 0.5


def test_scores_of_a_layer_use_probes_and_those_outside_do_not() -> None:
    scores = report_scores(report(), "published")
    left = 0.4 * profile(0.8).static + 0.6 * 0.1
    right = 0.4 * profile(0.9).static + 0.6 * 0.3
    assert scores[Q3].mri_ratio == pytest.approx(right / (left + right))
    assert scores[Q3].probe == pytest.approx((0.1, 0.3))
    assert scores[HEAD].probe is None
    static = published_scores(profile(0.8), profile(0.9))
    assert scores[HEAD].mri_ratio == static.mri_ratio


def test_relative_uses_the_whole_range() -> None:
    scores = report_scores(report(), "relative")
    assert scores[Q3].mri_ratio > 0.7
    assert all(0.0 <= row.mri_ratio <= 1.0 for row in scores.values())


def test_attribution_is_the_share_of_positive_gains() -> None:
    scores = report_scores(report(gain=True), "attribution")
    assert scores[Q3].mri_ratio == pytest.approx(0.75)
    assert scores[HEAD].mri_ratio == 0.5


def test_attribution_takes_half_the_curvature_from_a_gain() -> None:
    found = report(gain=True)
    mother = found.mother.gain
    probe = next(iter(mother))
    curved = found.mother.model_copy(update={"curvature": {probe: {Q3: 2 * 0.9}}})
    left, right = (promise(model, probe, Q3) for model in (found.father, found.mother))
    assert promise(curved, probe, Q3) == pytest.approx(right - 0.9)
    scores = report_scores(found.model_copy(update={"mother": curved}), "attribution")
    assert scores[Q3].mri_ratio == pytest.approx(share(left, max(right - 0.9, 0.0)))


def test_attribution_without_gains_is_refused() -> None:
    with pytest.raises(DarwinError, match="--base"):
        report_scores(report(), "attribution")


def test_genome_ratio_is_the_mean_of_component_and_block() -> None:
    genome = make_genome({"attn_ratio": 0.2, "block_4_ratio": 0.6, "embed_ratio": 0.9})

    def genes(name: str, depth: int | None) -> float | None:
        site = site_of(name)
        return prescribe(site, genome, depth=depth, scores=SOME).genome_ratio

    assert genes(Q3, 4) == pytest.approx(0.5 * (0.2 + 0.5))
    assert genes(HEAD, None) == 0.9
    deep = "model.layers.45.self_attn.q_proj.weight"
    assert genes(deep, 60) == pytest.approx(0.4)
    names = [name for name, _, _ in gene_terms(site_of(deep), genome, 4)]
    assert names == ["attn_ratio", "block_4_ratio"]


def test_final_ratio_mixes_scan_and_genome_by_trust() -> None:
    genome = make_genome({"mri_trust": 0.25, "embed_ratio": 0.6})
    scores = Scores((0.1, 0.1), None, 0.2)
    row = prescribe(site_of(HEAD), genome, depth=None, scores=scores)
    assert row.ratio == pytest.approx(0.25 * 0.2 + 0.75 * 0.6)
    assert row.route == "blend"


def test_explicit_ratio_replaces_both() -> None:
    row = prescribe(
        site_of(HEAD), make_genome({}), depth=None, scores=None, explicit=0.9
    )
    assert (row.ratio, row.route, row.mri_ratio) == (0.9, "mother", None)


def test_routes_change_strictly_beyond_the_limits() -> None:
    routing = Routing()
    routes = [routing.route(r) for r in (0.1499, 0.15, 0.85, 0.8501)]
    assert routes == ["father", "blend", "blend", "mother"]
    off = Routing(0.0, 1.0)
    assert [off.route(r) for r in (0.0, 1.0)] == ["blend", "blend"]


def test_a_layer_of_unknown_depth_is_refused() -> None:
    with pytest.raises(DarwinError, match="number of layers"):
        prescribe(site_of(Q3), make_genome({}), depth=None, scores=SOME)


def test_published_optimum_by_hand() -> None:
    genome = make_genome(
        {"ffn_ratio": 0.9316, "block_5_ratio": 0.8583, "mri_trust": 0.3631}
    )
    site = site_of("model.language_model.layers.59.mlp.up_proj.weight")
    row = prescribe(site, genome, depth=60, scores=SOME)
    expected = 0.3631 * 0.5 + (1 - 0.3631) * (0.9316 + 0.8583) / 2
    assert math.isclose(row.ratio, expected)
    assert row.block == 5


def test_spread_is_the_width_and_warns_where_the_parents_are_alike() -> None:
    def rows(*ratios: float) -> list[Scores]:
        return [Scores((1.0, 1.0), None, ratio) for ratio in ratios]

    wide = spread_of(rows(0.4, 0.5, 0.9))
    assert wide is not None and wide.width == pytest.approx(0.5)
    assert wide.mean == pytest.approx(0.6) and wide.warning is None
    # nine of ten alike: their standard deviation is small, their width is not
    assert spread_of(rows(*[0.5] * 99, 0.511)).warning is None  # type: ignore[union-attr]
    alike = spread_of(rows(0.5, 0.505))
    assert alike is not None and "spreads over 0.0050 only" in str(alike.warning)
    assert spread_of([]) is None


def test_columns_are_those_of_the_format() -> None:
    scores = Scores((0.25, 0.5), (0.1, 0.3), 0.7)
    genome = make_genome({"attn_ratio": 0.2, "block_5_ratio": 0.4})
    row = prescribe(site_of(Q3), genome, depth=4, scores=scores, explicit=0.9)
    assert row.columns() == {
        "name": Q3,
        "stack": "model.layers",
        "layer": 3,
        "block": 3,
        "component": "attn",
        "static_father": 0.25,
        "static_mother": 0.5,
        "probe_father": 0.1,
        "probe_mother": 0.3,
        "mri_ratio": 0.7,
        "genome_ratio": pytest.approx(0.35),
        "ratio": 0.9,
        "route": "mother",
    }
