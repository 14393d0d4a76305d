"""Made-up accuracies over a search space, to try searches on without a supernet.

A random forest fitted to made-up measurements: nobody has all architectures of the paper's space measured, and a forest
is what the paper itself takes for one (AttentiveNAS, arXiv:2011.09011, section 4.3). What the measurements have in common
with real ones, and nothing more is claimed: accuracy is concave in the logarithm of cost; each gene has gains that
diminish, of a size of its own, so that some cost more than they are worth; depth and width of a stage, and the
resolution and the depth of early stages, help each other; pairs of choices have gains and losses of their own
(ruggedness); a measurement has noise. The forest then makes steps of it all. Structures differ in how much of each.
"""

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

import nas
from nas import encoding, space
from nas.cost import flops
from nas.cost.table import CostTable
from nas.sampling.flops import ExactSampler
from nas.search.predictor import Forest
from nas.space import Arch, SearchSpace


@dataclass(frozen=True)
class Structure:
    """How much of the top-1 accuracy comes from what; percentage points between a weak and a strong choice."""

    name: str
    cost: float = 6.0  # from the cheapest to the dearest, by cost alone
    genes: float = 6.0  # all genes together, each by itself
    balance: float = 2.0  # widths, depths and resolution that fit each other
    pairs: float = 0.6  # standard deviation over architectures of what pairs of choices add
    noise: float = 0.2  # standard deviation of a measurement
    measured: int = 4000  # architectures that the forest is fitted to
    trees: int = 50


STRUCTURES = (
    Structure("smooth", pairs=0.2, noise=0.05),
    Structure("mixed"),
    Structure("rugged", genes=4.0, pairs=1.0, noise=0.4),
    Structure("genes", cost=2.0, genes=10.0, balance=1.0),
)


@dataclass(frozen=True, eq=False)
class Oracle:
    """Scores of architectures; the same one gets the same score."""

    forest: Forest

    def __call__(self, archs: list[Arch]) -> np.ndarray:
        """Top-1, percent, (n,)."""
        return self.forest.predict(encoding.to_rows(archs))


def paper_table() -> CostTable:
    """MFLOPs over the space of AttentiveNAS, 1000 classes."""
    return flops.table(space.load(Path(nas.__file__).parent / "spaces" / "attentive_nas.yaml"), 1000)


def build(table: CostTable, structure: Structure, seed: int) -> Oracle:
    """An oracle; seeds give other gains, pairs and noise."""
    rng = np.random.default_rng([seed, len(structure.name), int(structure.genes)])
    sampler = ExactSampler(table, (table.largest - table.smallest) / 64, bins=20_000)
    flat = sampler.prior().flat()
    even = [sampler.draw(flat.draw(rng), structure.measured // 128, rng).rows for _ in range(64)]
    rows = np.concatenate([*even, encoding.random_rows(table.space, structure.measured - sum(map(len, even)), rng)])
    top1 = measurements(table, structure, rows, rng)
    return Oracle(Forest.fit(rows, top1, trees=structure.trees, max_depth=15, seed=seed, features=0.5))


def measurements(table: CostTable, structure: Structure, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Made-up top-1, percent: rows (n, genes) -> (n,)."""
    unit = _unit(table.space, rows)
    dear = np.log(table.costs(rows) / table.smallest) / np.log(table.largest / table.smallest)
    free = np.array([len(g.choices) > 1 for g in table.space.genes])
    weight = rng.gamma(1.0, size=len(free)) * free
    top1 = 70 + structure.cost * (1 - (1 - dear) ** 2)
    top1 += structure.genes * (unit ** rng.uniform(0.3, 0.9, len(free))) @ (weight / weight.sum())
    top1 += structure.balance * _balance(table.space, unit, rng)
    top1 += structure.pairs * _pairs(table.space, rows, np.flatnonzero(free), rng)
    return top1 + rng.normal(0, structure.noise, len(rows))


def _unit(space: SearchSpace, rows: np.ndarray) -> np.ndarray:
    """Places of the choices from 0, the smallest, to 1; 0 where there is no choice."""
    last = np.array([len(g.choices) - 1 for g in space.genes])
    return encoding.indices(space, rows) / np.maximum(last, 1)


def _balance(space: SearchSpace, unit: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Minus the mean squared mismatch of a stage's depth and width, of neighbours' depths and of each depth and the resolution."""
    n = len(space.stages)
    widths, depths, resolution = unit[:, 2 : 2 + n], unit[:, 3 + n : 3 + 2 * n], unit[:, :1]
    mismatches = np.concatenate([widths - depths, np.diff(depths, axis=1), depths - resolution], axis=1) ** 2
    return -mismatches @ rng.dirichlet(np.ones(mismatches.shape[1])) * 2


def _pairs(space: SearchSpace, rows: np.ndarray, genes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A number for each pair of choices of 60 pairs of genes, summed, with standard deviation 1 over uniform architectures."""
    places = encoding.indices(space, rows)
    every = list(combinations(genes.tolist(), 2))
    total = np.zeros(len(rows))
    for at in rng.choice(len(every), size=min(60, len(every)), replace=False):
        a, b = every[at]
        gains = rng.normal(size=(len(space.genes[a].choices), len(space.genes[b].choices)))
        total += gains[places[:, a], places[:, b]]
    return total / np.sqrt(min(60, len(every)))
