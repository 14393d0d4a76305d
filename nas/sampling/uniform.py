"""Uniform sampling: constraint-free, and by plain rejection under a target.

AttentiveNAS (arXiv:2011.09011), Equation 2 and Appendix C.
"""

from dataclasses import dataclass

import numpy as np

from nas.cost.table import CostTable
from nas.sampling.target import AT_ONCE, Buckets, Drawn, Prior, reject
from nas.spaces import encoding
from nas.spaces.mbconv import Arch, SearchSpace


@dataclass(frozen=True)
class Unconstrained:
    """k architectures, uniform over the space."""

    space: SearchSpace

    def __call__(self, k: int, rng: np.random.Generator) -> list[Arch]:
        return encoding.from_rows(encoding.random_rows(self.space, k, rng))


@dataclass(frozen=True)
class RejectionSampler:
    """Uniform in a target's bucket by drawing from the whole space until it fits: the naive way, for comparison."""

    table: CostTable
    step: float  # width of a bucket, in the table's unit
    limit: int = 1_000_000  # trials a sample

    def draw(self, target: float, n: int, rng: np.random.Generator) -> Drawn:
        """n architectures in the target's bucket.

        Raises:
            ValueError: if the target lies outside the achievable range or between two buckets.
            RuntimeError: if `limit` trials a sample did not find them.
        """
        buckets = Buckets(self.step)
        number = buckets.number(target)
        self.table.check_between(*buckets.edges([number, number + 1]))
        return reject(
            lambda m: encoding.random_rows(self.table.space, m, rng),
            lambda rows: buckets.of(self.table.costs(rows)) == number,
            n,
            batch=AT_ONCE,
            limit=self.limit,
            what=f"target {target:g} {self.table.unit} by uniform rejection",
        )


def uniform_trials(prior: Prior) -> np.ndarray:
    """(t,) expected trials of plain rejection for each target of an exact prior: 1 / pi(tau)."""
    return 1 / prior.probabilities
