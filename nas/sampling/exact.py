"""Architectures under a cost target: exactly uniform, or by the paper's factorised proposal.

AttentiveNAS (arXiv:2011.09011), section 4.2, draws from the product of per-choice frequencies and
rejects; that takes about 12 trials a sample and is biased inside the bucket. Here the cost adds
up along the chain of stages, so the number of ways to complete an architecture within a given
cost is a dynamic programme; drawing the choices in proportion to it is uniform and takes one trial.
Both stay, to compare.
"""

import itertools
from collections.abc import Callable
from functools import cached_property

import numpy as np

from nas.cost.table import CostTable
from nas.sampling.count import Counter
from nas.sampling.target import AT_ONCE, Buckets, Drawn, Prior, pick, pick_many, reject


class ExactSampler:
    """Uniform over the architectures in a target's bucket.

    The tables count, for each resolution, link of the chain and width before it, the ways to
    complete the architecture by how many bins of cost they take. Each link's cost is rounded to
    a bin, so an interval of costs is widened by the largest sum of roundings and what falls
    outside the interval by its exact cost is rejected.

    Args:
        table: the cost.
        step: width of a bucket, in the table's unit.
        bins: bins of cost per resolution; more of them reject less and take more memory
            (100 000 take 71 MB for the paper's space).
    """

    def __init__(self, table: CostTable, step: float, bins: int = 100_000) -> None:
        self.table = table
        self.buckets = Buckets(step)
        # per resolution, costs are counted from the cheapest choice of each link
        lowest = [link.min(axis=(1, 2, 3), keepdims=True) for link in table.links]
        extra = [(link - low).astype(np.float64) for link, low in zip(table.links, lowest)]
        span = sum(e.max(axis=(1, 2, 3)) for e in extra)  # (resolutions,)
        self._bin = np.where(span > 0, span / bins, 1.0)  # table entries
        scale = self._bin[:, None, None, None]
        self._links = [np.rint(e / scale).astype(np.int32) for e in extra]
        self._base = sum(low.ravel() for low in lowest).astype(np.float64)
        self._slack = sum(np.abs(e - b * scale).max(axis=(1, 2, 3)) for e, b in zip(extra, self._links))
        self._ways = self._count_ways()

    @property
    def count(self) -> float:
        """Number of architectures, as the tables count them."""
        return float(self._ways[0].sum())

    @cached_property
    def counts(self) -> tuple[np.ndarray, np.ndarray]:
        """Occupied targets (t,), ascending, and the exact number of architectures in each bucket (t,)."""
        first, last = self.buckets.of([self.table.smallest, self.table.largest])
        numbers = np.arange(first, last + 2)
        counts = np.diff(self._counter.below(self.buckets.edges(numbers)))
        return numbers[:-1][counts > 0] * self.buckets.step, counts[counts > 0]

    def prior(self) -> Prior:
        """The exact prior over targets pi(tau): the share of all architectures in each bucket."""
        targets, counts = self.counts
        return Prior(targets, counts / counts.sum())

    def draw(self, target: float, n: int, rng: np.random.Generator) -> Drawn:
        """n architectures, independent and uniform over those in the target's bucket.

        Raises:
            InfeasibleTarget: if there is none.
            ValueError: if the target is not a multiple of the step.
        """
        number = self.buckets.number(target)
        low, high = self.buckets.edges([number, number + 1])
        self.table.check_between(low, high)
        try:
            return self._draw(low, high, lambda costs: self.buckets.of(costs) == number, n, rng)
        except _NoneThere:
            raise self.table.infeasible(
                f"{target:g} {self.table.unit} (step {self.buckets.step:g})", f"the nearest feasible targets are {self._neighbours(number)}"
            ) from None

    def draw_between(self, low: float, high: float, n: int, rng: np.random.Generator) -> Drawn:
        """n architectures, independent and uniform over those with cost in [low, high], in the table's unit.

        Raises:
            InfeasibleTarget: if there is none.
        """
        self.table.check_between(low, high)
        try:
            return self._draw(low, high, lambda costs: (costs >= low) & (costs <= high), n, rng)
        except _NoneThere:
            raise self.table.infeasible(f"between {low:g} and {high:g} {self.table.unit}", "widen the interval") from None

    @cached_property
    def _counter(self) -> Counter:
        return Counter(self.table)

    def _neighbours(self, number: int) -> str:
        """The occupied targets around an empty bucket inside the range, whose ends are occupied."""

        def occupied(n: int) -> bool:
            return bool(np.diff(self._counter.below(self.buckets.edges([n, n + 1])))[0])

        below = next(n for n in itertools.count(number - 1, -1) if occupied(n))
        above = next(n for n in itertools.count(number + 1) if occupied(n))
        return f"{below * self.buckets.step:g} and {above * self.buckets.step:g}"

    def _count_ways(self) -> list[np.ndarray]:
        """Per link, and last for the end of the chain: (resolutions, widths before, 1 + bins) float64.

        Exact below 2^53. The place 0 stands for "less than nothing left" and stays zero.
        """
        reach = np.cumsum([link.max(axis=(1, 2, 3)).max() for link in reversed(self._links)])
        places = 2 + int(reach[-1])
        end = np.zeros((*self._links[-1].shape[:3:2], places))
        end[..., 1] = 1
        ways, top = [end], 1
        for link, longest in zip(reversed(self._links), reach):
            after, now = ways[-1], np.zeros((*link.shape[:2], places))
            for r, i, o, choice in np.ndindex(link.shape):
                cost = link[r, i, o, choice]
                now[r, i, 1 + cost : 1 + cost + top] += after[r, o, 1 : 1 + top]
            ways.append(now)
            top = 1 + int(longest)
        return ways[::-1]

    def _draw(self, low: float, high: float, accept: Callable, n: int, rng: np.random.Generator) -> Drawn:
        """Rejection on the exact cost; raises _NoneThere if no architecture lies between."""
        resolution, bins = self._within(low, high, self._slack)
        weights = self._ways[0][resolution, 0, 1 + bins]
        if not weights.any():
            raise _NoneThere
        surely = self._within(low, high, -self._slack)
        if not self._ways[0][surely[0], 0, 1 + surely[1]].any() and not self._counter.between(low, high):
            raise _NoneThere

        def propose(m: int) -> np.ndarray:
            at = pick_many(weights, m, rng)
            return self._complete(resolution[at], bins[at], rng)

        share = min(AT_ONCE, n + n // 50 + 1)
        what = f"costs between {low:g} and {high:g} {self.table.unit}"
        return reject(propose, lambda rows: accept(self.table.costs(rows)), n, share, limit=1_000_000, what=what)

    def _within(self, low: float, high: float, slack: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """All (resolution, bin) from low - slack to high + slack, as two flat arrays; slack (resolutions,) in table entries."""
        total = self._ways[0].shape[2] - 1
        hair = np.copysign(1e-6, slack)  # bins; against the rounding of the next two lines
        starts = np.ceil((low * self.table.per_unit - self._base - slack) / self._bin - hair)
        stops = np.floor((high * self.table.per_unit - self._base + slack) / self._bin + hair) + 1
        bins = [np.arange(*np.clip(ends, 0, total).astype(int)) for ends in zip(starts, stops)]
        return np.repeat(np.arange(len(bins)), [len(b) for b in bins]), np.concatenate(bins)

    def _complete(self, resolution: np.ndarray, left: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Places of the resolution (m,) and bins to spend (m,) -> rows (m, genes), uniform among those that spend them all."""
        space = self.table.space
        width = np.zeros_like(resolution)
        widths, others = [], []
        for link, after in zip(self._links, self._ways[1:]):
            options = link[resolution, width]  # (m, widths out, others)
            rest = np.maximum(left[:, None, None] - options, -1) + 1
            rows = resolution[:, None] * after.shape[1] + np.arange(after.shape[1])
            weights = after.reshape(-1)[rows[:, :, None] * after.shape[2] + rest].reshape(len(left), -1)
            choice = pick(weights, rng)
            left = rest.reshape(len(left), -1)[np.arange(len(left)), choice] - 1
            width, other = np.divmod(choice, link.shape[3])
            widths.append(width)
            others.append(other)
        shapes = [t.shape[3:] for t in self.table.stages]
        inner = [np.unravel_index(other, shape) for other, shape in zip(others[1:-1], shapes)]
        places = [resolution, *widths, *(axis for axes in zip(*inner) for axis in axes)]
        return np.stack([np.asarray(gene.choices)[p] for gene, p in zip(space.genes, places, strict=True)], axis=1)


class _NoneThere(Exception):
    """No architecture lies in the interval."""


class FactorisedSampler:
    """The paper's: every choice drawn by itself from its frequency in the target's bucket, then rejection.

        pi^(alpha | tau) ~ prod_i #(o_i, tau) / #(tau)

    over a pool of m architectures drawn uniformly (section 4.2). Not uniform in the bucket.

    Args:
        table: the cost.
        step: width of a bucket, in the table's unit; 25 MFLOPs in the paper.
        pool: m; at least 1e6 in the paper.
        rng: draws the pool.
        limit: trials a sample before giving up.
    """

    def __init__(self, table: CostTable, step: float, pool: int, rng: np.random.Generator, limit: int = 10_000) -> None:
        if pool < 1:
            raise ValueError(f"pool of {pool} architectures: at least 1 is needed")
        self.table, self.buckets, self._limit = table, Buckets(step), limit
        sizes = [len(g.choices) for g in table.space.genes]
        first, last = self.buckets.of([table.smallest, table.largest])
        counts = [np.zeros((last - first + 1, size), dtype=np.int64) for size in sizes]
        for start in range(0, pool, 50_000):
            places = rng.integers(sizes, size=(min(50_000, pool - start), len(sizes)))
            bucket = self.buckets.of(table.costs_at(places)) - first
            for found, size, place in zip(counts, sizes, places.T):
                found += np.bincount(bucket * size + place, minlength=found.size).reshape(found.shape)
        in_bucket = counts[0].sum(axis=1)
        self._met = np.flatnonzero(in_bucket)
        self._numbers = self._met + first
        self._frequencies = in_bucket[self._met] / pool
        self._running = [np.cumsum(c[self._met] / in_bucket[self._met, None], axis=1) for c in counts]

    def prior(self) -> Prior:
        """The pool's estimate of pi(tau): the share of it in each bucket that it met."""
        return Prior(self._numbers * self.buckets.step, self._frequencies)

    def draw(self, target: float, n: int, rng: np.random.Generator) -> Drawn:
        """n architectures in the target's bucket, from the factorised proposal.

        Raises:
            ValueError: if the pool has none in the bucket, or the target is not a multiple of the step.
            RuntimeError: if `limit` trials a sample did not find them.
        """
        number = self.buckets.number(target)
        at = np.searchsorted(self._numbers, number)
        if at == len(self._numbers) or self._numbers[at] != number:
            met = self._numbers * self.buckets.step
            raise ValueError(
                f"the pool has no architecture for the target {target:g} {self.table.unit}; it met {len(met)} targets "
                f"from {met[0]:g} to {met[-1]:g}; a larger pool, or the exact sampler, reaches more"
            )
        genes = self.table.space.genes
        running = [r[at] for r in self._running]
        choices = [np.asarray(g.choices) for g in genes]

        def propose(m: int) -> np.ndarray:
            at = rng.random((len(genes), m))
            return np.stack([c[np.searchsorted(r[:-1], u, side="right")] for c, r, u in zip(choices, running, at)], axis=1)

        def accept(rows: np.ndarray) -> np.ndarray:
            return self.buckets.of(self.table.costs(rows)) == number

        what = f"target {target:g} {self.table.unit} from the factorised proposal"
        return reject(propose, accept, n, batch=min(AT_ONCE, 16 * n), limit=self._limit, what=what)
