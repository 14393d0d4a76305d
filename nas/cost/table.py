"""A cost that is a sum along the chain stem, stages, head; for one architecture or a million at once.

AttentiveNAS (arXiv:2011.09011) counts FLOPs; every cost that is additive over stages fits, latency too. Given the resolution,
the cost of a link of the chain depends only on its own choices and on the width before it.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from nas.cost.infeasible import InfeasibleTarget
from nas.spaces import encoding
from nas.spaces.mbconv import Arch, SearchSpace

CHUNK_ROWS = 10_000  # their working arrays stay in cache


@dataclass(frozen=True, eq=False)
class CostTable:
    """One number per (link of the chain, resolution, width in, choice); axes in the order of the space's choices.

    Raises:
        ValueError: if an array does not have the shape that the space needs.
    """

    space: SearchSpace
    unit: str  # of all costs, e.g. "MFLOPs"
    per_unit: int  # entries add up to per_unit times the cost: 1 000 000 multiply-accumulates a MFLOP; 1 for ms in float64
    stem: np.ndarray  # (resolutions, stem widths), includes fixed costs per resolution
    stages: tuple[np.ndarray, ...]  # each (resolutions, widths in, widths out, depths, kernels, expansions)
    head: np.ndarray  # (resolutions, last stage's widths, head widths)

    def __post_init__(self) -> None:
        shapes = [a.shape for a in (self.stem, *self.stages, self.head)]
        if shapes != self.shapes(self.space):
            raise ValueError(f"cost table of shapes {shapes}; space {self.space.name!r} needs {self.shapes(self.space)}")

    @staticmethod
    def shapes(space: SearchSpace) -> list[tuple[int, ...]]:
        """Shapes of the stem's, each stage's and the head's array."""
        resolutions = len(space.resolutions)
        widths = [len(space.stem_widths), *(len(s.widths) for s in space.stages)]
        stages = [
            (resolutions, before, after, len(s.depths), len(s.kernels), len(s.expansions))
            for s, before, after in zip(space.stages, widths, widths[1:])
        ]
        return [(resolutions, widths[0]), *stages, (resolutions, widths[-1], len(space.head_widths))]

    @cached_property
    def links(self) -> list[np.ndarray]:
        """Stem, stages and head, each as (resolutions, widths in, widths out, other choices)."""
        stages = [a.reshape(*a.shape[:3], -1) for a in self.stages]
        return [self.stem[:, None, :, None], *stages, self.head[..., None]]

    def cost(self, arch: Arch) -> float:
        """Cost of one architecture, in `unit`.

        Raises:
            ValueError: if the architecture is not in the space.
        """
        genes = self.space.check(arch).genes
        places = [gene.choices.index(value) for gene, value in zip(self.space.genes, genes)]
        return float(self.costs_at(np.array([places]))[0])

    def costs(self, rows: np.ndarray) -> np.ndarray:
        """(n, genes) architectures -> (n,) float64, in `unit`.

        Raises:
            ValueError: if a value is not offered in the space.
        """
        rows = np.asarray(rows)
        parts = [rows[start : start + CHUNK_ROWS] for start in range(0, max(len(rows), 1), CHUNK_ROWS)]
        return np.concatenate([self.costs_at(encoding.indices(self.space, part)) for part in parts])

    def costs_at(self, places: np.ndarray) -> np.ndarray:
        """`costs` of architectures as (n, genes) indices into each gene's choices (`encoding.indices`)."""
        gene = np.ascontiguousarray(places.T)
        n = len(self.stages)
        resolution, widths = gene[0], gene[1 : 3 + n]
        total = self.stem.ravel()[resolution * self.stem.shape[1] + widths[0]]
        for i, table in enumerate(self.stages):
            choices = (widths[i], widths[i + 1], *gene[3 + n + i :: n])
            total += table.ravel()[_flat(resolution, choices, table.shape)]
        total += self.head.ravel()[_flat(resolution, widths[n:], self.head.shape)]
        return total / self.per_unit

    @cached_property
    def smallest(self) -> float:
        """The least cost of any architecture, in `unit`; the smallest architecture may cost more."""
        return self._extreme(np.min)

    @cached_property
    def largest(self) -> float:
        """The greatest cost of any architecture, in `unit`."""
        return self._extreme(np.max)

    def check_between(self, low: float, high: float, advice: str = "") -> None:
        """Nothing, if the interval from low to high (both included, in `unit`) meets the achievable range.

        Raises:
            InfeasibleTarget: if it does not; states the range, and the advice.
        """
        if not low <= high or high < self.smallest or low > self.largest:
            raise self.infeasible(f"between {low:g} and {high:g} {self.unit}", advice)

    def infeasible(self, target: str, advice: str = "") -> InfeasibleTarget:
        """The error for a target that no architecture meets, e.g. "at most 3 MFLOPs"; states the achievable range."""
        return InfeasibleTarget(target, self.smallest, self.largest, self.unit, advice)

    def _extreme(self, pick: np.ufunc) -> float:
        """Dynamic programme from the head back: the extreme of the remaining cost, per (resolution, width)."""
        rest = np.zeros(self.links[-1].shape[::2][:2], dtype=self.links[-1].dtype)
        for link in reversed(self.links):
            rest = pick(pick(link, axis=3) + rest[:, None, :], axis=2)
        return float(pick(rest) / self.per_unit)


def _flat(first: np.ndarray, others: tuple[np.ndarray, ...] | np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Indices into a raveled array; several times as fast as indexing with a tuple."""
    flat = first
    for place, size in zip(others, shape[1:], strict=True):
        flat = flat * size + place
    return flat
