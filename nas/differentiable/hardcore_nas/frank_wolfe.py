"""The search: block-coordinate stochastic Frank-Wolfe with the latency as a hard constraint, and the way back to a network.

HardCoRe-NAS (arXiv:2102.11646), Algorithm 1 and section 3.4. A step moves either alpha or beta a little way to the best
vertex of the set in which the other one stays and the latency is within the target: a linear programme
(`nas.differentiable.hardcore_nas.knapsack`). With the other one fixed that set is convex, so every point is within the target.
Blocks that do not run have no cost and no gradient: they are left out of the programme and stay as they are.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from nas.cost.latency_hardcore_nas import Latency
from nas.differentiable.hardcore_nas import knapsack
from nas.differentiable.hardcore_nas.relaxed import Point, certain
from nas.spaces.hardcore_nas import Arch

Gradients = Callable[[Point, int], Point]  # an estimate at a point, in this step, of the loss by alpha and by beta


@dataclass(frozen=True, eq=False)
class State:
    """How far the search is."""

    step: int
    point: Point
    mean: Point  # running means of the gradients


@dataclass(frozen=True)
class Settings:
    """Of the steps."""

    rate: float  # of the way to the vertex, each step
    momentum: float  # share of the running mean that stays


def begin(point: Point) -> State:
    """Before the first step."""
    return State(0, point, Point(np.zeros_like(point.alpha), np.zeros_like(point.beta)))


def search(
    state: State,
    latency: Latency,
    target_ms: float,
    settings: Settings,
    steps: int,
    gradients: Gradients,
    rng: Callable[[int], np.random.Generator],
) -> Iterator[State]:
    """States after each step, up to this number of steps.

    Args:
        state: to start from or to go on from; its point within the target.
        rng: number of a step -> a generator of its own, so that a search can be gone on with.

    Raises:
        InfeasibleTarget: if no network is as fast as the target.
        ValueError: if a gradient is not finite.
    """
    latency.check(target_ms)
    while state.step < steps:
        found = gradients(state.point, state.step)
        of_alpha = bool(rng(state.step).random() < 0.5)
        state = step(state, found, of_alpha, latency, target_ms, settings)
        yield state


def step(state: State, gradient: Point, of_alpha: bool, latency: Latency, target_ms: float, settings: Settings) -> State:
    """One step of alpha or of beta."""
    point, mean, m = state.point, state.mean, settings.momentum
    if of_alpha:
        mean = replace(mean, alpha=m * mean.alpha + (1 - m) * gradient.alpha)
        best = best_alpha(mean.alpha, point, latency, target_ms)
        point = replace(point, alpha=point.alpha + settings.rate * (best - point.alpha))
    else:
        mean = replace(mean, beta=m * mean.beta + (1 - m) * gradient.beta)
        best = best_beta(mean.beta, point, latency, target_ms)
        point = replace(point, beta=point.beta + settings.rate * (best - point.beta))
    return State(state.step + 1, point, mean)


def best_alpha(value: np.ndarray, point: Point, latency: Latency, target_ms: float) -> np.ndarray:
    """The alpha of least value within the target, at this beta; as it is where blocks do not run."""
    runs = point.kappa > 0
    best = point.alpha.copy()
    best[runs] = knapsack.solve(value[runs], latency.of_configurations(point.beta)[runs], target_ms - latency.fixed_ms)
    return best


def best_beta(value: np.ndarray, point: Point, latency: Latency, target_ms: float) -> np.ndarray:
    """The beta of least value within the target, at this alpha."""
    return knapsack.solve(value, latency.of_depths(point.alpha), target_ms - latency.fixed_ms)


def project(point: Point, latency: Latency, target_ms: float) -> Arch:
    """The network for a point of the search, within the target (section 3.4.2).

    First the beta, then the alpha that agree most with the point within the target. Of each at most one block is left
    with two choices (Theorem 3.1): it takes the cheaper one, the likelier one may be beyond the target. Since beta is
    rounded first, what that saves is there for alpha.
    """
    beta = best_beta(-point.beta, point, latency, target_ms)
    found = replace(point, beta=cheapest(beta, latency.of_depths(point.alpha)))
    alpha = best_alpha(-point.alpha, found, latency, target_ms)
    return certain(replace(found, alpha=cheapest(alpha, latency.blocks_ms)))


def cheapest(x: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """One-hot along the last axis: of the choices that are not 0, the cheapest."""
    chosen = np.where(x > 0, cost, np.inf).argmin(-1)
    return np.eye(x.shape[-1])[chosen]
