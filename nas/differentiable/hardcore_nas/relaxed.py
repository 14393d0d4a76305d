"""Probabilities of every choice, and the latency that they have: bilinear in the two kinds of choices.

    LAT(alpha, beta) = fixed + sum_sb kappa_sb sum_c alpha_sbc t_sbc,   kappa_sb = sum_{d >= b} beta_sd

HardCoRe-NAS (arXiv:2102.11646), section 3.2. alpha are the probabilities of a block's configurations, beta those of a
stage's depths, kappa the probability that a block runs, t the measured milliseconds of a block by itself. With alpha and beta
independent this is the expected latency, and at one network it is the sum of its entries of the table.
"""

from dataclasses import dataclass

import numpy as np

from nas.cost.latency_hardcore_nas import Latency, running
from nas.spaces.hardcore_nas import Arch


@dataclass(frozen=True, eq=False)
class Point:
    """A distribution over networks: every block and every depth by itself. Also what has its shape, such as a gradient."""

    alpha: np.ndarray  # (stages, blocks, configurations)
    beta: np.ndarray  # (stages, blocks): of depths 1, 2, ...

    @property
    def kappa(self) -> np.ndarray:
        """(stages, blocks) probability that a block runs; exactly 0 where no depth that has it is possible."""
        return running(self.beta)


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
