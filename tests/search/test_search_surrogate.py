"""The stand-in for the score: exact where gains add up, the forest's where they do not."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from nas import encoding
from nas.search.predictor import Forest
from nas.search.surrogate import Surrogate

FOREST = {"trees": 10, "max_depth": 8, "features": 1.0, "seed": 0}


@pytest.fixture(scope="module")
def gains(tiny_space) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [rng.normal(size=len(g.choices)) for g in tiny_space.genes]


@pytest.fixture(scope="module")
def additive(tiny_space, tiny_rows, gains) -> np.ndarray:
    places = encoding.indices(tiny_space, tiny_rows)
    return 70 + sum(g[column] for g, column in zip(gains, places.T))


def test_gains_that_add_up_are_learned_from_few(tiny_space, tiny_rows, additive):
    """From 400 of the 2304 to all of them, far better than by the forest alone."""
    known = np.random.default_rng(0).choice(len(tiny_rows), 400, replace=False)
    found, _ = Surrogate.fit(tiny_space, tiny_rows[known], additive[known], **FOREST).predict_with_spread(tiny_rows)
    forest = Forest.fit(tiny_rows[known], additive[known], **FOREST).predict(tiny_rows)
    off, forest_off = (np.sqrt(np.mean((p - additive) ** 2)) for p in (found, forest))
    assert off < 0.05 and forest_off > 10 * off


def test_it_is_ridge_regression_and_a_forest_on_what_that_leaves(tiny_space, tiny_rows, additive):
    """scikit-learn's Ridge on indicators of each step, its residuals to a Forest: the same predictions and spread."""
    rows, score = tiny_rows[::7], additive[::7] + np.random.default_rng(1).normal(size=len(tiny_rows[::7]))

    def steps(asked):
        return np.array([[value >= c for gene, value in zip(tiny_space.genes, row) for c in gene.choices[1:]] for row in asked], float)

    ridge = Ridge(alpha=1.0).fit(steps(rows), score)
    forest = Forest.fit(rows, np.round(score - ridge.predict(steps(rows)), 9), **FOREST)
    mean, spread = Surrogate.fit(tiny_space, rows, score, **FOREST).predict_with_spread(tiny_rows[:300])
    np.testing.assert_allclose(mean, ridge.predict(steps(tiny_rows[:300])) + forest.predict(tiny_rows[:300]), atol=1e-6)
    np.testing.assert_allclose(spread, forest.spread(tiny_rows[:300]), atol=1e-6)


def test_two_architectures_are_enough(tiny_space, tiny_rows):
    """The fewest that can be fitted: a prediction between the two scores for each of them."""
    mean, _ = Surrogate.fit(tiny_space, tiny_rows[[0, -1]], np.array([60.0, 80.0]), **FOREST).predict_with_spread(tiny_rows[[0, -1]])
    assert 55 < mean[0] < mean[1] < 85
