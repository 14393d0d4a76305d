"""First populations spread over the costs."""

import numpy as np
import pytest

from nas.cost import flops
from nas.sampling.exact import ExactSampler
from nas.sampling.uniform import StratifiedDraw
from nas.spaces import encoding


@pytest.fixture(scope="module")
def sampler(tiny_space) -> ExactSampler:
    table = flops.table(tiny_space, 10)
    return ExactSampler(table, (table.largest - table.smallest) / 8)


def spread(sampler: ExactSampler, strata: int) -> StratifiedDraw:
    def between(low, high, n, rng):
        return sampler.draw_between(low, high, n, rng).archs()

    return StratifiedDraw(between, sampler.table.smallest, sampler.table.largest, strata)


@pytest.mark.parametrize("n", [5, 40, 43])
def test_strata_get_the_same_number_of_architectures(n, sampler, rng):
    """Five strata, of which each gets n / 5, or one more or less."""
    archs = spread(sampler, 5)(n, rng)
    costs = sampler.table.costs(encoding.to_genes(archs))
    counts = np.histogram(costs, bins=5, range=(sampler.table.smallest, sampler.table.largest))[0]
    assert len(archs) == n and counts.max() - counts.min() <= 1


def test_strata_without_any_architecture_are_passed_over(sampler, rng):
    """More strata than there are different costs: 300 architectures all the same."""
    archs = spread(sampler, 20_000)(300, rng)
    assert len(archs) == 300


def test_the_seed_decides(sampler):
    """The same generator gives the same architectures in the same order."""
    draws = [spread(sampler, 6)(30, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


def test_no_architecture_at_all_raises(rng):
    """Where every stratum is empty."""

    def between(low, high, n, rng):
        raise ValueError("none")

    with pytest.raises(ValueError, match="no architecture costs between 1 and 2"):
        StratifiedDraw(between, 1, 2)(3, rng)
