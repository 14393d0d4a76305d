"""Evolution over a HardCoRe-NAS space: within the target, near the exact optimum, better than random search."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import Bounds, LinearConstraint, milp

from nas.cost.infeasible import InfeasibleTarget
from nas.cost.latency_hardcore_nas import ExpectedLatency
from nas.runtime.checkpoint import Checkpoint
from nas.search.archive import Archive
from nas.search.evolution import RandomSearch
from nas.search.loop import Method, search
from nas.spaces.hardcore_nas import Arch, load
from studies.methods import oneshot
from studies.methods.evolution import Evolution, EvolutionConfig, GeneSpace, cross_blocks, latency_problem, max_entropy_draw, mutate_blocks

SPACE = load(Path("nas/spaces/hardcore_nas_glyphs.yaml"))
SHAPE = (len(SPACE.stages), SPACE.blocks, len(SPACE.configurations))
BLOCKS = SHAPE[0] * SHAPE[1]
CONFIG = EvolutionConfig(population=40, parents=12, mutations=20, crossovers=20, rounds=15, mutation_probability=0.15)


def random_table(seed: int) -> tuple[ExpectedLatency, np.ndarray]:
    """Milliseconds of blocks, and the gain of each block: more for slower ones, with noise."""
    rng = np.random.default_rng(seed)
    ms = rng.uniform(0.1, 1, SHAPE)
    return ExpectedLatency(1.0, ms, SPACE.offered), ms * rng.uniform(0.5, 1.5, SHAPE)


def gain(gains: np.ndarray, arch: Arch) -> float:
    return sum(gains[s, b, c] for s, stage in enumerate(arch) for b, c in enumerate(stage))


def optimum(latency: ExpectedLatency, gains: np.ndarray, target_ms: float) -> float:
    """The largest gain of any network within the target, by scipy: x selects a configuration per present block, y the present blocks."""
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
        LinearConstraint(np.concatenate([latency.blocks_ms.ravel(), np.zeros(BLOCKS)]), -np.inf, target_ms - latency.fixed_latency_ms),
    ]
    lower = np.concatenate([np.zeros(n), first])  # the first block of each stage runs
    solution = milp(np.concatenate([-gains.ravel(), np.zeros(BLOCKS)]), constraints=rows, integrality=1, bounds=Bounds(lower, 1))
    return -solution.fun


def evolve(latency: ExpectedLatency, target_ms: float, gains: np.ndarray, seed: int, **options) -> Archive:
    return run(Evolution(CONFIG, max_entropy_draw(latency, target_ms), "evolution"), latency, target_ms, gains, seed, **options)


def draw_at_random(latency: ExpectedLatency, target_ms: float, gains: np.ndarray, seed: int, evaluations: int, block: int) -> Archive:
    return run(RandomSearch(evaluations, block, max_entropy_draw(latency, target_ms)), latency, target_ms, gains, seed)


def run(method: Method, latency: ExpectedLatency, target_ms: float, gains: np.ndarray, seed: int, **options) -> Archive:
    return search(method, latency_problem(SPACE, latency, target_ms), score=scores(gains), seed=seed, **options)


def scores(gains: np.ndarray) -> Callable[[list[Arch]], list[float]]:
    return lambda archs: [gain(gains, arch) for arch in archs]


def test_every_network_is_within_the_target_and_none_is_scored_twice():
    """Both methods keep a tight and a loose target, checked against sums by hand."""
    latency, gains = random_table(0)
    low, high = latency.range_ms
    for share in (0.1, 0.5):
        target = low + share * (high - low)
        for archive in (evolve(latency, target, gains, 0), draw_at_random(latency, target, gains, 0, 200, 50)):
            archs = [SPACE.check(arch) for arch in GeneSpace(SPACE).decode(archive.rows)]
            assert len(set(archs)) == len(archs) > 100
            assert max(1 + gain(latency.blocks_ms, arch) for arch in archs) <= target * (1 + 1e-9)


def test_evolution_comes_near_the_optimum_and_beats_random_search():
    """On additive gains evolution reaches 95 % of scipy's optimum in the mean of five tables and beats random search on each."""
    shares = []
    for seed in range(5):
        latency, gains = random_table(seed)
        low, high = latency.range_ms
        target = low + 0.3 * (high - low)
        evolved = evolve(latency, target, gains, seed)
        drawn = draw_at_random(latency, target, gains, seed, len(evolved), 80)
        assert len(drawn) == len(evolved) > 500
        best, best_drawn = evolved.score.max(), drawn.score.max()
        exact = optimum(latency, gains, target)
        assert best_drawn < best <= exact + 1e-9
        shares.append(best / exact)
    assert np.mean(shares) > 0.95


def test_a_resumed_search_ends_as_the_undisturbed_one():
    """From round 4 on the same networks are scored as without a stop."""
    latency, gains = random_table(1)
    target, rounds = sum(latency.range_ms) / 2, []
    whole = evolve(latency, target, gains, 1, on_round=lambda archive, number: rounds.append(archive))
    resumed = evolve(latency, target, gains, 1, archive=rounds[4])
    assert len(rounds) == 1 + CONFIG.rounds
    assert all(np.array_equal(a, b) for a, b in zip(whole.to_arrays().values(), resumed.to_arrays().values()))


def test_a_space_with_few_networks_ends_the_search():
    """Where only the fastest network is within the target, both methods evaluate only it."""
    latency, gains = random_table(2)
    target = latency.range_ms[0]
    for archive in (evolve(latency, target, gains, 0), draw_at_random(latency, target, gains, 0, 10, 5)):
        assert archive.cost == pytest.approx([target])


def test_an_impossible_target_is_refused():
    """The message states the achievable range."""
    latency, _ = random_table(0)
    with pytest.raises(InfeasibleTarget, match="achievable range is"):
        latency_problem(SPACE, latency, 0.5 * latency.range_ms[0])


@pytest.mark.parametrize("probability", [0.1, 1.0])
def test_mutations_and_crossovers_are_in_the_space(probability):
    """A mutation of probability 1e-9 is its parent, and so is a crossover of one parent with itself."""
    rng, space = np.random.default_rng(0), GeneSpace(SPACE)
    parents, others = (space.encode([SPACE.random(rng) for _ in range(100)]) for _ in range(2))
    for rows in (mutate_blocks(space, parents, probability, rng), cross_blocks(space, parents, others, rng)):
        for arch in space.decode(rows):
            SPACE.check(arch)
        assert np.array_equal(space.encode(space.decode(rows)), rows)  # absent blocks are -1
    assert np.array_equal(mutate_blocks(space, parents, 1e-9, rng), parents)
    assert np.array_equal(cross_blocks(space, parents, parents, rng), parents)


def test_a_crossover_takes_every_block_from_a_parent_that_has_it():
    """Depths and configurations come from either parent, position by position."""
    rng, space = np.random.default_rng(1), GeneSpace(SPACE)
    parents, others = (space.encode([SPACE.random(rng) for _ in range(100)]) for _ in range(2))
    crossed = cross_blocks(space, parents, others, rng)
    assert ((crossed == parents) | (crossed == others) | (crossed == -1)).all()
    assert (crossed != parents).any() and (crossed != others).any()


def test_rows_decode_to_their_architectures():
    """Random architectures, the smallest and the largest come back from their rows."""
    rng, space = np.random.default_rng(0), GeneSpace(SPACE)
    archs = [space.smallest(), space.largest(), *(SPACE.random(rng) for _ in range(20))]
    assert space.decode(space.encode(archs)) == archs


class Curve:
    """Points as `StageRun.log` gets them."""

    def __init__(self) -> None:
        self.points: list[tuple[float, int]] = []

    def log(self, values: dict[str, float], step: int) -> None:
        self.points += [(value, step) for value in values.values()]


def test_the_stage_resumes_an_interrupted_search(tmp_path):
    """Interrupted in round 5, the search resumes after round 4 and ends as the undisturbed one; the best score is logged per round."""
    latency, gains = random_table(3)
    target = sum(latency.range_ms) / 2
    problem, evaluated = latency_problem(SPACE, latency, target), []

    def stage(folder: str, patience: int) -> tuple[Archive, Curve]:
        curve = Curve()

        def score(arch: Arch) -> float:
            evaluated.append(arch)
            if len(evaluated) == patience:
                raise KeyboardInterrupt
            return gain(gains, arch)

        method = Evolution(CONFIG, max_entropy_draw(latency, target), "test")
        with Checkpoint(tmp_path / folder, "oneshot", "0" * 16) as checkpoint:
            return oneshot.run_search(method, problem, score, 0, checkpoint, curve, "evolution_a"), curve

    whole, curve = stage("undisturbed", 10**9)
    ends = np.bincount(whole.round).cumsum().tolist()
    assert curve.points == [(whole.score[:end].max(), end) for end in ends]
    evaluated.clear()
    with pytest.raises(KeyboardInterrupt):
        stage("interrupted", ends[4] + 7)
    resumed, _ = stage("interrupted", 10**9)
    assert all(np.array_equal(a, b) for a, b in zip(whole.to_arrays().values(), resumed.to_arrays().values()))
    assert len(evaluated) == len(whole) + 7
