"""Relaxed architectures: probabilities of every choice, whose expected latency is bilinear in the two kinds of choices.

    LAT(alpha, beta) = fixed + sum_sb kappa_sb sum_c alpha_sbc t_sbc,   kappa_sb = sum_{d >= b} beta_sd

HardCoRe-NAS (arXiv:2102.11646), section 3.2. alpha are the probabilities of a block's configurations, beta those of a
stage's depths, kappa the probability that a block runs, t the measured milliseconds of a block. With alpha and beta
independent this is the expected latency; at a discrete architecture it is the sum of its table entries.

The search starts at an even relaxed architecture (Appendix E), since a choice that is never drawn never gets a gradient. The
paper alternates between two quadratic programmes (Equation 26). Here it is the distribution over architectures of largest
entropy, relative to drawing depths, then configurations, uniformly, among those whose expected latency is within the target.
By the chain of blocks it is a product of alpha and beta, with one Lagrange multiplier:

    alpha_sbc ~ exp(-lambda t_sbc),   beta_sd ~ prod_{b <= d} mean_c exp(-lambda t_sbc)

The optimum is the root of one decreasing function, in milliseconds, and no probability is 0. The quadratic programmes, beta
first, spend a tight target on depths only. A start at the target itself leaves Frank-Wolfe no room: alpha can change only
against alpha, beta only against beta. So the start uses a share of the way from the fastest network to the target.
`benchmarks/hardcore_nas.py` compares the starts on losses that are additive over blocks.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp, softmax

from nas.cost.latency_hardcore_nas import ExpectedLatency, block_probability
from nas.spaces.hardcore_nas import Arch

BISECTIONS = 60
MULTIPLIER_EXPONENTS = 60  # 1, 2, 4, ... 2**59 per ms; beyond, exp is 0 for everything slower than the fastest


@dataclass(frozen=True, eq=False)
class RelaxedArch:
    """Independent distributions over the configurations of every block and the depths of every stage; gradients have its shape."""

    alpha: np.ndarray  # (stages, blocks, configurations)
    beta: np.ndarray  # (stages, blocks): of depths 1, 2, ...

    @property
    def kappa(self) -> np.ndarray:
        """(stages, blocks) probability that a block runs; exactly 0 where no depth that has it is possible."""
        return block_probability(self.beta)


def one_hot(latency: ExpectedLatency, arch: Arch) -> RelaxedArch:
    """The architecture with probability 1; blocks beyond the depth have their first configuration."""
    alpha, beta = np.zeros(latency.blocks_ms.shape), np.zeros(latency.offered.shape)
    alpha[:, :, 0] = 1
    for s, stage in enumerate(arch):
        beta[s, len(stage) - 1] = 1
        alpha[s, : len(stage)] = 0
        alpha[s, range(len(stage)), stage] = 1
    return RelaxedArch(alpha, beta)


def discretize(relaxed: RelaxedArch) -> Arch:
    """The architecture of the largest probabilities; of a one-hot one, the architecture itself."""
    depths = 1 + relaxed.beta.argmax(1)
    return Arch(tuple(alpha[:depth].argmax(1).tolist()) for alpha, depth in zip(relaxed.alpha, depths))


def sample_one_hot(relaxed: RelaxedArch, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One-hot samples, float32: (n, stages, blocks, configurations) and (n, stages, blocks) of depths 1, 2, ..."""
    return _one_hot_samples(relaxed.alpha, n, rng), _one_hot_samples(relaxed.beta, n, rng)


def _one_hot_samples(probabilities: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """(..., choices) -> (n, ..., choices) by the inverse distribution function; a choice of probability 0 is never drawn."""
    sums = probabilities.cumsum(-1)
    index = (rng.random((n, *sums.shape[:-1], 1)) >= sums / sums[..., -1:]).sum(-1)
    return np.eye(sums.shape[-1], dtype=np.float32)[index]


def fastest(latency: ExpectedLatency) -> RelaxedArch:
    """The fastest architecture with probability 1 (Equation 25)."""
    depths = np.where(latency.offered, latency.blocks_ms.min(2).cumsum(1), np.inf).argmin(1)
    return one_hot(latency, Arch(tuple(row[: 1 + depth].tolist()) for row, depth in zip(latency.blocks_ms.argmin(2), depths)))


def max_entropy_start(latency: ExpectedLatency, target_ms: float, share: float) -> RelaxedArch:
    """The relaxed architecture of largest entropy within a share of the way from the fastest network to the target.

    Args:
        share: 0 is the fastest architecture, 1 uses the whole target.

    Raises:
        InfeasibleTarget: if no network is as fast as the target.
    """
    low_ms, _ = latency.range_ms
    limit_ms = low_ms + share * (latency.check(target_ms) - low_ms)

    def within(multiplier: float) -> bool:
        return latency(max_entropy(latency, multiplier)) <= limit_ms

    if within(0):
        return max_entropy(latency, 0)
    high = next(filter(within, 2.0 ** np.arange(MULTIPLIER_EXPONENTS)), None)
    if high is None:  # only the fastest architecture is
        return fastest(latency)
    low = 0.0 if high == 1 else high / 2
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if within(middle) else (middle, high)
    return max_entropy(latency, high)


def max_entropy(latency: ExpectedLatency, multiplier: float) -> RelaxedArch:
    """The product above with this Lagrange multiplier, 1 / ms."""
    exponents = -multiplier * latency.blocks_ms
    means = logsumexp(exponents, axis=2) - np.log(exponents.shape[2])
    depths = np.where(latency.offered, means.cumsum(1), -np.inf)
    return RelaxedArch(softmax(exponents, axis=2), softmax(depths, axis=1))
