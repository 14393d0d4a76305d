"""Objectives, bounds, fronts and volumes of a problem, on numbers small enough to do by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.cost import flops, parameters
from nas.cost.infeasible import InfeasibleTarget
from nas.evaluation.metrics import hypervolume
from nas.search.archive import Archive
from nas.search.family import family_for_targets
from nas.search.problem import Objective, Problem, cost_objective, score_objective
from nas.spaces import encoding


def resolution(rows: np.ndarray) -> np.ndarray:
    return rows[:, 0].astype(float)


def stem(rows: np.ndarray) -> np.ndarray:
    return rows[:, 1].astype(float)


@pytest.fixture
def evaluated(tiny_rows) -> Archive:
    """Resolution and stem of five: (16, 8), (16, 16), (20, 8), (20, 16), and (16, 16) with other genes."""
    rows = np.stack([tiny_rows[(tiny_rows[:, :2] == ends).all(axis=1)][k] for ends, k in zip(ENDS, (0, 0, 0, 0, 1))])
    return Archive(rows, resolution(rows), np.array([50.0, 60, 55, 70, 58]), np.zeros(5, int))


ENDS = ((16, 8), (16, 16), (20, 8), (20, 16), (16, 16))
SIDE, STEM = Objective("side", resolution), Objective("stem", stem)


def test_the_front_of_two_objectives_by_hand(tiny_space, evaluated):
    """Side and score: 60 at 16 and 70 at 20."""
    assert Problem(tiny_space, (SIDE, score_objective())).front(evaluated).tolist() == [1, 3]


def test_the_front_of_three_objectives_by_hand(tiny_space, evaluated):
    """With the stem each of (16, 8), (16, 16), (20, 8), (20, 16) is best for something; the fifth is beaten by the second."""
    assert sorted(Problem(tiny_space, (SIDE, STEM, score_objective())).front(evaluated)) == [0, 1, 2, 3]


def test_bounds_cut_the_front(tiny_space, evaluated):
    """Stems up to 8 leave 50 and 55; scores from 52, the latter."""
    narrow = Objective("stem", stem, high=8)
    assert Problem(tiny_space, (SIDE, score_objective()), constraints=(narrow,)).front(evaluated).tolist() == [0, 2]
    assert Problem(tiny_space, (SIDE, score_objective(low=52)), constraints=(narrow,)).front(evaluated).tolist() == [2]


def test_an_objective_may_be_maximised(tiny_space, evaluated):
    """With a larger side better, 70 at 20 dominates everything."""
    assert Problem(tiny_space, (Objective("side", resolution, larger_is_better=True), score_objective())).front(evaluated).tolist() == [3]


def test_no_front_within_the_bounds_raises(tiny_space, evaluated):
    """The message states the range of the scores and the bounds."""
    with pytest.raises(ValueError, match=r"top1 was 50 to 70, the bounds are 75 to inf"):
        Problem(tiny_space, (SIDE, score_objective(low=75))).front(evaluated)


def test_violated_bounds_add_no_volume(tiny_space, evaluated):
    """Of 60 at 16 and 70 at 20 only the latter counts from 65 on, and nothing from 75 on."""
    volumes = [Problem(tiny_space, (SIDE, score_objective(low=low))).hypervolume(evaluated, (24, 50), (1, 1)) for low in (0, 65, 75)]
    assert volumes == [4 * 20 + 4 * 10, 4 * 20, 0]


def test_the_volume_of_three_objectives_by_hand(tiny_space, evaluated):
    """Up to (24, 24, 40): by slices of the score, 10 x (8 x 16) + 5 x (8 x 8 + ...) counted cell by cell."""
    volume = Problem(tiny_space, (SIDE, STEM, score_objective())).hypervolume(evaluated, reference=(24, 24, 40), scale=(1, 1, 1))
    best = {(s, t): max(v for (a, b), v in zip(ENDS, evaluated.score) if a <= s and b <= t) for s in (16, 20) for t in (8, 16)}
    assert volume == sum((best[s, t] - 40) * 4 * 8 for s in (16, 20) for t in (8, 16))


@given(st.lists(st.tuples(st.floats(1, 30), st.floats(0, 100)), min_size=1, max_size=20))
def test_the_volume_of_two_objectives_is_the_familys(points):
    """With reference (largest, chance) and scale (largest, 100)."""
    cost, score = (np.array(column) for column in zip(*points))
    rows = np.arange(len(points))[:, None]
    problem = Problem(None, (Objective("mflops", lambda rows: cost[rows[:, 0]]), score_objective()))
    volume = problem.hypervolume(Archive(rows, cost, score, np.zeros(len(rows), int)), (25, 4), (25, 100))
    assert volume == pytest.approx(hypervolume(cost, score, 25, 4), abs=1e-12)


def test_infeasible_bounds_on_a_table_state_the_range(tiny_space):
    """The error states the achievable range before anything is evaluated."""
    with pytest.raises(InfeasibleTarget, match=r"achievable range is .*; change params\.yaml: search\.bounds\.mflops"):
        cost_objective("mflops", flops.table(tiny_space, 10), low=1e6)


@pytest.mark.parametrize(
    "objectives",
    [
        (SIDE,),
        (score_objective(),),
        (SIDE, score_objective(), score_objective("loss")),
        (SIDE, SIDE, score_objective()),
        (SIDE, Objective("top1", None)),
    ],
)
def test_objectives_are_the_score_and_costs(objectives, tiny_space):
    """No score, no cost, two scores, a repeated name and a score to minimise are refused."""
    with pytest.raises(ValueError, match=r"score|name of its own"):
        Problem(tiny_space, objectives)


def test_a_frame_has_every_cost(tiny_space, evaluated):
    """Genes, the objectives and constraints by their names, the round and whether they are in the front."""
    frame = Problem(tiny_space, (SIDE, score_objective()), constraints=(STEM,)).to_frame(evaluated)
    assert list(frame)[-5:] == ["side", "top1", "stem", "round", "front"] and "resolution" in frame
    frame = Problem(tiny_space, (SIDE, STEM, score_objective())).to_frame(evaluated)
    assert frame["stem"].tolist() == [8, 16, 8, 16, 16] and frame["front"].tolist() == [True, True, True, True, False]


def test_targets_on_several_costs(tiny_space, tiny_rows):
    """For every pair of limits the best of all 2304 within both, by enumeration; equal best models are one model."""
    mflops, sizes = flops.table(tiny_space, 10), parameters.table(tiny_space, 10)
    problem = Problem(tiny_space, (cost_objective("mflops", mflops), cost_objective("parameters", sizes), score_objective()))
    score = np.random.default_rng(0).permutation(len(tiny_rows)) / 100
    everything = Archive(tiny_rows, mflops.costs(tiny_rows), score, np.zeros(len(tiny_rows), int))
    targets = [
        {"mflops": float(np.quantile(everything.cost, a)), "parameters": float(np.quantile(sizes.costs(tiny_rows), b))}
        for a, b in ((0.2, 0.5), (0.6, 0.3), (1, 1), (1, 1))
    ]
    best = {score[(everything.cost <= t["mflops"]) & (sizes.costs(tiny_rows) <= t["parameters"])].max() for t in targets}
    models = family_for_targets(problem, everything, "toy", targets)
    assert {m.score for m in models} == best and [m.name for m in models] == [f"toy-a{i}" for i in range(len(best))]
    assert all(everything.score[(tiny_rows == encoding.to_genes([m.arch])).all(axis=1)] == m.score for m in models)


def test_targets_on_one_cost_give_the_most_accurate_model_within_them(tiny_space, evaluated):
    """Sides up to 17 and 20 give 60 and 70; 18 gives the same model as 17; a limit met exactly is met."""
    problem = Problem(tiny_space, (SIDE, score_objective()))
    models = family_for_targets(problem, evaluated, "toy", [{"side": 20}, {"side": 17}, {"side": 18}])
    assert [(m.name, m.cost, m.score) for m in models] == [("toy-a0", 16, 60), ("toy-a1", 20, 70)]
    assert [m.score for m in family_for_targets(problem, evaluated, "toy", [{"side": 16}])] == [60]


@pytest.mark.parametrize(
    ("targets", "message"), [([], r"search\.targets: empty"), ([{"watts": 1}], "'watts' is not one of"), ([{"side": 15}], r"'side': 16")]
)
def test_infeasible_targets_are_refused(targets, message, tiny_space, evaluated):
    """No targets, an unknown cost, and a limit below the cheapest are named."""
    with pytest.raises(ValueError, match=message):
        family_for_targets(Problem(tiny_space, (SIDE, score_objective())), evaluated, "toy", targets)
