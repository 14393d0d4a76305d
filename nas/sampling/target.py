"""Cost targets: their buckets, their prior, and rejection sampling of architectures.

AttentiveNAS (arXiv:2011.09011), sections 3.2 and 4.2: costs are rounded to a step t (25 MFLOPs in the paper), a target tau is
drawn from a prior pi(tau), then architectures from pi(alpha | tau).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from nas.spaces import encoding
from nas.spaces.mbconv import Arch

MAX_BATCH = 4096  # architectures proposed together; keeps the working arrays in cache


@dataclass(frozen=True)
class Buckets:
    """Costs rounded to a step: target tau = i * step stands for costs in [tau - step / 2, tau + step / 2)."""

    step: float  # in the cost's unit

    def __post_init__(self) -> None:
        if not self.step > 0:
            raise ValueError(f"step {self.step}: the width of a bucket is above 0")

    def of(self, costs: np.ndarray) -> np.ndarray:
        """(n,) costs -> (n,) int64 bucket numbers; a cost on an edge, up to 1e-9 steps, belongs above."""
        return np.floor(np.asarray(costs) / self.step + 0.5 + _EDGE).astype(np.int64)

    def edges(self, numbers: np.ndarray) -> np.ndarray:
        """(n,) bucket numbers -> (n,) lower edge of each bucket, which belongs to it."""
        return (np.asarray(numbers) - 0.5 - _EDGE) * self.step

    def number(self, target: float) -> int:
        """The number of a target's bucket.

        Raises:
            ValueError: if the target is not a multiple of the step.
        """
        number = round(target / self.step)
        if abs(number - target / self.step) > 1e-6:
            raise ValueError(f"target {target:g} is not a multiple of the step {self.step:g}; the nearest is {number * self.step:g}")
        return number


_EDGE = 1e-9  # steps; the quotient of a cost on an edge may be rounded to either side


@dataclass(frozen=True, eq=False)
class Prior:
    """A distribution over cost targets, pi(tau)."""

    targets: np.ndarray  # (t,) ascending, in the cost's unit
    probabilities: np.ndarray  # (t,) positive, sum 1

    @cached_property
    def _cumulative(self) -> np.ndarray:
        return np.cumsum(self.probabilities)

    def draw(self, rng: np.random.Generator) -> float:
        """One target."""
        return float(self.targets[_first_above(self._cumulative, rng.random(1))[0]])

    def flat(self) -> "Prior":
        """The same targets, equally likely: cheap and expensive architectures get as much training as the others."""
        return Prior(self.targets, np.full(len(self.targets), 1 / len(self.targets)))


@dataclass(frozen=True, eq=False)
class Drawn:
    """Architectures drawn under a target."""

    rows: np.ndarray  # (n, genes) int64
    trials: np.ndarray  # (n,) int64, architectures proposed for each

    def archs(self) -> list[Arch]:
        return encoding.from_genes(self.rows)


class TargetSampler(Protocol):
    """Draws architectures whose exact cost lies in a target's bucket."""

    def prior(self) -> Prior:
        """Probability of each target's bucket under uniform draws of architectures."""

    def draw(self, target: float, n: int, rng: np.random.Generator) -> Drawn:
        """n architectures (with replacement) in the target's bucket.

        Raises:
            ValueError: if the bucket is empty.
        """


@dataclass(frozen=True)
class UnderTarget:
    """Draws k architectures under one target drawn from the prior (Algorithm 1, lines 5 and 6)."""

    sampler: TargetSampler
    prior: Prior

    def __call__(self, k: int, rng: np.random.Generator) -> list[Arch]:
        return self.sampler.draw(self.prior.draw(rng), k, rng).archs()


def reject(
    propose: Callable[[int], np.ndarray], accept: Callable[[np.ndarray], np.ndarray], n: int, batch: int, limit: int, what: str
) -> Drawn:
    """Rejection sampling: propose until n architectures are accepted.

    Args:
        propose: number m -> (m, genes) rows.
        accept: (m, genes) rows -> (m,) bool.
        n: number of architectures, at least 1.
        batch: size of the first proposal; doubles up to MAX_BATCH while architectures are missing.
        limit: maximum number of trials per accepted architecture.
        what: names the target in the error.

    Raises:
        ValueError: if n is less than 1.
        RuntimeError: if the trials are used up.
    """
    if n < 1:
        raise ValueError(f"{n} architectures: at least 1 is needed")
    rows, positions, proposed = [], [np.array([-1])], 0
    missing = n
    while missing > 0:
        if proposed >= limit * (n - missing + 1):
            raise RuntimeError(f"only {n - missing} of {n} architectures accepted for {what} in {proposed} trials")
        proposal = propose(batch)
        accepted = np.flatnonzero(accept(proposal))[:missing]
        rows.append(proposal[accepted])
        positions.append(accepted + proposed)
        proposed += batch
        missing -= len(accepted)
        batch = min(2 * batch, MAX_BATCH)
    return Drawn(np.concatenate(rows), np.diff(np.concatenate(positions)))


def pick(weights: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(n, options) weights -> (n,) options, each with probability proportional to its weight in its row."""
    cumulative = np.cumsum(weights, axis=1)
    total = cumulative[:, -1]
    at = np.minimum(rng.random(len(total)) * total, np.nextafter(total, 0))  # the product may round up to the total
    return (cumulative <= at[:, None]).sum(axis=1)


def pick_many(weights: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """(options,) weights -> (n,) options, each with probability proportional to its weight."""
    cumulative = np.cumsum(weights)
    return _first_above(cumulative, rng.random(n) * cumulative[-1])


def _first_above(cumulative: np.ndarray, at: np.ndarray) -> np.ndarray:
    return np.searchsorted(cumulative, np.minimum(at, np.nextafter(cumulative[-1], 0)), side="right")
