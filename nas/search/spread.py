"""Architectures spread evenly over the costs, for first populations: drawn at random, most cost about the same.

Of the space of AttentiveNAS (arXiv:2011.09011) 0.2 % lie at or below 312 MFLOPs, where its smallest models are.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nas.spaces.mbconv import Arch

Between = Callable[[float, float, int, np.random.Generator], list[Arch]]  # n architectures that cost low to high; ValueError: none does


@dataclass(frozen=True, eq=False)
class Spread:
    """A draw of architectures for which each of several strata of cost gets as many, or one more or less.

    Args:
        between: draws within a stratum, e.g. with `nas.sampling.exact.ExactSampler.draw_between`.
        low: the least cost.
        high: the greatest cost.
        strata: intervals of the same width between them; those without any architecture are passed over.
    """

    between: Between
    low: float
    high: float
    strata: int = 32

    def __call__(self, n: int, rng: np.random.Generator) -> list[Arch]:
        """n architectures in a random order.

        Raises:
            ValueError: if no stratum has any.
        """
        edges = np.linspace(self.low, self.high, self.strata + 1)
        intervals = list(zip(edges[:-1].tolist(), edges[1:].tolist()))
        found: list[Arch] = []
        while len(found) < n:
            order = rng.permutation(len(intervals))
            shares = np.bincount(order[np.arange(n - len(found)) % len(intervals)], minlength=len(intervals))
            met = [(interval, self._try(*interval, int(share), rng)) for interval, share in zip(intervals, shares)]
            intervals = [interval for interval, archs in met if archs is not None]
            found += [arch for _, archs in met for arch in archs or ()]
            if not intervals:
                raise ValueError(f"no architecture costs between {self.low:g} and {self.high:g}")
        return [found[i] for i in rng.permutation(n)]

    def _try(self, low: float, high: float, n: int, rng: np.random.Generator) -> list[Arch] | None:
        """None if no architecture costs so much."""
        if n == 0:
            return []
        try:
            return self.between(low, high, n, rng)
        except ValueError:
            return None
