"""The surrogate, a Gaussian process, against its formula and SciPy's normal density."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import approx_fprime
from scipy.stats import multivariate_normal

from nas.search import surrogate
from nas.search.predictor import Forest
from nas.search.surrogate import Surrogate
from nas.spaces import encoding


@pytest.fixture(scope="module")
def gains(tiny_space) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [rng.normal(size=len(g.choices)) for g in tiny_space.genes]


@pytest.fixture(scope="module")
def additive(tiny_space, tiny_rows, gains) -> np.ndarray:
    places = encoding.indices(tiny_space, tiny_rows)
    return 70 + sum(g[column] for g, column in zip(gains, places.T))


def unit(space, rows) -> np.ndarray:
    """(n, genes) places from 0 to 1; 0 where there is no choice."""
    return encoding.indices(space, rows) / np.maximum([len(g.choices) - 1 for g in space.genes], 1)


def covariance(a, b, weights, share) -> np.ndarray:
    """The module's formula, word for word."""
    both = [[share * weights @ np.minimum(i, j) + np.exp(-weights @ np.abs(i - j)) for j in b] for i in a]
    return np.array(both)


def test_gains_that_add_up_are_learned_from_few(tiny_space, tiny_rows, additive):
    """From 100 of the 2304 to all of them, far better than by a forest."""
    known = np.random.default_rng(0).choice(len(tiny_rows), 100, replace=False)
    predicted, _ = Surrogate.fit(tiny_space, tiny_rows[known], additive[known], np.random.default_rng(0)).predict_with_std(tiny_rows)
    forest = Forest.fit(tiny_rows[known], additive[known], trees=50).predict(tiny_rows)
    off, forest_off = (np.sqrt(np.mean((p - additive) ** 2)) for p in (predicted, forest))
    assert off < 0.05 and forest_off > 10 * off


def test_genes_that_work_together_are_learned(tiny_space, tiny_rows):
    """A gain for the resolution only if the last stage is deep: on what was not seen the error is a tenth of the deviation."""
    places = unit(tiny_space, tiny_rows)
    score = 70 + 5 * places[:, 0] * places[:, 6] + places[:, 3]
    known = np.random.default_rng(1).choice(len(tiny_rows), 150, replace=False)
    predicted, _ = Surrogate.fit(tiny_space, tiny_rows[known], score[known], np.random.default_rng(0)).predict_with_std(tiny_rows)
    assert np.sqrt(np.mean((predicted - score) ** 2)) < 0.1 * score.std()


def test_it_is_the_posterior_of_the_formula(tiny_space, tiny_rows, additive):
    """Mean and deviation of Rasmussen and Williams' equations 2.25 and 2.26 with the learned weights, solved plainly."""
    rows, queries = tiny_rows[::29], tiny_rows[5::37]
    score = additive[::29] + np.random.default_rng(1).normal(0, 0.3, len(rows))
    model = Surrogate.fit(tiny_space, rows, score, np.random.default_rng(0))
    gene = np.repeat(np.arange(len(tiny_space.genes)), [len(g.choices) - 1 for g in tiny_space.genes])
    weights = np.bincount(gene, model.scale**2, len(tiny_space.genes))
    known = covariance(unit(tiny_space, rows), unit(tiny_space, rows), weights, model.share)
    noise = model.factor @ model.factor.T - known
    np.testing.assert_allclose(noise, noise[0, 0] * np.eye(len(rows)), atol=1e-9)
    assert noise[0, 0] > 1e-3
    known += noise
    between = covariance(unit(tiny_space, queries), unit(tiny_space, rows), weights, model.share)
    own = np.diag(covariance(unit(tiny_space, queries), unit(tiny_space, queries), weights, model.share))
    scaled = (score - score.mean()) / score.std()
    amplitude = scaled @ np.linalg.solve(known, scaled) / len(rows)
    variance = own - np.einsum("ij,ji->i", between, np.linalg.solve(known, between.T))
    mean, std = model.predict_with_std(queries)
    np.testing.assert_allclose(mean, score.mean() + score.std() * between @ np.linalg.solve(known, scaled), atol=1e-5)
    np.testing.assert_allclose(std, score.std() * np.sqrt(amplitude * variance), atol=1e-5)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10_000))
def test_the_likelihood_and_its_slope(tiny_space, tiny_rows, seed):
    """SciPy's density of a normal vector at the best amplitude, and finite differences of it."""
    rng = np.random.default_rng(seed)
    places = unit(tiny_space, tiny_rows[rng.choice(len(tiny_rows), 20, replace=False)])
    scores, logs = rng.normal(size=20), rng.normal(-1, 0.7, places.shape[1] + 2)
    first, second = np.triu_indices(20, 1)
    distances = np.abs(places[first] - places[second]).T

    def value(logs):
        return surrogate.negative_log_likelihood(places, distances, scores, logs)[0]

    weights, share, noise = np.exp(logs[:-2]), np.exp(logs[-2]), np.exp(logs[-1])
    whole = covariance(places, places, weights, share) + (noise + surrogate.JITTER) * np.eye(20)
    amplitude = scores @ np.linalg.solve(whole, scores) / 20
    density = multivariate_normal(np.zeros(20), amplitude * whole).logpdf(scores)
    assert value(logs) == pytest.approx(-density - 10 - 10 * np.log(2 * np.pi), abs=1e-6)
    slope = surrogate.negative_log_likelihood(places, distances, scores, logs)[1]
    np.testing.assert_allclose(slope, approx_fprime(logs, value, 1e-6), atol=1e-4)


def test_std_is_larger_far_from_the_data(tiny_space, tiny_rows, additive):
    """Fitted to small networks only, the standard deviation is near 0 for those and largest for the largest network."""
    small = np.argsort(unit(tiny_space, tiny_rows).sum(axis=1), kind="stable")[:100]
    model = Surrogate.fit(tiny_space, tiny_rows[small], additive[small], np.random.default_rng(0))
    _, seen = model.predict_with_std(tiny_rows[small])
    _, unknown = model.predict_with_std(encoding.to_genes([tiny_space.largest()]))
    assert unknown[0] > 10 * seen.max()


def test_two_architectures_are_enough(tiny_space, tiny_rows, rng):
    """The fewest that can be fitted: a prediction between the two scores for each of them."""
    model = Surrogate.fit(tiny_space, tiny_rows[[0, -1]], np.array([60.0, 80.0]), rng)
    mean, _ = model.predict_with_std(tiny_rows[[0, -1]])
    assert 55 < mean[0] < mean[1] < 85


def test_equal_scores_are_predicted_everywhere(tiny_space, tiny_rows, rng):
    """Constant scores are predicted as they are, with finite standard deviations."""
    mean, std = Surrogate.fit(tiny_space, tiny_rows[::50], np.full(len(tiny_rows[::50]), 70.0), rng).predict_with_std(tiny_rows)
    np.testing.assert_allclose(mean, 70.0)
    assert np.isfinite(std).all()
