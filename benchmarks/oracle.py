"""Synthetic accuracies over a search space: oracles that searches are benchmarked on without a supernet.

An oracle is a random forest fitted to synthetic measurements, as the paper's accuracy predictor is fitted to real ones
(AttentiveNAS, arXiv:2011.09011, section 4.3). The measurements share these properties with real ones: accuracy is concave
in the logarithm of cost; every gene has diminishing gains of its own size, so that some cost more than they are worth;
depth and width of a stage, and the resolution and the depth of early stages, reinforce each other; pairs of choices have
gains and losses (ruggedness); a measurement has noise. The forest turns all of it into steps. Structures differ in the size
of these terms, and in the measured architectures: "measured" has a thousand uniformly random ones, as the paper's
predictor, so that it is flat towards both ends of the costs; "formula" has no forest.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np

import nas
from nas.cost import flops
from nas.cost.table import CostTable
from nas.sampling.exact import ExactSampler
from nas.search.predictor import Forest
from nas.spaces import encoding, mbconv
from nas.spaces.mbconv import Arch, SearchSpace


@dataclass(frozen=True)
class Structure:
    """Size of every term of the top-1 accuracy: percentage points between a weak and a strong choice."""

    name: str
    cost: float = 6.0  # from the cheapest to the most expensive, by cost alone
    genes: float = 6.0  # sum of the genes' own gains
    balance: float = 2.0  # widths, depths and resolution that fit each other
    pairs: float = 0.6  # standard deviation over architectures of what pairs of choices add
    noise: float = 0.2  # standard deviation of a measurement
    measured: int = 4000  # architectures that the forest is fitted to; 0: no forest, the sum of the above without noise
    even: float = 0.5  # share of these spread evenly over the costs; the others are uniformly random
    trees: int = 50


STRUCTURES = (
    Structure("smooth", pairs=0.2, noise=0.05),
    Structure("mixed"),
    Structure("rugged", genes=4.0, pairs=1.0, noise=0.4),
    Structure("genes", cost=2.0, genes=10.0, balance=1.0),
    Structure("measured", measured=1024, even=0.0, trees=100),
    Structure("formula", measured=0),
)


@dataclass(frozen=True, eq=False)
class Oracle:
    """A deterministic score of architectures."""

    top1: Callable[[np.ndarray], np.ndarray]  # (n, genes) -> (n,) percent

    def __call__(self, archs: list[Arch]) -> np.ndarray:
        """Top-1, percent, (n,)."""
        return self.top1(encoding.to_genes(archs))


def load_table(name: str, classes: int) -> CostTable:
    """MFLOPs over a search space of the package."""
    return flops.table(mbconv.load(Path(nas.__file__).parent / "spaces" / f"{name}.yaml"), classes)


def build(table: CostTable, structure: Structure, seed: int) -> Oracle:
    """Build an oracle; the seed determines gains, pairs and noise."""
    start = [seed, len(structure.name), int(structure.genes)]
    if structure.measured == 0:
        exact = replace(structure, noise=0.0)
        return Oracle(lambda rows: measurements(table, exact, rows, np.random.default_rng(start)))
    rng = np.random.default_rng(start)
    rows = _measured(table, structure, rng)
    top1 = measurements(table, structure, rows, rng)
    return Oracle(Forest.fit(rows, top1, trees=structure.trees, max_depth=15, seed=seed, features=0.5).predict)


def _measured(table: CostTable, structure: Structure, rng: np.random.Generator) -> np.ndarray:
    """Architectures to measure, (measured, genes): equally many at 64 costs, then uniformly random ones."""
    per_cost = int(structure.measured * structure.even) // 64
    if not per_cost:
        return encoding.random_genes(table.space, structure.measured, rng)
    sampler = ExactSampler(table, (table.largest - table.smallest) / 64, bins=20_000)
    flat = sampler.prior().flat()
    even = [sampler.draw(flat.draw(rng), per_cost, rng).rows for _ in range(64)]
    return np.concatenate([*even, encoding.random_genes(table.space, structure.measured - sum(map(len, even)), rng)])


def measurements(table: CostTable, structure: Structure, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Synthetic top-1, percent: rows (n, genes) -> (n,)."""
    unit = _unit(table.space, rows)
    relative_cost = np.log(table.costs(rows) / table.smallest) / np.log(table.largest / table.smallest)
    free = np.array([len(g.choices) > 1 for g in table.space.genes])
    weight = rng.gamma(1.0, size=len(free)) * free
    top1 = 70 + structure.cost * (1 - (1 - relative_cost) ** 2)
    top1 += structure.genes * (unit ** rng.uniform(0.3, 0.9, len(free))) @ (weight / weight.sum())
    top1 += structure.balance * _balance(table.space, unit, rng)
    top1 += structure.pairs * _pairs(table.space, rows, np.flatnonzero(free), rng)
    return top1 + rng.normal(0, structure.noise, len(rows))


def _unit(space: SearchSpace, rows: np.ndarray) -> np.ndarray:
    """Positions of the choices from 0, the smallest, to 1; 0 where there is no choice."""
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
    pairs = list(combinations(genes.tolist(), 2))
    total = np.zeros(len(rows))
    for at in rng.choice(len(pairs), size=min(60, len(pairs)), replace=False):
        a, b = pairs[at]
        gains = rng.normal(size=(len(space.genes[a].choices), len(space.genes[b].choices)))
        total += gains[places[:, a], places[:, b]]
    return total / np.sqrt(min(60, len(pairs)))
