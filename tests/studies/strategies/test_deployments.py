"""Table 3 against the published one and against products done by hand."""

import numpy as np
import pytest

from studies.strategies import deployments
from studies.strategies.deployments import Counts, Method, cheaper_from, from_scratch, from_supernet


def test_published_rows_are_those_of_the_paper():
    """For N = 40: 1,600k, 20k, 3.59k and 1.44k epochs."""
    costs = deployments.costs(deployments.PUBLISHED, [40])
    assert costs["cost"].tolist() == [1_600_000, 20_000, 3_590, 1_440]


def test_the_papers_supernet_costs_what_the_paper_says():
    """360 epochs of steps with four networks, nothing else counted: 1440."""
    assert from_supernet("uniform", Counts(360, 4)).fixed == 1440


def test_candidates_count_a_third_and_pretraining_in_full():
    """8 epochs x 4 networks = 32; + 8 x 6 candidates / 3 = 16; + 3 epochs x 4 = 12."""
    assert from_supernet("a", Counts(8, 4, 6)).fixed == pytest.approx(48)
    method = from_supernet("b", Counts(8, 4, 6, 3))
    assert method.fixed == pytest.approx(60)
    assert method.formula == "8 × 4 (supernet) + 8 × 6 / 3 (candidates forwarded) + 3 × 4 (pretraining)"


@pytest.mark.parametrize("counts", [Counts(8, 4), Counts(8, 4, 6), Counts(8, 4, 4), Counts(30, 4, 0, 3), Counts(7, 3, 100, 1)])
def test_cheaper_from_is_the_first_of_all_numbers_tried(counts):
    """By trying 1, 2, 3, ...: the first N at which the supernet costs less; at equal cost it does not yet."""
    one, other = from_supernet("supernet", counts), from_scratch(counts.epochs)
    thirds = counts.epochs * (3 * counts.trained + counts.forwarded) + 3 * counts.pretraining_epochs * counts.trained
    assert cheaper_from(one, other) == next(n for n in range(1, 1000) if thirds < 3 * n * counts.epochs)


def test_a_method_that_is_never_cheaper_has_no_break_even():
    """More expensive from the start and rising as fast: None; cheaper at first only: refused; cheaper throughout: from 1."""
    cheap, expensive = Method("cheap", "here", "", 1, 2), Method("expensive", "here", "", 5, 2)
    assert cheaper_from(expensive, cheap) is None and cheaper_from(cheap, expensive) == 1
    assert cheaper_from(Method("most_expensive", "here", "", 9, 9), cheap) is None
    with pytest.raises(ValueError, match="few deployments only"):
        cheaper_from(Method("steep", "here", "", 0, 2.5), cheap)


def test_the_sentence_names_both_and_the_number():
    """8 x 4 = 32 against 8 N: equal at 4, cheaper from 5."""
    assert deployments.statement(from_supernet("uniform", Counts(8, 4)), from_scratch(8)) == (
        "uniform costs less than each network from scratch from 5 deployments on."
    )
    assert deployments.statement(Method("a", "here", "", 9, 9), Method("b", "here", "", 1, 1)) == "a never costs less than b."


def test_the_table_has_a_column_a_number_of_deployments():
    """1, 5 and 40 by default; costs with thousands separated."""
    table = deployments.table([*deployments.PUBLISHED, from_scratch(8)])
    assert list(table) == ["method", "source", "epochs × networks", "N = 1", "N = 5", "N = 40"]
    assert table["N = 40"].tolist() == ["1,600,000", "20,000", "3,590", "1,440", "320"]


def test_charts_keep_here_and_paper_apart():
    """One chart each, from N = 1 to the most, logarithmic; no chart without methods; every method is drawn."""
    mine = [from_supernet(f"s{i}", Counts(8, i)) for i in range(1, 10)]
    here, paper = deployments.charts([*mine, from_scratch(8), *deployments.PUBLISHED])
    assert len(here.series) == 10 and [s.name for s in paper.series] == [m.name for m in deployments.PUBLISHED]
    assert here.log_x and here.log_y and here.series[-1].y[[0, -1]].tolist() == [8, 800]
    assert np.array_equal(paper.series[2].y, 590 + 75 * paper.series[2].x)
    assert [c.key for c in deployments.charts([from_scratch(8)])] == ["deployments-here"]
