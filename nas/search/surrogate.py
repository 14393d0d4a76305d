"""The surrogate of Bayesian search: a Gaussian process from genes to score that learns a weight for each gene.

With i_g the position of architecture i's choice among those of gene g, scaled to [0, 1], the covariance of two
architectures is (Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, sections 2.2 and 5.4)

    amplitude ( share sum_g w_g min(i_g, j_g) + exp(-sum_g w_g |i_g - j_g|) + noise [i = j] )

The sum models a gain for each step from one choice of a gene to the next, independent of the other genes; the exponential
models interactions of several genes, with steps and kinks rather than smooth curves. The weights w, share and noise are
maximum a posteriori estimates (`_fit_hyperparameters`).

AttentiveNAS' predictor, a random forest (arXiv:2011.09011, section 4.3), extrapolates poorly, and a search needs
predictions where nothing was evaluated yet. `python -m benchmarks.search` measures the search, on oracles that are forests too.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize
from scipy.spatial.distance import squareform

from nas.search.problem import Space
from nas.spaces import encoding

FITTED = 256  # architectures drawn to fit the hyperparameters, which are few; the covariance uses all
ITERATIONS = 12  # of L-BFGS-B; more change no prediction by much
JITTER = 1e-8  # keeps the covariance of equal rows invertible
# log-normal priors: median, and standard deviation of the logarithm
WEIGHT_PRIOR = (2.0, 1.0)  # all genes together
SHARE_PRIOR = (1.0, 2.0)
NOISE_PRIOR = (0.01, 3.0)


@dataclass(frozen=True, eq=False)
class Surrogate:
    """Predicted score = mean + std * covariance with the training rows @ solved."""

    space: Space
    scale: np.ndarray  # (steps,) square root of a step's weight
    share: float
    amplitude: float  # in units of std^2
    mean: float  # of the scores
    std: float  # of the scores
    features: np.ndarray  # (n, steps) of the training rows, scaled
    factor: np.ndarray  # (n, n) lower Cholesky factor of the training covariance
    solved: np.ndarray  # (n,) training covariance^-1 @ standardised scores

    @classmethod
    def fit(cls, space: Space, rows: np.ndarray, score: np.ndarray, rng: np.random.Generator) -> Self:
        """Fit to evaluated architectures, O(n^3).

        Args:
            space: space of the architectures.
            rows: (n, genes), n >= 2.
            score: (n,).
            rng: draws the rows that the hyperparameters are fitted to.
        """
        mean, std = float(score.mean()), float(score.std()) or 1.0
        scores = (score - mean) / std
        last = np.maximum([len(gene.choices) - 1 for gene in space.genes], 1)
        some = rng.permutation(len(rows))[:FITTED]
        weights, share, noise = _fit_hyperparameters(encoding.indices(space, rows[some]) / last, scores[some])
        scale = np.sqrt(weights / last)[_steps(space)[0]]
        features = _step_features(space, rows) * scale
        factor = np.linalg.cholesky(_covariance(features, features, share) + (noise + JITTER) * np.eye(len(rows)))
        solved = cho_solve((factor, True), scores)
        return cls(space, scale, share, float(scores @ solved / len(rows)), mean, std, features, factor, solved)

    def predict_with_std(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n, genes) -> (n,) predicted scores and (n,) their standard deviations, without the noise."""
        features = _step_features(self.space, rows) * self.scale
        covariance = _covariance(features, self.features, self.share)
        explained = solve_triangular(self.factor, covariance.T, lower=True, check_finite=False)
        variance = self.share * np.sum(features**2, axis=1) + 1 - np.sum(explained**2, axis=0)
        std = np.sqrt(self.amplitude * np.maximum(variance, 0.0))
        # rounded, because the last bits differ between machines
        mean, std = np.round(covariance @ self.solved, 6), np.round(std, 6)
        return self.mean + self.std * mean, self.std * std


def _steps(space: Space) -> tuple[np.ndarray, np.ndarray]:
    """(steps,) gene of each step from one choice to the next, and (steps,) index of the choice that it leads to."""
    sizes = np.array([len(gene.choices) - 1 for gene in space.genes])
    return np.repeat(np.arange(len(sizes)), sizes), np.concatenate([np.arange(1, size + 1) for size in sizes])


def _step_features(space: Space, rows: np.ndarray) -> np.ndarray:
    """(n, genes) -> (n, steps) 1.0 for each step up from a gene's first choice to the row's choice (thermometer code)."""
    gene, index = _steps(space)
    return (encoding.indices(space, rows)[:, gene] >= index).astype(np.float64)


def _covariance(a: np.ndarray, b: np.ndarray, share: float) -> np.ndarray:
    """(n, steps) and (m, steps), scaled -> (n, m) without amplitude and noise."""
    both = a @ b.T
    distance = np.sum(a**2, axis=1)[:, None] + np.sum(b**2, axis=1) - 2 * both
    return share * both + np.exp(-distance)


def _fit_hyperparameters(places: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Maximum a posteriori weights (genes,), share and noise for positions (n, genes) in [0, 1] and standardised scores (n,)."""
    genes = places.shape[1]
    (weight, *medians), deviations = zip(WEIGHT_PRIOR, SHARE_PRIOR, NOISE_PRIOR)
    expected = np.log([weight / genes] * genes + medians)
    std = np.array([deviations[0]] * genes + list(deviations[1:]))
    first, second = np.triu_indices(len(places), 1)
    distances = np.abs(places[first] - places[second]).T.copy()

    def loss(logs: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = negative_log_likelihood(places, distances, scores, logs)
        z = (logs - expected) / std
        return value + 0.5 * float(z @ z), slope + z / std

    fitted = minimize(loss, expected, jac=True, method="L-BFGS-B", bounds=[(-16, 6)] * len(expected), options={"maxiter": ITERATIONS}).x
    *weights, share, noise = np.exp(np.round(fitted, 3))  # rounded, so that the solver's last bits do not matter
    return np.array(weights), float(share), float(noise)


def negative_log_likelihood(places: np.ndarray, distances: np.ndarray, scores: np.ndarray, logs: np.ndarray) -> tuple[float, np.ndarray]:
    """Negative log likelihood of the scores up to a constant, at the best amplitude, and its gradient.

    Args:
        places: (n, genes) positions in [0, 1].
        distances: (genes, pairs) differences of the positions, pairs i < j in order.
        scores: (n,).
        logs: (genes + 2,) logarithms of weights, share and noise.
    """
    n, weights, share, noise = len(scores), np.exp(logs[:-2]), np.exp(logs[-2]), np.exp(logs[-1])
    distance = squareform(weights @ distances)
    high = places @ weights
    both, near = (high[:, None] + high - distance) / 2, np.exp(-distance)  # min(i, j) = (i + j - |i - j|) / 2
    factor = cho_factor(share * both + near + (noise + JITTER) * np.eye(n), lower=True)
    inverse = cho_solve(factor, np.eye(n))
    solved = inverse @ scores
    fit = max(float(scores @ solved), 1e-12)  # 0 if all scores are equal
    slope = 0.5 * (inverse - np.outer(solved, solved) * (n / fit))  # of the value by each covariance
    pairs = squareform(slope * (share + 2 * near), checks=False)
    by_weight = weights * (share * places.T @ slope.sum(axis=1) - distances @ pairs)
    by_rest = [share * np.sum(slope * both), noise * np.trace(slope)]
    return 0.5 * n * np.log(fit / n) + float(np.log(np.diag(factor[0])).sum()), np.append(by_weight, by_rest)
