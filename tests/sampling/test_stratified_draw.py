"""Draws stratified by cost."""

import numpy as np
import pytest

from nas.cost import flops
from nas.cost.infeasible import InfeasibleTarget
from nas.sampling.exact import ExactSampler
from nas.sampling.uniform import StratifiedDraw
from nas.spaces import encoding


@pytest.fixture(scope="module")
def sampler(tiny_space) -> ExactSampler:
    table = flops.table(tiny_space, 10)
    return ExactSampler(table, (table.largest - table.smallest) / 8)


def stratified(sampler: ExactSampler, strata: int) -> StratifiedDraw:
    def between(low, high, n, rng):
        return sampler.draw_between(low, high, n, rng).archs()

    return StratifiedDraw(between, sampler.table.smallest, sampler.table.largest, strata)


@pytest.mark.parametrize("n", [5, 40, 43])
def test_strata_get_the_same_number_of_architectures(n, sampler, rng):
    """Each of five strata gets n / 5, or one more or less."""
    archs = stratified(sampler, 5)(n, rng)
    costs = sampler.table.costs(encoding.to_genes(archs))
    counts = np.histogram(costs, bins=5, range=(sampler.table.smallest, sampler.table.largest))[0]
    assert len(archs) == n and counts.max() - counts.min() <= 1


def test_empty_strata_are_skipped(sampler, rng):
    """With more strata than different costs the draw still returns 300 architectures."""
    archs = stratified(sampler, 20_000)(300, rng)
    assert len(archs) == 300


def test_the_seed_decides(sampler):
    """The same generator gives the same architectures in the same order."""
    draws = [stratified(sampler, 6)(30, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


def test_only_empty_strata_raise(rng):
    """The error states the achievable range."""

    def between(low, high, n, rng):
        raise InfeasibleTarget(f"between {low:g} and {high:g}", 3, 4)

    with pytest.raises(InfeasibleTarget, match="no architecture costs between 1 and 2; the achievable range is 3 to 4"):
        StratifiedDraw(between, 1, 2)(3, rng)
