"""Uniform sampling without a constraint, by plain rejection under a target, and stratified by cost.

AttentiveNAS (arXiv:2011.09011), Equation 2 and Appendix C.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nas.cost.infeasible import InfeasibleTarget
from nas.cost.table import CostTable
from nas.sampling.target import MAX_BATCH, Buckets, Drawn, Prior, reject
from nas.spaces import encoding
from nas.spaces.mbconv import Arch, SearchSpace


@dataclass(frozen=True)
class Unconstrained:
    """Draws k architectures uniformly from the space."""

    space: SearchSpace

    def __call__(self, k: int, rng: np.random.Generator) -> list[Arch]:
        return encoding.from_genes(encoding.random_genes(self.space, k, rng))


@dataclass(frozen=True)
class RejectionSampler:
    """Uniform in a target's bucket by rejecting draws from the whole space: the baseline of the other samplers."""

    table: CostTable
    step: float  # width of a bucket, in the table's unit
    limit: int = 1_000_000  # trials per sample

    def draw(self, target: float, n: int, rng: np.random.Generator) -> Drawn:
        """n architectures in the target's bucket.

        Raises:
            InfeasibleTarget: if the target is outside the achievable range.
            ValueError: if the target is not a multiple of the step.
            RuntimeError: if `limit` trials per sample are used up.
        """
        buckets = Buckets(self.step)
        number = buckets.number(target)
        self.table.check_between(*buckets.edges([number, number + 1]))
        return reject(
            lambda m: encoding.random_genes(self.table.space, m, rng),
            lambda rows: buckets.of(self.table.costs(rows)) == number,
            n,
            batch=MAX_BATCH,
            limit=self.limit,
            what=f"target {target:g} {self.table.unit} by uniform rejection",
        )


@dataclass(frozen=True, eq=False)
class StratifiedDraw:
    """A draw in which every stratum of cost gets equally many architectures, up to one.

    Uniform draws seldom reach the ends: of the space of AttentiveNAS 0.2 % lie at or below 312 MFLOPs, where its
    smallest models are.

    Args:
        between: draws n architectures that cost low to high, e.g. with `nas.sampling.exact.ExactSampler.draw_between`;
            raises InfeasibleTarget if there are none.
        low: the smallest cost.
        high: the largest cost.
        strata: intervals of equal width; empty ones are skipped.
    """

    between: Callable[[float, float, int, np.random.Generator], list[Arch]]
    low: float
    high: float
    strata: int = 32

    def __call__(self, n: int, rng: np.random.Generator) -> list[Arch]:
        """n architectures in a random order.

        Raises:
            InfeasibleTarget: if all strata are empty.
        """
        edges = np.linspace(self.low, self.high, self.strata + 1)
        intervals = list(zip(edges[:-1].tolist(), edges[1:].tolist()))
        drawn: list[Arch] = []
        while len(drawn) < n:
            order = rng.permutation(len(intervals))
            shares = np.bincount(order[np.arange(n - len(drawn)) % len(intervals)], minlength=len(intervals))
            strata = [(interval, self._draw(*interval, int(share), rng)) for interval, share in zip(intervals, shares)]
            intervals = [interval for interval, archs in strata if archs is not None]
            drawn += [arch for _, archs in strata for arch in archs or ()]
            if not intervals:
                return self.between(self.low, self.high, n, rng)  # raises, with the achievable range
        return [drawn[i] for i in rng.permutation(n)]

    def _draw(self, low: float, high: float, n: int, rng: np.random.Generator) -> list[Arch] | None:
        """None if the stratum is empty."""
        if n == 0:
            return []
        try:
            return self.between(low, high, n, rng)
        except InfeasibleTarget:
            return None


def uniform_trials(prior: Prior) -> np.ndarray:
    """(t,) expected trials of plain rejection for each target of an exact prior: 1 / pi(tau)."""
    return 1 / prior.probabilities
