"""A stand-in for the score, from what has been evaluated: a Gaussian process that learns how much each gene matters.

With i_g the place of architecture i's choice among those of gene g, from 0 to 1, two architectures covary (Rasmussen and
Williams, Gaussian Processes for Machine Learning, 2006, sections 2.2 and 5.4) as

    amplitude ( share sum_g w_g min(i_g, j_g) + exp(-sum_g w_g |i_g - j_g|) + noise [i = j] )

The sum is a gain for each step from one choice of a gene to the next, whatever the other genes are; the exponential is
what depends on several genes at once, with steps and kinks rather than curves. The weights w, share and noise are the
most probable ones (`_learn`).

A forest, AttentiveNAS' predictor (arXiv:2011.09011, section 4.3), says little about what it has not seen, which is where
a search wants to go. `python -m benchmarks.search` shows what the process finds, on oracles that are forests too.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize
from scipy.spatial.distance import squareform

from nas.spaces import encoding
from nas.spaces.mbconv import SearchSpace

LEARNED_FROM = 256  # architectures drawn for `_learn`, which has few numbers to find; the covariance takes them all
ITERATIONS = 12  # of it; more change no prediction by much
JITTER = 1e-8  # keeps the covariance of equal rows invertible
# median, and standard deviation of the logarithm, before anything is known:
WEIGHT = (2.0, 1.0)  # all genes together
SHARE = (1.0, 2.0)
NOISE = (0.01, 3.0)


@dataclass(frozen=True, eq=False)
class Surrogate:
    """Predicted score = mean + deviation * covariance with what was evaluated @ solved."""

    space: SearchSpace
    scale: np.ndarray  # (steps,) root of a step's weight
    share: float
    amplitude: float  # in units of deviation^2
    mean: float  # of the scores
    deviation: float  # of the scores
    known: np.ndarray  # (n, steps) what was evaluated
    factor: np.ndarray  # (n, n) lower triangular, of the covariance of what was evaluated
    solved: np.ndarray  # (n,)

    @classmethod
    def fit(cls, space: SearchSpace, rows: np.ndarray, score: np.ndarray, rng: np.random.Generator) -> Self:
        """Fit to evaluated architectures, O(n^3).

        Args:
            space: that they are of.
            rows: (n, genes), n >= 2.
            score: (n,).
            rng: picks those that the weights are learned from.
        """
        mean, deviation = float(score.mean()), float(score.std()) or 1.0
        scores = (score - mean) / deviation
        last = np.maximum([len(gene.choices) - 1 for gene in space.genes], 1)
        some = rng.permutation(len(rows))[:LEARNED_FROM]
        weights, share, noise = _learn(encoding.indices(space, rows[some]) / last, scores[some])
        scale = np.sqrt(weights / last)[_steps(space)[0]]
        known = _taken(space, rows) * scale
        factor = np.linalg.cholesky(_covariance(known, known, share) + (noise + JITTER) * np.eye(len(rows)))
        solved = cho_solve((factor, True), scores)
        return cls(space, scale, share, float(scores @ solved / len(rows)), mean, deviation, known, factor, solved)

    def predict_with_spread(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n, genes) -> (n,) predicted scores, and (n,) how far off they may be, one standard deviation, without the noise."""
        asked = _taken(self.space, rows) * self.scale
        covariance = _covariance(asked, self.known, self.share)
        explained = solve_triangular(self.factor, covariance.T, lower=True, check_finite=False)
        left = self.share * np.sum(asked**2, axis=1) + 1 - np.sum(explained**2, axis=0)
        off = np.sqrt(self.amplitude * np.maximum(left, 0.0))
        # the last bits, which differ between machines, decide nothing
        mean, off = np.round(covariance @ self.solved, 6), np.round(off, 6)
        return self.mean + self.deviation * mean, self.deviation * off


def _steps(space: SearchSpace) -> tuple[np.ndarray, np.ndarray]:
    """(steps,) gene of each step from a choice to the next, and (steps,) the place that it leads to."""
    sizes = np.array([len(gene.choices) - 1 for gene in space.genes])
    return np.repeat(np.arange(len(sizes)), sizes), np.concatenate([np.arange(1, size + 1) for size in sizes])


def _taken(space: SearchSpace, rows: np.ndarray) -> np.ndarray:
    """(n, genes) -> (n, steps) 1.0 for each step up from a gene's first choice that a row has taken."""
    gene, place = _steps(space)
    return (encoding.indices(space, rows)[:, gene] >= place).astype(np.float64)


def _covariance(a: np.ndarray, b: np.ndarray, share: float) -> np.ndarray:
    """(n, steps) and (m, steps), scaled -> (n, m) without amplitude and noise: the steps that both took, and those that one did."""
    both = a @ b.T
    apart = np.sum(a**2, axis=1)[:, None] + np.sum(b**2, axis=1) - 2 * both
    return share * both + np.exp(-apart)


def _learn(places: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, float, float]:
    """The most probable weights (genes,), share and noise for places (n, genes) from 0 to 1 and standardised scores (n,)."""
    genes = places.shape[1]
    (weight, *medians), loose = zip(WEIGHT, SHARE, NOISE)
    expected = np.log([weight / genes] * genes + medians)
    deviation = np.array([loose[0]] * genes + list(loose[1:]))
    first, second = np.triu_indices(len(places), 1)
    apart = np.abs(places[first] - places[second]).T.copy()

    def loss(logs: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = negative_log_likelihood(places, apart, scores, logs)
        off = (logs - expected) / deviation
        return value + 0.5 * float(off @ off), slope + off / deviation

    found = minimize(loss, expected, jac=True, method="L-BFGS-B", bounds=[(-16, 6)] * len(expected), options={"maxiter": ITERATIONS}).x
    *weights, share, noise = np.exp(np.round(found, 3))  # as coarse as that no solver's last bits remain
    return np.array(weights), float(share), float(noise)


def negative_log_likelihood(places: np.ndarray, apart: np.ndarray, scores: np.ndarray, logs: np.ndarray) -> tuple[float, np.ndarray]:
    """Minus the log likelihood of the scores but for a constant, at the best amplitude, and its slope.

    Args:
        places: (n, genes).
        apart: (genes, pairs) differences of the places, pairs i < j in order.
        scores: (n,).
        logs: (genes + 2,) logarithms of weights, share and noise.
    """
    n, weights, share, noise = len(scores), np.exp(logs[:-2]), np.exp(logs[-2]), np.exp(logs[-1])
    far = squareform(weights @ apart)
    high = places @ weights
    both, near = (high[:, None] + high - far) / 2, np.exp(-far)  # min(i, j) = (i + j - |i - j|) / 2
    factor = cho_factor(share * both + near + (noise + JITTER) * np.eye(n), lower=True)
    inverse = cho_solve(factor, np.eye(n))
    solved = inverse @ scores
    fit = max(float(scores @ solved), 1e-12)  # 0 if all scores are equal
    slope = 0.5 * (inverse - np.outer(solved, solved) * (n / fit))  # of the value by each covariance
    pairs = squareform(slope * (share + 2 * near), checks=False)
    by_weight = weights * (share * places.T @ slope.sum(axis=1) - apart @ pairs)
    by_rest = [share * np.sum(slope * both), noise * np.trace(slope)]
    return 0.5 * n * np.log(fit / n) + float(np.log(np.diag(factor[0])).sum()), np.append(by_weight, by_rest)
