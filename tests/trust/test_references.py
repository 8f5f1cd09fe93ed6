"""Masks, profiles and rules against their definitions, on whatever is thought up."""

from __future__ import annotations

import hashlib
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mergekit_darwin.kernel.masks import (
    HALF,
    PAGE,
    STEPS,
    hash_page,
    keep_father,
    keep_mother,
    page_keys,
    threshold,
)
from mergekit_darwin.kernel.profile import Profile, profile_tensor
from mergekit_darwin.models.names import site_of
from mergekit_darwin.ratios.genome import make_genome
from mergekit_darwin.ratios.rules import final_terms, gene_terms
from mergekit_darwin.ratios.scores import (
    Mri,
    published_scores,
    report_scores,
    share,
    total,
)
from mergekit_darwin.scan.report import ModelReport, ProbeSetting, Report, Settings

_EXAMPLES = settings(max_examples=60, deadline=None, database=None, derandomize=True)
ROUNDED = 5e-12  # a profile keeps 12 digits
NAMES = (
    "lm_head.weight",
    "model.norm.weight",
    *(f"model.layers.{n}.mlp.up_proj.weight" for n in range(3)),
    *(f"model.layers.{n}.self_attn.q_proj.weight" for n in range(3)),
)
WORDS = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
SHARE = st.floats(0.0, 1.0)
PROFILE = st.builds(
    Profile, SHARE, st.floats(0, 10), st.floats(0, 1e4), SHARE, st.just(0), st.just(9)
)


def unsigned(words: torch.Tensor) -> list[int]:
    return [word % 2**32 for word in words.tolist()]


def defined_hash(seed: str, name: str, page: int, offset: int) -> int:
    """Return a hash in plain integers, as the head of kernel.masks defines it."""
    stem = f"{seed}\0{name}\0".encode() + page.to_bytes(8, "little")
    word = hashlib.blake2b(stem, digest_size=8).digest()
    a = int.from_bytes(word[:4], "little") | 1
    x = (offset + 0x9E3779B9) % 2**32
    x = (x ^ x >> 16) * 0x85EBCA6B % 2**32
    x = (x ^ x >> 13) * 0xC2B2AE35 % 2**32
    x = ((x ^ x >> 16) * a + int.from_bytes(word[4:], "little")) % 2**32
    signed = x - 2**32 if x >= 2**31 else x
    return (signed ^ signed >> 15) * 0x2C1B3C6D % 2**32


@_EXAMPLES
@given(WORDS, WORDS, st.integers(0, 2**40), st.integers(0, PAGE - 8), SHARE)
def test_a_mask_is_the_function_it_is_defined_as(
    seed: str, name: str, page: int, offset: int, density: float
) -> None:
    found = torch.empty(offset + 8, dtype=torch.int32)
    hash_page(page_keys(seed, name, page, 1)[0], found, torch.empty_like(found))
    expected = [defined_hash(seed, name, page, offset + i) for i in range(8)]
    assert unsigned(found[offset:]) == expected
    steps = min(max(threshold(density), 1), STEPS - 1)
    father, mother = torch.empty_like(found), torch.empty_like(found)
    keep_father(found, steps, father)
    keep_mother(found, steps, mother)
    kept = [-1 if (word >> 16 ^ HALF) < steps else 0 for word in expected]
    assert father[offset:].tolist() == kept
    kept = [-1 if (word % 2**16 ^ HALF) < steps else 0 for word in expected]
    assert mother[offset:].tolist() == kept


@_EXAMPLES
@given(
    st.sampled_from([torch.bfloat16, torch.float16]),
    st.lists(st.integers(-(2**15), 2**15 - 1), min_size=1, max_size=40),
)
def test_a_profile_is_what_float64_says_of_any_patterns(
    kind: torch.dtype, patterns: list[int]
) -> None:
    weights = torch.tensor(patterns, dtype=torch.int16).view(kind)
    found = profile_tensor(weights.reshape(1, -1))
    values = [float(value) for value in weights.double()]
    finite = [value for value in values if math.isfinite(value)]
    assert found.nan == sum(math.isnan(value) for value in values)
    assert found.inf == sum(math.isinf(value) for value in values)
    assert found.numel == len(values)
    assert found.zeros == finite.count(0.0)
    if not finite:
        return
    most = max(map(abs, finite))
    mean = math.fsum(finite) / len(finite)
    spread = math.fsum((value - mean) ** 2 for value in finite) / len(finite)
    norm = math.sqrt(math.fsum(value * value for value in finite))
    assert found.max_abs == most
    assert found.std == pytest.approx(math.sqrt(spread), rel=ROUNDED, abs=1e-300)
    assert found.norm == pytest.approx(norm, rel=ROUNDED, abs=1e-300)
    bins = [min(255, int((value / (most or 1.0) + 1.0) * 128)) for value in finite]
    shares = [bins.count(place) / len(bins) for place in set(bins)]
    bits = -math.fsum(part * math.log(part) for part in shares) / math.log(256)
    assert found.entropy == pytest.approx(bits if most else 0.0, rel=ROUNDED, abs=1e-15)


@_EXAMPLES
@given(st.floats(0, 1e300), st.floats(0, 1e300))
def test_a_share_is_the_mothers_part(father: float, mother: float) -> None:
    found = share(father, mother)
    assert 0.0 <= found <= 1.0
    assert found + share(mother, father) == pytest.approx(1.0, abs=1e-15)
    if father + mother > 0.0:
        assert found * (father + mother) == pytest.approx(mother, rel=1e-12)


@_EXAMPLES
@given(PROFILE, PROFILE, st.none() | st.tuples(st.floats(0, 2), st.floats(0, 2)))
def test_published_scores_are_the_published_sums(
    father: Profile, mother: Profile, probe: tuple[float, float] | None
) -> None:
    found = published_scores(father, mother, probe)
    static = [
        0.3 * one.entropy + 0.2 * one.std + 0.002 * min(one.norm, 100.0)
        for one in (father, mother)
    ]
    assert found.static == pytest.approx(static, rel=1e-12)
    if probe is not None:
        pairs = zip(static, probe, strict=True)
        static = [0.4 * left + 0.6 * right for left, right in pairs]
    both = static[0] + static[1]
    expected = static[1] / both if both > 0.0 else 0.5
    assert found.mri_ratio == pytest.approx(expected, rel=1e-12)


@st.composite
def reports(draw: st.DrawFn) -> Report:
    """Return a report of two models of three layers with one or two probes."""
    probes = draw(st.lists(st.sampled_from("ABC"), min_size=1, max_size=2, unique=True))

    def model(name: str) -> ModelReport:
        distances = st.lists(st.floats(0, 2), min_size=3, max_size=3)
        gains = st.fixed_dictionaries({n: st.floats(-9, 9) for n in NAMES})
        return ModelReport(
            model=name,
            digest="0" * 16,
            layers=3,
            stack="model.layers",
            tensors={n: draw(PROFILE) for n in NAMES},
            probes={probe: draw(distances) for probe in probes},
            gain={probe: draw(gains) for probe in probes},
        )

    setting = ProbeSetting(digest="d", items=1, weight=1 / len(probes))
    found = Settings(probes=dict.fromkeys(probes, setting))
    return Report(settings=found, father=model("f"), mother=model("m"))


@pytest.mark.parametrize("mri", ["published", "relative", "attribution"])
def test_parents_changed_about_give_the_other_share(mri: Mri) -> None:
    @_EXAMPLES
    @given(reports())
    def attempt(report: Report) -> None:
        found = report_scores(report, mri)
        about = report.model_copy(
            update={"father": report.mother, "mother": report.father}
        )
        other = report_scores(about, mri)
        for name in NAMES:
            assert 0.0 <= found[name].mri_ratio <= 1.0
            both = found[name].mri_ratio + other[name].mri_ratio
            assert both == pytest.approx(1.0, abs=1e-12)

    attempt()


@_EXAMPLES
@given(SHARE, SHARE, SHARE, SHARE, st.sampled_from(NAMES))
def test_a_final_ratio_lies_between_what_scan_and_genome_say(
    mri: float, attention: float, block: float, trust: float, name: str
) -> None:
    genes = {"attn_ratio": attention, "ffn_ratio": attention, "block_0_ratio": block}
    genome = make_genome({**genes, "mri_trust": trust}, 3)
    genes_say = total(gene_terms(site_of(name), genome, 0 if ".0." in name else None))
    found = total(final_terms(mri, genes_say, trust))
    slack = 1e-12
    assert min(mri, genes_say) - slack <= found <= max(mri, genes_say) + slack
    if ".0." in name:
        assert genes_say == pytest.approx((attention + block) / 2, abs=slack)
