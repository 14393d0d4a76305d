"""How many architectures cost less than a bound: exact, without listing them.

Meeting in the middle: the chain is cut in two halves whose sums can be listed (663 000 and 83 000
per resolution and width for AttentiveNAS's space of 4.4e11); each sum of one half is then looked
up among the sorted sums of the other.
"""

import numpy as np

from nas.cost.table import CostTable


class Counter:
    """Counts architectures by exact cost. Memory and time grow with the square root of the space's size."""

    def __init__(self, table: CostTable) -> None:
        self._per_unit = table.per_unit
        links = table.links
        self._whole = np.issubdtype(links[0].dtype, np.integer)
        options = np.cumsum([np.log(link[0, 0].size) for link in links])
        cut = int(np.abs(options - options[-1] / 2).argmin()) + 1
        self._halves = []  # pairs of (sums ascending, running count), (sums, count)
        for r in range(len(table.space.resolutions)):
            before = _sums([link[r] for link in links[:cut]])
            after = _sums([link[r].swapaxes(0, 1) for link in reversed(links[cut:])])
            self._halves += [((sums, np.append(0, counts.cumsum())), rest) for (sums, counts), rest in zip(before, after)]

    def below(self, bounds: np.ndarray) -> np.ndarray:
        """(b,) bounds in the table's unit -> (b,) numbers of architectures that cost less; float64, exact below 2^53.

        About 20 ms a bound for AttentiveNAS's space.
        """
        return np.array([self._below(bound) for bound in bounds])

    def between(self, low: float, high: float) -> float:
        """Number of architectures that cost between low and high, both included, in the table's unit."""
        hair = 0 if self._whole else 1e-12  # fractions come out differently when added in another order
        return self._below(np.nextafter(high * (1 + hair), np.inf)) - self._below(low * (1 - hair))

    def _below(self, bound: float) -> float:
        entries, total = self._entries(bound), 0.0
        for (sums, running), (rest, counts) in self._halves:
            total += running[np.searchsorted(sums, entries - rest)] @ counts
        return total

    def _entries(self, bound: float) -> float | int:
        """The least sum of entries that costs at least the bound, whichever way bound * per_unit is rounded."""
        if not self._whole:
            return bound * self._per_unit
        entries = int(bound * self._per_unit) - 2
        while entries / self._per_unit < bound:
            entries += 1
        return entries


def _sums(links: list[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Links (widths in, widths out, others), in the order walked -> per last width: distinct sums, ascending, and how many."""
    state = [(np.zeros(1, links[0].dtype), np.ones(1))] * links[0].shape[0]  # every first width counts once
    for link in links:
        state = [_merge([_plus(state[i], link[i, o]) for i in range(link.shape[0])]) for o in range(link.shape[1])]
    return state


def _plus(found: tuple[np.ndarray, np.ndarray], costs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    sums, counts = found
    return np.add.outer(sums, costs).ravel(), np.repeat(counts, len(costs))


def _merge(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    sums, counts = (np.concatenate(column) for column in zip(*parts))
    order = sums.argsort()
    sums, counts = sums[order], counts[order]
    first = np.flatnonzero(np.append(True, sums[1:] != sums[:-1]))
    return sums[first], np.add.reduceat(counts, first)
