"""Cost tables and exact counting, against sums written out and listed architectures."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.cost.infeasible import InfeasibleTarget
from nas.cost.table import CostTable
from nas.sampling.exact import Counter
from nas.spaces import encoding


def random_table(space, seed: int, whole: bool) -> CostTable:
    """Entries that follow no order, so that the smallest architecture is not the cheapest."""
    rng = np.random.default_rng(seed)
    arrays = [rng.integers(0, 50, shape) if whole else rng.random(shape) for shape in CostTable.shapes(space)]
    return CostTable(space, "ms", 1, arrays[0], tuple(arrays[1:-1]), arrays[-1])


def test_cost_is_the_sum_along_the_chain(tiny_space, rng):
    """Stem, two stages and head, each looked up by name."""
    table = random_table(tiny_space, 0, whole=False)
    row = encoding.random_genes(tiny_space, 1, rng)
    place = {g.name: g.choices.index(v) for g, v in zip(tiny_space.genes, row[0])}
    r = place["resolution"]
    before = [place["stem.width"], place["mb1.width"]]
    stages = [
        t[r, b, place[f"{s}.width"], place[f"{s}.depth"], place[f"{s}.kernel"], place[f"{s}.expansion"]]
        for t, b, s in zip(table.stages, before, ("mb1", "mb2"))
    ]
    by_hand = table.stem[r, before[0]] + sum(stages) + table.head[r, place["mb2.width"], place["head.width"]]

    assert table.costs(row)[0] == pytest.approx(by_hand)


@given(seed=st.integers(0, 1000), whole=st.booleans())
@settings(max_examples=20, deadline=None)
def test_extremes_are_those_of_all_architectures(tiny_space, tiny_rows, seed, whole):
    """smallest and largest equal the minimum and maximum over the whole space, listed."""
    table = random_table(tiny_space, seed, whole)
    costs = table.costs(tiny_rows)

    assert table.smallest == pytest.approx(costs.min())
    assert table.largest == pytest.approx(costs.max())


@given(seed=st.integers(0, 1000), whole=st.booleans())
@settings(max_examples=20, deadline=None)
def test_counting_agrees_with_listing(tiny_space, tiny_rows, seed, whole):
    """The number of architectures below a bound, bounds that are themselves costs included."""
    table = random_table(tiny_space, seed, whole)
    costs = np.sort(table.costs(tiny_rows))
    counter = Counter(table)
    bounds = [0.0, *(costs[::200] if whole else costs[::200] + 1e-9), costs[-1] + 1]

    assert counter.below(bounds).tolist() == [np.sum(costs < b) for b in bounds]
    assert counter.between(costs[300], costs[1700]) == np.sum((costs >= costs[300]) & (costs <= costs[1700]))


def test_an_array_of_the_wrong_shape_is_refused(tiny_space):
    """A head array that lacks a resolution is named by its shape."""
    table = random_table(tiny_space, 0, whole=True)
    with pytest.raises(ValueError, match=r"\(1, 3, 2\)"):
        dataclasses.replace(table, head=table.head[:1])


def test_a_value_that_is_not_offered_is_refused(tiny_space):
    """A kernel of 7 is no choice of mb1."""
    arch = tiny_space.smallest()
    wrong = dataclasses.replace(arch, stages=(dataclasses.replace(arch.stages[0], kernel=7), arch.stages[1]))
    with pytest.raises(ValueError, match=r"mb1\.kernel 7"):
        random_table(tiny_space, 0, whole=True).cost(wrong)


def test_bounds_out_of_reach_state_the_range(tiny_space):
    """Bounds above the largest cost, or the wrong way round, raise with both ends of the range."""
    table = random_table(tiny_space, 0, whole=True)
    for low, high in ((table.largest + 1, table.largest + 2), (2.0, 1.0)):
        with pytest.raises(InfeasibleTarget, match=f"{table.smallest:.6g} to {table.largest:.6g} ms"):
            table.check_between(low, high)
