"""Probabilities of every choice, and the latency that they have: bilinear in the two kinds of choices.

    LAT(alpha, beta) = fixed + sum_sb kappa_sb sum_c alpha_sbc t_sbc,   kappa_sb = sum_{d >= b} beta_sd

HardCoRe-NAS (arXiv:2102.11646), section 3.2. alpha are the probabilities of a block's configurations, beta those of a
stage's depths, kappa the probability that a block runs, t the measured milliseconds of a block by itself. With alpha and beta
independent this is the expected latency, and at one network it is the sum of its entries of the table.
"""

from dataclasses import dataclass

import numpy as np

from nas.differentiable.hardcore_nas.space import Arch
from nas.differentiable.knapsack import Infeasible


class InfeasibleTarget(Infeasible):
    """No network of the space is as fast as asked for; states how fast they are."""

    def __init__(self, target_ms: float, cheapest_ms: float, dearest_ms: float) -> None:
        super().__init__(target_ms, cheapest_ms, dearest_ms)
        self.args = (
            f"a target latency of {target_ms:g} ms cannot be met: by this device's table the networks of the space "
            f"take from {cheapest_ms:.6g} to {dearest_ms:.6g} ms",
        )


@dataclass(frozen=True, eq=False)
class Point:
    """A distribution over networks: every block and every depth by itself. Also what has its shape, such as a gradient."""

    alpha: np.ndarray  # (stages, blocks, configurations)
    beta: np.ndarray  # (stages, blocks): of depths 1, 2, ...

    @property
    def kappa(self) -> np.ndarray:
        """(stages, blocks) probability that a block runs; exactly 0 where no depth that has it is possible."""
        return running(self.beta)


def running(beta: np.ndarray) -> np.ndarray:
    """(stages, depths) -> (stages, blocks): the sum over the depths that have the block."""
    return beta[:, ::-1].cumsum(1)[:, ::-1]


@dataclass(frozen=True, eq=False)
class Latency:
    """A table of a device: milliseconds of every block in every configuration.

    Raises:
        ValueError: for shapes that do not fit, a stage without a depth, or an entry below zero or not finite.
    """

    fixed_ms: float  # stem, fixed block, head, and what a network costs besides
    blocks_ms: np.ndarray  # (stages, blocks, configurations); 0 where a stage has no such block
    offered: np.ndarray  # (stages, blocks) whether a stage may have 1, 2, ... blocks

    def __post_init__(self) -> None:
        if self.blocks_ms.ndim != 3 or self.offered.shape != self.blocks_ms.shape[:2] or not self.offered.any(1).all():
            raise ValueError(f"a table of shape {self.blocks_ms.shape} with depths {self.offered.tolist()} is none of a space")
        if not (np.isfinite(self.blocks_ms).all() and self.blocks_ms.min() >= 0 and np.isfinite(self.fixed_ms)):
            raise ValueError(f"milliseconds have to be finite, and those of blocks not below 0; the least is {self.blocks_ms.min()}")

    def __call__(self, point: Point) -> float:
        """Expected milliseconds of a network."""
        return float(self.fixed_ms + (point.kappa * (point.alpha * self.blocks_ms).sum(2)).sum())

    def of(self, arch: Arch) -> float:
        """Milliseconds of a network: the sum of its entries."""
        return float(self.fixed_ms + sum(self.blocks_ms[s, b, c] for s, stage in enumerate(arch) for b, c in enumerate(stage)))

    def of_configurations(self, beta: np.ndarray) -> np.ndarray:
        """(stages, blocks, configurations) milliseconds that each adds if it is chosen, by how likely its block runs."""
        return running(beta)[:, :, None] * self.blocks_ms

    def of_depths(self, alpha: np.ndarray) -> np.ndarray:
        """(stages, blocks) milliseconds of a stage of depth 1, 2, ...; infinite where the depth is not offered."""
        return np.where(self.offered, (alpha * self.blocks_ms).sum(2).cumsum(1), np.inf)

    @property
    def range_ms(self) -> tuple[float, float]:
        """Of the fastest and of the slowest network."""
        low = np.where(self.offered, self.blocks_ms.min(2).cumsum(1), np.inf).min(1).sum()
        high = np.where(self.offered, self.blocks_ms.max(2).cumsum(1), 0).max(1).sum()
        return float(self.fixed_ms + low), float(self.fixed_ms + high)

    def check(self, target_ms: float) -> float:
        """The target itself.

        Raises:
            InfeasibleTarget: if it is outside of what the networks of the space take; states the range.
        """
        low, high = self.range_ms
        if not low <= target_ms <= high:
            raise InfeasibleTarget(target_ms, low, high)
        return target_ms


def one_hot(latency: Latency, arch: Arch) -> Point:
    """The point at which this network is certain; blocks that do not run are at their first configuration."""
    alpha, beta = np.zeros(latency.blocks_ms.shape), np.zeros(latency.offered.shape)
    alpha[:, :, 0] = 1
    for s, stage in enumerate(arch):
        beta[s, len(stage) - 1] = 1
        alpha[s, : len(stage)] = 0
        alpha[s, range(len(stage)), stage] = 1
    return Point(alpha, beta)


def certain(point: Point) -> Arch:
    """The network of a one-hot point."""
    depths = 1 + point.beta.argmax(1)
    return Arch(tuple(alpha[:depth].argmax(1).tolist()) for alpha, depth in zip(point.alpha, depths))
