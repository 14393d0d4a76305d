"""Starts of HardCoRe-NAS's search, and how far it ends from the exact optimum, on made-up losses: python -m benchmarks.hardcore_nas.

Tables of the paper's size, five targets over the range. The loss adds up over the blocks that run and is better for slower
choices, with noise; a gradient is that of one drawn network. So scipy's MILP knows the best network within the target: a gap
is 0 there and 1 at the fastest network.
"""

from collections.abc import Callable
from dataclasses import replace
from time import perf_counter

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp, nnls

from benchmarks.timing import machine, show
from nas.cost.latency_hardcore_nas import Latency, running
from nas.differentiable.hardcore_nas.frank_wolfe import Settings, begin, project, search
from nas.differentiable.hardcore_nas.relaxed import Point
from nas.differentiable.hardcore_nas.start import balanced, smallest

SHAPE = (5, 4, 12)  # stages, blocks, configurations
SHARES = (0.05, 0.15, 0.25, 0.35, 0.5)  # of the way from the fastest to the slowest network
TABLES = 4
STEPS = 1200
WEIGHT = 1e4  # of a constraint
SETTINGS = Settings(rate=0.01, momentum=0.9)  # five times the paper's rate

Start = Callable[[Latency, float], Point]


def made_up(seed: int, shape: tuple[int, int, int] = SHAPE) -> tuple[Latency, np.ndarray]:
    """A table, and a loss for every block in every configuration."""
    rng = np.random.default_rng(seed)
    entries = np.sort(rng.uniform(0.2, 2, shape), axis=2)
    offered = np.ones(shape[:2], bool)
    offered[:, 0] = False
    return Latency(1.0, entries, offered), -np.sqrt(entries) * rng.uniform(0.5, 1.5, shape)


def drawn_gradient(loss: np.ndarray, point: Point, rng: np.random.Generator) -> Point:
    """Of the summed loss of one network drawn from the point: by every choice, at what was drawn."""
    beta = [rng.choice(len(p), p=p / p.sum()) for p in point.beta]
    runs = np.arange(point.beta.shape[1]) <= np.array(beta)[:, None]
    alpha = np.array([[rng.choice(len(p), p=p / p.sum()) for p in stage] for stage in point.alpha])
    return Point(runs[:, :, None] * loss, np.take_along_axis(loss, alpha[:, :, None], 2)[:, :, 0].cumsum(1))


def exact(loss: np.ndarray, latency: Latency, target_ms: float) -> float:
    """The least summed loss of a network within the target, by mixed-integer linear programming."""
    stages, blocks, choices = loss.shape
    of_blocks = np.kron(np.eye(stages * blocks), np.ones(choices))
    depths_with = np.kron(np.eye(stages), np.triu(np.ones((blocks, blocks))))
    nothing = np.zeros((stages, loss.size))
    as_many = LinearConstraint(np.hstack([of_blocks, -depths_with]), 0, 0)
    one_depth = LinearConstraint(np.hstack([nothing, np.kron(np.eye(stages), np.ones(blocks))]), 1, 1)
    no_depths = np.zeros(stages * blocks)
    within = LinearConstraint(np.concatenate([latency.blocks_ms.ravel(), no_depths])[None], ub=target_ms - latency.fixed_ms)
    objective = np.concatenate([loss.ravel(), no_depths])
    upper = np.concatenate([np.ones(loss.size), latency.offered.ravel()])
    found = milp(objective, integrality=np.ones(len(objective)), bounds=Bounds(0, upper), constraints=[as_many, one_depth, within])
    return float(found.fun)


def gap(start: Start, latency: Latency, loss: np.ndarray, target_ms: float, seed: int, steps: int = STEPS) -> float:
    """Of the network that the search ends with."""
    *_, last = search(
        begin(start(latency, target_ms)),
        latency,
        target_ms,
        SETTINGS,
        steps,
        lambda point, step: drawn_gradient(loss, point, np.random.default_rng([seed, step])),
        lambda step: np.random.default_rng([seed, step, 1]),
    )
    arch = project(last.point, latency, target_ms)
    found = sum(loss[s, b, c] for s, stage in enumerate(arch) for b, c in enumerate(stage))
    best, fastest = exact(loss, latency, target_ms), exact(loss, latency, latency.range_ms[0] * (1 + 1e-6))
    return float((found - best) / (fastest - best))


def quadratic(latency: Latency, target_ms: float, rounds: int = 3) -> Point:
    """Equation 26, beta first, from the fastest network; configurations are in the order of their latency."""
    point, limit = smallest(latency), target_ms - latency.fixed_ms
    for _ in range(rounds):
        cost = np.where(latency.offered, latency.of_depths(point.alpha), 0)
        point = replace(point, beta=_smooth(point.beta, cost, limit, latency.offered))
        runs = running(point.beta) > 1e-9
        alpha = point.alpha.copy()
        cost = latency.of_configurations(point.beta)[runs]
        alpha[runs] = _smooth(alpha[runs], cost, limit, np.ones(cost.shape, bool))
        point = replace(point, alpha=alpha)
    return point


def _smooth(x: np.ndarray, cost: np.ndarray, limit: float, offered: np.ndarray) -> np.ndarray:
    """Distributions in rows with the least squared differences between neighbours, within the limit (to 1e-6 or so).

    Non-negative least squares with the constraints as heavily weighted rows and a slack for the limit.
    """
    rows, n = x.shape
    pairs = offered[:, 1:] & offered[:, :-1]
    differences = [np.kron(np.eye(rows)[r], np.eye(n)[j + 1] - np.eye(n)[j]) for r, j in zip(*np.nonzero(pairs))]
    system = np.vstack([*differences, *(WEIGHT * np.kron(np.eye(rows), np.ones(n))), WEIGHT * cost.ravel() / limit])
    system = np.hstack([system * offered.ravel(), np.append(np.zeros(len(system) - 1), WEIGHT)[:, None]])
    right = np.concatenate([np.zeros(len(differences)), np.full(rows + 1, WEIGHT)])
    found = nnls(system, right)[0][:-1].reshape(x.shape) * offered
    return found / found.sum(1, keepdims=True)


def evenness(point: Point, latency: Latency) -> tuple[float, float]:
    """Share of the offered configurations and depths that are possible; how many configurations a block has, in effect."""
    reached = (point.alpha > 1e-9) & (point.kappa > 1e-9)[:, :, None]
    possible = reached.sum() + ((point.beta > 1e-9) & latency.offered).sum()
    entropy = -np.where(point.alpha > 0, point.alpha * np.log(np.maximum(point.alpha, 1e-300)), 0).sum(2)
    return float(possible / (reached.size + latency.offered.sum())), float(np.exp((point.kappa * entropy).sum() / point.kappa.sum()))


def main() -> None:
    starts: dict[str, Start] = {
        "fastest network": lambda table, target: balanced(table, target, 0),
        "most even within a quarter of the target": lambda table, target: balanced(table, target, 0.25),
        "most even within the target": lambda table, target: balanced(table, target, 1),
        "quadratic programmes": quadratic,
    }
    for share in SHARES:
        figures = {}
        for name, start in starts.items():
            took, even, gaps = [], [], []
            for seed in range(TABLES):
                latency, loss = made_up(seed)
                low, high = latency.range_ms
                target = low + share * (high - low)
                began = perf_counter()
                point = start(latency, target)
                took.append(perf_counter() - began)
                even.append(evenness(point, latency))
                gaps.append(gap(start, latency, loss, target, seed))
            possible, effective = np.mean(even, axis=0)
            figures[name] = (
                f"{100 * possible:3.0f} % possible, {effective:4.1f} configurations a block, gap {np.mean(gaps):.2f}, "
                f"{1000 * np.median(took):.1f} ms"
            )
        show(f"target at {100 * share:.0f} % of the range, means of {TABLES} tables", figures)
    machine()


if __name__ == "__main__":
    main()
