"""nas.differentiable.hardcore_nas.evolution: within the target, near the exact optimum, ahead of random search."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import Bounds, LinearConstraint, milp

from nas.cost.infeasible import InfeasibleTarget
from nas.cost.latency_hardcore_nas import Latency
from nas.differentiable.hardcore_nas.effort import Settings
from nas.differentiable.hardcore_nas.evolution import Evolution, RandomSearch, Within, child, mutant, search
from nas.runtime import seeding
from nas.spaces.hardcore_nas import Arch, Space, load

SPACE = load(Path("nas/spaces/hardcore_nas_glyphs.yaml"))
SHAPE = (len(SPACE.stages), SPACE.blocks, len(SPACE.configurations))
BLOCKS = SHAPE[0] * SHAPE[1]
SETTINGS = Settings(population=40, parents=12, mutations=20, crossovers=20, rounds=15, mutation_probability=0.15)


def made_up(seed: int) -> tuple[Latency, np.ndarray]:
    """Milliseconds of blocks, and what each block takes off the loss: more for slower ones, with noise."""
    rng = np.random.default_rng(seed)
    ms = rng.uniform(0.1, 1, SHAPE)
    return Latency(1.0, ms, SPACE.offered), ms * rng.uniform(0.5, 1.5, SHAPE)


def gain(gains: np.ndarray, arch: Arch) -> float:
    return sum(gains[s, b, c] for s, stage in enumerate(arch) for b, c in enumerate(stage))


def optimum(latency: Latency, gains: np.ndarray, target_ms: float) -> float:
    """The largest gain of any network within the target, by scipy: x chooses a configuration in each block that runs, y says which run."""
    n = gains.size
    one = np.kron(np.eye(BLOCKS), np.ones(SHAPE[2]))  # sum_c x_bc - y_b = 0
    order = np.zeros((BLOCKS, BLOCKS))  # y_b <= y_(b - 1) in a stage
    for b in range(BLOCKS):
        order[b, b] = 1
        if b % SHAPE[1]:
            order[b, b - 1] = -1
    first = np.arange(BLOCKS) % SHAPE[1] == 0
    rows = [
        LinearConstraint(np.hstack([one, -np.eye(BLOCKS)]), 0, 0),
        LinearConstraint(np.hstack([np.zeros((BLOCKS, n)), order]), -np.inf, np.where(first, 1, 0)),
        LinearConstraint(np.concatenate([latency.blocks_ms.ravel(), np.zeros(BLOCKS)]), -np.inf, target_ms - latency.fixed_ms),
    ]
    lower = np.concatenate([np.zeros(n), first])  # the first block of each stage runs
    found = milp(np.concatenate([-gains.ravel(), np.zeros(BLOCKS)]), constraints=rows, integrality=1, bounds=Bounds(lower, 1))
    return -found.fun


def test_every_network_is_within_the_target_and_none_is_scored_twice():
    """Of both methods, for a tight target and a loose one, checked against sums by hand."""
    latency, gains = made_up(0)
    low, high = latency.range_ms
    for share in (0.1, 0.5):
        target = low + share * (high - low)
        within = Within(SPACE, latency, target)
        for method in (Evolution(within, SETTINGS), RandomSearch(within, 200, 50)):
            *_, found = search(method, partial(gain, gains), partial(seeding.generator, 0, "test"))
            scored = [SPACE.check(one.arch) for one in found]
            assert len(set(scored)) == len(scored) > 100
            assert max(1 + gain(latency.blocks_ms, arch) for arch in scored) <= target * (1 + 1e-9)


def test_evolution_comes_near_the_optimum_and_beats_random_search():
    """On additive gains, within 5 % of scipy's optimum in the mean of five tables; above as many random networks on each."""
    shares = []
    for seed in range(5):
        latency, gains = made_up(seed)
        low, high = latency.range_ms
        target = low + 0.3 * (high - low)
        within = Within(SPACE, latency, target)
        *_, found = search(Evolution(within, SETTINGS), partial(gain, gains), partial(seeding.generator, seed, "evolution"))
        *_, drawn = search(RandomSearch(within, len(found), 80), partial(gain, gains), partial(seeding.generator, seed, "random"))
        assert len(drawn) == len(found) > 500
        best, best_drawn = (max(one.score for one in each) for each in (found, drawn))
        exact = optimum(latency, gains, target)
        assert best_drawn < best <= exact + 1e-9
        shares.append(best / exact)
    assert np.mean(shares) > 0.95


def test_a_search_goes_on_where_it_stopped():
    """From any round on the same networks are scored as without a stop."""
    latency, gains = made_up(1)
    method = Evolution(Within(SPACE, latency, sum(latency.range_ms) / 2), SETTINGS)
    rounds = list(search(method, partial(gain, gains), partial(seeding.generator, 1, "test")))
    again = list(search(method, partial(gain, gains), partial(seeding.generator, 1, "test"), rounds[4], 5))
    assert len(rounds) == 1 + SETTINGS.rounds and again == rounds[5:]


def test_a_space_with_few_networks_ends_the_search():
    """Where only the fastest network is within the target, both score it alone."""
    latency, gains = made_up(2)
    within = Within(SPACE, latency, latency.range_ms[0])
    for method in (Evolution(within, SETTINGS), RandomSearch(within, 10, 5)):
        *_, found = search(method, partial(gain, gains), partial(seeding.generator, 0, "test"))
        assert [latency.of(one.arch) for one in found] == pytest.approx([latency.range_ms[0]])


def test_an_impossible_target_is_refused():
    """With both ends of what is possible."""
    latency, _ = made_up(0)
    with pytest.raises(InfeasibleTarget, match="achievable range"):
        Within(SPACE, latency, 0.5 * latency.range_ms[0])


@pytest.mark.parametrize("probability", [0.1, 1.0])
def test_mutants_and_children_are_in_the_space(probability):
    """Whatever the parents; a mutant of probability 1e-9 is its parent, a child of one parent twice is the parent."""
    rng = np.random.default_rng(0)
    space: Space = SPACE
    for _ in range(100):
        one, other = space.random(rng), space.random(rng)
        space.check(mutant(space, one, probability, rng))
        space.check(child(one, other, rng))
        assert mutant(space, one, 1e-9, rng) == one == child(one, one, rng)
