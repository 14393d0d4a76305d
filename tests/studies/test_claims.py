"""The claim framework: statistics against scipy, verdicts of comparisons, checks and claims, and the page."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from nas.stages.runner import Pipeline
from studies.claims import (
    INCONCLUSIVE,
    NOT_RUN,
    NOT_SUPPORTED,
    POINTS,
    SUPPORTED,
    Check,
    Claim,
    Comparison,
    Page,
    chance_of_verdict,
    claim_rows,
    latency_checks,
    paired,
    verdict,
    verdict_counts,
)


def comparison(*differences: float) -> Comparison:
    """A is the differences, B is zero."""
    n = len(differences)
    return Comparison("a over b", POINTS, tuple(range(n)), differences, (0.0,) * n)


def test_the_standard_error_is_scipys():
    """Of 0.1, 0.4, 0.7: mean 0.4, sd 0.3, so 0.3 / sqrt(3); stats.sem says the same."""
    c = comparison(0.1, 0.4, 0.7)
    assert c.mean == pytest.approx(0.4)
    assert c.standard_error == pytest.approx(0.3 / 3**0.5) == pytest.approx(stats.sem([0.1, 0.4, 0.7]))


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ((1.0, 1.5, 2.0), SUPPORTED),  # mean 1.5, se 0.29
        ((-1.0, -1.5, -2.0), NOT_SUPPORTED),
        ((0.0, 0.5, 1.0), INCONCLUSIVE),  # mean 0.5 under 2 * 0.289
        ((-1.0, 0.0, 1.0), INCONCLUSIVE),
        ((0.0, 2.0, 4.0, 2.0), SUPPORTED),  # mean 2, se 0.816
        ((0.5, 0.5, 0.5), SUPPORTED),  # no spread at all
        ((0.0, 0.0, 0.0), INCONCLUSIVE),  # nothing differs
        ((3.0,), INCONCLUSIVE),  # one seed
        ((1.0, 3.0), SUPPORTED),  # mean 2 is just two standard errors of 1: not under two
    ],
)
def test_a_verdict_needs_two_standard_errors(differences, verdict):
    """Inconclusive if the mean is under two of them, nothing differs, or there is one pair."""
    assert comparison(*differences).verdict == verdict


def test_a_claim_counts_where_its_comparisons_disagree():
    """Three of six are supported, two inconclusive, one not supported; equal verdicts give one word; without parts it is not run."""
    up, down, flat = comparison(1, 1, 1), comparison(-1, -1, -1), comparison(-1, 0, 1)
    claim = Claim("k", "s", "t", "j", (up, up, flat, down, flat, up))
    assert claim.verdict == "supported in 3 of 6, inconclusive in 2, not supported in 1"
    assert Claim("k", "s", "t", "j", (down, flat)).verdict == "inconclusive in 1 of 2, not supported in 1"
    assert [Claim("k", "s", "t", "j", some).verdict for some in ((up, up), (down,), (flat,), ())] == [
        SUPPORTED,
        NOT_SUPPORTED,
        INCONCLUSIVE,
        NOT_RUN,
    ]


def test_noise_is_decided_as_often_as_stated():
    """100,000 triples of normal noise: about 18 % lie two standard errors or more from zero."""
    noise = np.random.default_rng(3).normal(size=(100_000, 3))
    passed = np.abs(noise.mean(axis=1)) >= 2 * stats.sem(noise, axis=1)
    assert chance_of_verdict(3) == pytest.approx(passed.mean(), abs=0.005)


@pytest.mark.parametrize(
    ("amount", "uncertainty", "expected"),
    [
        (0.009, 0.0, SUPPORTED),
        (0.009, 0.001, SUPPORTED),
        (0.009, 0.002, INCONCLUSIVE),
        (0.011, 0.002, INCONCLUSIVE),
        (0.012, 0.001, NOT_SUPPORTED),
        (float("nan"), 0, INCONCLUSIVE),
    ],
)
def test_a_check_is_decided_if_its_limit_is_outside_the_uncertainty(amount, uncertainty, expected):
    """The amount lies on one side of the limit with all of its uncertainty; a reason makes it inconclusive."""
    assert Check("it", amount, 0.01, uncertainty).verdict == expected
    assert Check("it", amount, 0.01, uncertainty, "bound").verdict == INCONCLUSIVE


@pytest.mark.parametrize(("margin", "uncertainty"), [(0.0, 0.0), (1.0, float("nan")), (float("nan"), 1.0), (float("inf"), 1.0), (1.0, 2.0)])
def test_a_margin_without_evidence_is_inconclusive(margin, uncertainty):
    """Zero, NaN, infinite, or smaller than its uncertainty."""
    assert verdict(margin, uncertainty) == verdict(-margin, uncertainty) == INCONCLUSIVE


def test_pairs_are_rows_of_the_same_index():
    """Of seeds 0, 1, 2 and 1, 2, 3 the common ones are two pairs, numbered from 1."""
    a, b = pd.Series([1.0, 2.0, 3.0], [0, 1, 2]), pd.Series([1.0, 1.0, 1.0], [1, 2, 3])
    assert paired("a over b", POINTS, a, b) == Comparison("a over b", POINTS, (1, 2), (2.0, 3.0), (1.0, 1.0))


def test_latency_checks_compare_the_measurement_with_the_table():
    """10.5 ms for 10 ms deviates by 5 %, as does 9.5 ms."""
    rows = pd.DataFrame({"measured_latency_ms": [10.5, 9.5], "table_latency_ms": 10.0, "noise_floor": 0.001})
    checks = latency_checks(rows, ["slow", "fast"], 0.02)
    assert [c.amount for c in checks] == pytest.approx([0.05, 0.05]) and {c.verdict for c in checks} == {NOT_SUPPORTED}


CLAIMS = [
    Claim("one, of two", "paper", "It is so.", "By test.", (comparison(1, 1, 1), Check("c", 0.5, 0.1)), figure="figure_1"),
    Claim("another", "paper", "It is so too.", "By test.", (Check("d", 0.05, 0.1, reason="a bound"),), figure="figure_1"),
    Claim("a third", "paper", "It is not.", "By test.", ()),
]


def test_claims_are_counted_and_listed_by_part():
    """Three parts: one supported, one not, one inconclusive; a check's difference is amount minus limit."""
    assert verdict_counts(CLAIMS) == {"supported": 1, "not_supported": 1, "inconclusive": 1}
    rows = claim_rows(CLAIMS)
    assert rows["verdict"].tolist() == [SUPPORTED, NOT_SUPPORTED, INCONCLUSIVE]
    assert rows["difference"].tolist() == pytest.approx([1, 0.4, -0.05]) and rows["unit"].tolist() == [POINTS, "fraction", "fraction"]


def test_the_page_shows_a_figure_once_and_links_to_it_later():
    """The first claim with parts shows it, the next one links; a claim without parts says so."""
    text = Page(Pipeline(Path("studies/tf_nas_claims")), "Title", "Introduction.", {"seeds": "five"}, ["a limit"]).text(
        CLAIMS, {"seeds": [0, 1]}
    )
    address = "(../studies/tf_nas_claims/outputs/report/figure_1.png)"
    assert text.count(f"![Figure 1]{address}") == 1 and f"[Figure 1]{address}, shown above." in text
    assert "[One, of two](#one-of-two)" in text and "| seeds | 0, 1 | five |" in text
    assert "None of the runs" in text.split("### A third")[1] and "inconclusive: a bound" in text
