"""Exactly uniform sampling of architectures under a cost target, and exact counts of architectures by cost.

AttentiveNAS (arXiv:2011.09011), section 4.2, draws from the product of per-choice frequencies and rejects
(nas/sampling/factorised.py); that takes about 12 trials per sample and is biased within the bucket. Here the cost is a sum
along the chain of stages, so the number of ways to complete an architecture within a given cost is a dynamic programme;
drawing the choices in proportion to it is uniform and takes one trial.
"""

import itertools
from collections.abc import Callable
from functools import cached_property

import numpy as np

from nas.cost.table import CostTable
from nas.sampling.target import MAX_BATCH, Buckets, Drawn, Prior, pick, pick_many, reject


class ExactSampler:
    """Uniform sampling over the architectures in a target's bucket.

    The tables count, for each resolution, link of the chain and width before it, the ways to complete the architecture
    per number of bins of cost. Each link's cost is rounded to a bin, so an interval of costs is widened by the largest sum
    of rounding errors, and proposals outside the interval by their exact cost are rejected.

    Args:
        table: the cost.
        step: width of a bucket, in the table's unit.
        bins: bins of cost per resolution; more bins reject less and take more memory
            (100 000 take 71 MB for the paper's space).
    """

    def __init__(self, table: CostTable, step: float, bins: int = 100_000) -> None:
        self.table = table
        self.buckets = Buckets(step)
        # costs relative to the cheapest choice of each link, per resolution
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
        """Number of architectures, by the tables."""
        return float(self._ways[0].sum())

    @cached_property
    def counts(self) -> tuple[np.ndarray, np.ndarray]:
        """Targets with a non-empty bucket (t,), ascending, and the exact number of architectures in each bucket (t,)."""
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
        except _EmptyInterval:
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
        except _EmptyInterval:
            raise self.table.infeasible(f"between {low:g} and {high:g} {self.table.unit}", "widen the interval") from None

    @cached_property
    def _counter(self) -> "Counter":
        return Counter(self.table)

    def _neighbours(self, number: int) -> str:
        """The nearest targets with a non-empty bucket, below and above an empty bucket inside the range."""

        def feasible(n: int) -> bool:
            return bool(np.diff(self._counter.below(self.buckets.edges([n, n + 1])))[0])

        below = next(n for n in itertools.count(number - 1, -1) if feasible(n))
        above = next(n for n in itertools.count(number + 1) if feasible(n))
        return f"{below * self.buckets.step:g} and {above * self.buckets.step:g}"

    def _count_ways(self) -> list[np.ndarray]:
        """Per link, and last for the end of the chain: (resolutions, widths before, 1 + bins) float64.

        Exact below 2^53. Index 0 means that the cost is exceeded; its count stays zero.
        """
        reach = np.cumsum([link.max(axis=(1, 2, 3)).max() for link in reversed(self._links)])
        size = 2 + int(reach[-1])
        end = np.zeros((*self._links[-1].shape[:3:2], size))
        end[..., 1] = 1
        ways, top = [end], 1
        for link, longest in zip(reversed(self._links), reach):
            after, now = ways[-1], np.zeros((*link.shape[:2], size))
            for r, i, o, choice in np.ndindex(link.shape):
                cost = link[r, i, o, choice]
                now[r, i, 1 + cost : 1 + cost + top] += after[r, o, 1 : 1 + top]
            ways.append(now)
            top = 1 + int(longest)
        return ways[::-1]

    def _draw(self, low: float, high: float, accept: Callable, n: int, rng: np.random.Generator) -> Drawn:
        """Rejection on the exact cost; raises _EmptyInterval if no architecture costs between low and high."""
        resolution, bins = self._within(low, high, self._slack)
        weights = self._ways[0][resolution, 0, 1 + bins]
        if not weights.any():
            raise _EmptyInterval
        inner = self._within(low, high, -self._slack)  # inside by the exact cost too
        if not self._ways[0][inner[0], 0, 1 + inner[1]].any() and not self._counter.between(low, high):
            raise _EmptyInterval

        def propose(m: int) -> np.ndarray:
            at = pick_many(weights, m, rng)
            return self._complete(resolution[at], bins[at], rng)

        batch = min(MAX_BATCH, n + n // 50 + 1)
        what = f"costs between {low:g} and {high:g} {self.table.unit}"
        return reject(propose, lambda rows: accept(self.table.costs(rows)), n, batch, limit=1_000_000, what=what)

    def _within(self, low: float, high: float, slack: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """All (resolution, bin) from low - slack to high + slack, as two flat arrays; slack (resolutions,) in table entries."""
        total = self._ways[0].shape[2] - 1
        tolerance = np.copysign(1e-6, slack)  # bins; against the rounding of the next two lines
        starts = np.ceil((low * self.table.per_unit - self._base - slack) / self._bin - tolerance)
        stops = np.floor((high * self.table.per_unit - self._base + slack) / self._bin + tolerance) + 1
        bins = [np.arange(*np.clip(ends, 0, total).astype(int)) for ends in zip(starts, stops)]
        return np.repeat(np.arange(len(bins)), [len(b) for b in bins]), np.concatenate(bins)

    def _complete(self, resolution: np.ndarray, budget: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Indices of the resolution (m,) and bins of cost (m,) -> rows (m, genes), uniform among the architectures of that cost."""
        space = self.table.space
        width = np.zeros_like(resolution)
        widths, others = [], []
        for link, after in zip(self._links, self._ways[1:]):
            options = link[resolution, width]  # (m, widths out, others)
            rest = np.maximum(budget[:, None, None] - options, -1) + 1
            rows = resolution[:, None] * after.shape[1] + np.arange(after.shape[1])
            weights = after.reshape(-1)[rows[:, :, None] * after.shape[2] + rest].reshape(len(budget), -1)
            choice = pick(weights, rng)
            budget = rest.reshape(len(budget), -1)[np.arange(len(budget)), choice] - 1
            width, other = np.divmod(choice, link.shape[3])
            widths.append(width)
            others.append(other)
        shapes = [t.shape[3:] for t in self.table.stages]
        inner = [np.unravel_index(other, shape) for other, shape in zip(others[1:-1], shapes)]
        indices = [resolution, *widths, *(axis for axes in zip(*inner) for axis in axes)]
        return np.stack([np.asarray(gene.choices)[index] for gene, index in zip(space.genes, indices, strict=True)], axis=1)


class _EmptyInterval(Exception):
    """No architecture costs within the interval."""


class Counter:
    """Counts architectures by exact cost, without enumerating them.

    Meet in the middle: the chain is cut in two halves whose sums can be enumerated (663 000 and 83 000 per resolution and
    width for AttentiveNAS's space of 4.4e11); each sum of one half is looked up among the sorted sums of the other.
    Memory and time grow with the square root of the space's size.
    """

    def __init__(self, table: CostTable) -> None:
        self._per_unit = table.per_unit
        links = table.links
        self._integer = np.issubdtype(links[0].dtype, np.integer)
        options = np.cumsum([np.log(link[0, 0].size) for link in links])
        cut = int(np.abs(options - options[-1] / 2).argmin()) + 1
        self._halves = []  # pairs of (sums ascending, running count), (sums, count)
        for r in range(len(table.space.resolutions)):
            before = _sums([link[r] for link in links[:cut]])
            after = _sums([link[r].swapaxes(0, 1) for link in reversed(links[cut:])])
            self._halves += [((sums, np.append(0, counts.cumsum())), rest) for (sums, counts), rest in zip(before, after)]

    def below(self, bounds: np.ndarray) -> np.ndarray:
        """(b,) bounds in the table's unit -> (b,) numbers of cheaper architectures; float64, exact below 2^53.

        About 20 ms per bound for AttentiveNAS's space.
        """
        return np.array([self._below(bound) for bound in bounds])

    def between(self, low: float, high: float) -> float:
        """Number of architectures that cost between low and high, both included, in the table's unit."""
        tolerance = 0 if self._integer else 1e-12  # relative; float sums depend on the order of addition
        return self._below(np.nextafter(high * (1 + tolerance), np.inf)) - self._below(low * (1 - tolerance))

    def _below(self, bound: float) -> float:
        entries, total = self._entries(bound), 0.0
        for (sums, running), (rest, counts) in self._halves:
            total += running[np.searchsorted(sums, entries - rest)] @ counts
        return total

    def _entries(self, bound: float) -> float | int:
        """The smallest sum of entries that costs at least the bound, independent of the rounding of bound * per_unit."""
        if not self._integer:
            return bound * self._per_unit
        entries = int(bound * self._per_unit) - 2
        while entries / self._per_unit < bound:
            entries += 1
        return entries


def _sums(links: list[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Links (widths in, widths out, others), in chain order -> per last width: distinct sums, ascending, and their counts."""
    state = [(np.zeros(1, links[0].dtype), np.ones(1))] * links[0].shape[0]  # every first width counts once
    for link in links:
        state = [_merge([_plus(state[i], link[i, o]) for i in range(link.shape[0])]) for o in range(link.shape[1])]
    return state


def _plus(state: tuple[np.ndarray, np.ndarray], costs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    sums, counts = state
    return np.add.outer(sums, costs).ravel(), np.repeat(counts, len(costs))


def _merge(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    sums, counts = (np.concatenate(column) for column in zip(*parts))
    order = sums.argsort()
    sums, counts = sums[order], counts[order]
    first = np.flatnonzero(np.append(True, sums[1:] != sums[:-1]))
    return sums[first], np.add.reduceat(counts, first)
