"""The proxy and the search: pure numbers, no models."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mergekit_darwin.kernel.profile import Profile
from mergekit_darwin.models.names import site_of, stack_depths
from mergekit_darwin.ratios.genome import extended_genes, make_genome
from mergekit_darwin.ratios.rules import prescribe
from mergekit_darwin.ratios.scores import report_scores
from mergekit_darwin.scan.report import (
    ModelReport,
    PairStatistics,
    ProbeSetting,
    Report,
    Settings,
)
from mergekit_darwin.search.breed import Belief, breed, krige, rank_correlation
from mergekit_darwin.search.cma import SearchSettings, maximise
from mergekit_darwin.search.landscape import (
    Landscape,
    applied,
    landscape,
    population_ratios,
)
from mergekit_darwin.search.proxy import (
    Anchors,
    anchor_coordinates,
    anchor_features,
    coordinates,
    features,
    fit,
    prior_weights,
)
from mergekit_darwin.search.space import Space, make_space

LAYERS = 8
LEAVES = (
    "self_attn.q_proj.weight",
    "self_attn.o_proj.weight",
    "mlp.up_proj.weight",
    "mlp.down_proj.weight",
    "input_layernorm.weight",
)
NAMES = [
    "model.embed_tokens.weight",
    *(f"model.layers.{i}.{leaf}" for i in range(LAYERS) for leaf in LEAVES),
    "model.norm.weight",
    "lm_head.weight",
]


def make_report(seed: int = 0, tasks: tuple[str, ...] = ("a", "b")) -> Report:
    """Return a made-up report over NAMES with gains for some tasks."""
    draw = np.random.RandomState(seed)

    def model(role: str) -> ModelReport:
        return ModelReport(
            model=role,
            digest=role,
            layers=LAYERS,
            stack="model.layers",
            tensors={
                name: Profile(
                    entropy=draw.uniform(0.5, 0.9),
                    std=draw.uniform(0.01, 0.2),
                    norm=draw.uniform(1, 50),
                    max_abs=1.0,
                    zeros=0,
                    numel=100,
                )
                for name in NAMES
            },
            probes={task: draw.uniform(0, 1, LAYERS).tolist() for task in tasks},
            gain={
                task: dict(zip(NAMES, draw.normal(0.2, 1, len(NAMES)), strict=True))
                for task in tasks
            },
        )

    return Report(
        settings=Settings(
            tokens=8,
            probes={t: ProbeSetting(digest="0", items=8, weight=0.5) for t in tasks},
        ),
        father=model("father"),
        mother=model("mother"),
        pair={
            name: PairStatistics(
                norm_father=draw.uniform(0.5, 2),
                norm_mother=draw.uniform(0.5, 2),
                cosine=0.0,
                opposite_signs=0.5,
            )
            for name in NAMES
        },
    )


ANCHORS = Anchors(
    base=np.array([0.3, 0.3]),
    father=np.array([0.7, 0.3]),
    mother=np.array([0.3, 0.6]),
    weights=np.array([0.5, 0.5]),
)


@pytest.mark.parametrize("mri", ["published", "relative", "attribution"])
def test_population_ratios_equal_prescribe_tensor_by_tensor(mri):
    report = make_report()
    land = landscape(report, mri, ["a", "b"], 6)
    space = make_space("extended", 6)
    points = np.random.RandomState(1).rand(7, len(space.genes))
    ratios = population_ratios(land, space.rows(points))
    scores = report_scores(report, mri)
    depths = stack_depths(NAMES)
    for i, point in enumerate(points):
        genome = space.decode(point)
        for j, name in enumerate(land.names):
            site = site_of(name)
            depth = depths.get(site.stack) if site.stack else None
            row = prescribe(site, genome, depth=depth, scores=scores[name])
            assert row.ratio == ratios[i, j]


def test_rows_hold_the_decoded_genome():
    space = make_space("published", 4)
    points = np.random.RandomState(2).rand(3, len(space.genes))
    known = [gene.name for gene in extended_genes(4)]
    for point, row in zip(points, space.rows(points), strict=True):
        assert dict(space.decode(point).values) == dict(zip(known, row, strict=True))


def test_encode_is_the_inverse_of_decode():
    space = make_space("extended", 6)
    genome = make_genome({"lambda": 1.5, "attn_ratio": 0.25, "density_a": 0.55})
    assert space.decode(space.encode(genome)) == genome


def whole(lam: float, ratio: float) -> np.ndarray:
    """Return the row of a genome without masks, election or trust in the scan."""
    genes = {g.name: ratio for g in extended_genes(6) if g.name.endswith("_ratio")}
    genes |= {"density_a": 1.0, "density_b": 1.0, "mri_trust": 0.0}
    genes |= {"merge_method_weight": 0.0, "lambda": lam}
    genome = make_genome(genes)
    return np.array([[genome[gene.name] for gene in extended_genes(6)]])


def test_lambda_two_at_one_half_applies_both_task_vectors_whole():
    part = applied(landscape(make_report(), "published", ["a", "b"], 6), whole(2, 0.5))
    assert np.allclose(part.father, 1.0) and np.allclose(part.mother, 1.0)
    assert not part.noise_father.any()


def test_transplants_ignore_lambda():
    land = landscape(make_report(), "published", ["a", "b"], 6)
    part = applied(land, whole(2.0, 0.0))
    assert np.array_equal(part.father, np.ones_like(part.father))
    assert not part.mother.any()


def test_a_transplanted_parent_is_predicted_at_its_own_score():
    land = landscape(make_report(), "published", ["a", "b"], 6)
    weights = prior_weights(ANCHORS)
    father = features(land, ANCHORS, whole(1.0, 0.0)) @ weights
    assert np.isclose(father[0], (ANCHORS.father * ANCHORS.weights).sum())
    rows = anchor_features(land, ANCHORS) @ weights
    assert np.allclose(rows, [0.3, 0.5, 0.45])


def test_fit_moves_the_weights_towards_what_was_measured():
    land = landscape(make_report(), "attribution", ["a", "b"], 6)
    space = make_space("extended", 6)
    rows = features(
        land, ANCHORS, space.rows(np.random.RandomState(3).rand(40, len(space.genes)))
    )
    truth = np.array([0.3, 1.7, -0.7, 1.0, -0.8, -0.5, 0.0])
    prior = prior_weights(ANCHORS)
    fitted = fit(rows, rows @ truth, prior, 0.01)
    before = np.abs(rows @ prior - rows @ truth).mean()
    assert np.abs(rows @ fitted - rows @ truth).mean() < 0.1 * before


def repeated(land: Landscape, times: int) -> Landscape:
    """Return a landscape of as many tensors as a large model has."""
    fields = ("component", "block", "mri", "masked", "gain_father", "gain_mother")
    fields += ("norm_father", "norm_mother")
    longer = {
        name: np.concatenate([getattr(land, name)] * times, axis=-1)
        for name in (*fields, "opposite")
    }
    return replace(land, **longer)


def test_two_hundred_proxy_steps_with_1188_tensors():
    report = make_report()
    land = landscape(report, "attribution", ["a", "b"], 6)
    land = repeated(land, -(-1188 // len(NAMES)))
    space = make_space("extended", 6)
    weights = prior_weights(ANCHORS)
    start = space.encode(make_genome({}))

    def value(points: np.ndarray) -> np.ndarray:
        return features(land, ANCHORS, space.rows(points)) @ weights

    _, score, steps = maximise(value, start, SearchSettings(proxy_steps=200), 0)
    assert steps >= 200
    assert score > value(start[None])[0]


def flat(points, scores):
    """Return a belief that knows nothing but what was measured near by."""
    mean = float(scores.mean()) if len(scores) else 0.0

    def trend(asked):
        return np.full(len(asked), mean)

    if not len(scores):
        return Belief(trend, trend)
    return krige(trend, np.asarray, points, scores - mean, noise=0.01, length=1.0)


def drive(space, options, objective):
    """Return the memory and all asked points of a whole search on an objective."""
    search = breed(space, flat, [np.full(len(space.genes), 0.5)], options)
    asked = []
    ask = next(search)
    while True:
        asked.extend(ask.points)
        try:
            ask = search.send([objective(point) for point in ask.points])
        except StopIteration as end:
            return end.value, np.array(asked)


def bowl(point):
    return -float(((point - 0.7) ** 2).sum())


def test_search_climbs_and_keeps_to_its_budget():
    space = make_space("extended", 6)
    options = SearchSettings(max_evaluations=40, patience=0)
    memory, asked = drive(space, options, bowl)
    assert len(asked) == 40
    assert memory.best() > bowl(asked[0])
    assert asked.min() >= 0.0 and asked.max() <= 1.0


def test_same_seed_asks_the_same_and_numpy_stays_untouched():
    space = make_space("extended", 6)
    options = SearchSettings(max_evaluations=16)
    np.random.seed(5)
    expected = np.random.rand(3)
    np.random.seed(5)
    _, first = drive(space, options, bowl)
    assert np.array_equal(np.random.rand(3), expected)
    np.random.rand(100)
    _, second = drive(space, options, bowl)
    assert np.array_equal(first, second)


def test_failures_do_not_end_the_search():
    space = make_space("extended", 6)
    options = SearchSettings(max_evaluations=20, patience=0)
    memory, asked = drive(space, options, lambda p: None if p[0] > 0.5 else bowl(p))
    assert len(asked) == 20
    assert None in memory.scores


def test_patience_stops_early():
    space = make_space("extended", 6)
    options = SearchSettings(max_evaluations=100, patience=2)
    _, asked = drive(space, options, lambda p: 0.0)
    assert len(asked) < 20


def test_kriging_meets_what_was_measured_and_doubts_what_is_far():
    points = np.array([[0.1, 0.1], [0.8, 0.4]])
    belief = krige(
        lambda asked: np.zeros(len(asked)),
        np.asarray,
        points,
        np.array([1.0, -1.0]),
        noise=1e-4,
        length=0.3,
    )
    assert np.allclose(belief.mean(points), [1.0, -1.0], atol=1e-3)
    assert belief.spread(points).max() < 1e-3
    assert belief.spread(np.array([[5.0, 5.0]]))[0] > 1.0


def test_coordinates_are_one_for_genomes_that_make_one_child():
    land = landscape(make_report(), "published", ["a", "b"], 6)
    left, right = whole(1.0, 0.5), whole(1.0, 0.5)
    trust = land.columns["mri_trust"]
    flat_land = replace(land, mri=np.full_like(land.mri, 0.5))
    right[0, trust] = 1.0
    assert np.allclose(coordinates(flat_land, left), coordinates(flat_land, right))
    assert np.allclose(coordinates(land, whole(1.0, 0.0)), anchor_coordinates(land)[1])
    assert np.allclose(coordinates(land, whole(1.0, 1.0)), anchor_coordinates(land)[2])


def test_rank_correlation_by_hand():
    assert rank_correlation([1, 2, 3], [10, 20, 30]) == pytest.approx(1.0)
    assert rank_correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1.0)
    assert rank_correlation([1, 1, 1], [1, 2, 3]) is None
    assert rank_correlation([1, 2], [1, 2]) is None
    assert isinstance(make_space("published", 6), Space)
