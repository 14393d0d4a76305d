"""Where the search starts: every network possible, as evenly as the target latency allows.

HardCoRe-NAS (arXiv:2102.11646), Appendix E, asks for the point nearest to the uniform one, since what is never drawn never
gets a gradient. The paper alternates between two quadratic programmes (Equation 26). Here it is the distribution over networks
with the largest entropy, relative to drawing depths, then configurations, uniformly, among those whose expected latency is
within the target. By the chain of blocks that is a product of the same kind as a point, with one multiplier for all of it:

    alpha_sbc ~ exp(-lambda t_sbc),   beta_sd ~ prod_{b <= d} mean_c exp(-lambda t_sbc)

so the optimum of both kinds of choices at once is the root of one falling function, in milliseconds, and no probability is
0. The quadratic programmes, beta first, spend a tight target on depths alone.

A start at the target itself leaves Frank-Wolfe no room: alpha can change only against alpha, beta only against beta. So the
search starts at the most even point within a share of the way from the fastest network to the target; 0 is the fastest
network, 1 the whole target. `benchmarks/hardcore_nas.py` measures the starts side by side, on losses that add up over blocks:
there a gradient tells all about a block whatever is drawn, and the fastest network is a start as good as any.
"""

import numpy as np
from scipy.special import logsumexp, softmax

from nas.cost.latency_hardcore_nas import Latency
from nas.differentiable.hardcore_nas.relaxed import Point, one_hot
from nas.spaces.hardcore_nas import Arch

HALVINGS = 60
STEEPEST = 60  # a power of two: beyond, exp is 0 for all that is slower than the fastest by more than rounding


def smallest(latency: Latency) -> Point:
    """The fastest network, certain (Equation 25)."""
    depths = np.where(latency.offered, latency.blocks_ms.min(2).cumsum(1), np.inf).argmin(1)
    return one_hot(latency, Arch(tuple(row[: 1 + depth].tolist()) for row, depth in zip(latency.blocks_ms.argmin(2), depths)))


def balanced(latency: Latency, target_ms: float, share: float) -> Point:
    """The most even point within a share of the way from the fastest network to the target.

    Raises:
        InfeasibleTarget: if no network is as fast as the target.
    """
    low, _ = latency.range_ms
    limit_ms = low + share * (latency.check(target_ms) - low)

    def within(tilt: float) -> bool:
        return latency(tilted(latency, tilt)) <= limit_ms

    if within(0):
        return tilted(latency, 0)
    high = next(filter(within, 2.0 ** np.arange(STEEPEST)), None)
    if high is None:  # only the fastest is
        return smallest(latency)
    low = 0.0 if high == 1 else high / 2
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if within(middle) else (middle, high)
    return tilted(latency, high)


def tilted(latency: Latency, tilt: float) -> Point:
    """The product above with this multiplier, 1 / ms."""
    exponents = -tilt * latency.blocks_ms
    means = logsumexp(exponents, axis=2) - np.log(exponents.shape[2])
    depths = np.where(latency.offered, means.cumsum(1), -np.inf)
    return Point(softmax(exponents, axis=2), softmax(depths, axis=1))
