"""Starts of HardCoRe-NAS's search and their gaps to the exact optimum, on synthetic losses: python -m benchmarks.hardcore_nas.

Tables of the paper's size, five targets over the range. The loss is additive over the blocks that run and lower for slower
choices, with noise; a gradient is that of one sampled network. scipy's MILP gives the best network within the target: the
gap is 0 there and 1 at the fastest network.
"""

from collections.abc import Callable
from dataclasses import replace
from time import perf_counter

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp, nnls

from benchmarks.timing import machine, show
from nas.cost.latency_hardcore_nas import ExpectedLatency, block_probability
from nas.differentiable.hardcore_nas.frank_wolfe import FrankWolfeConfig, begin, project, search
from nas.differentiable.hardcore_nas.relaxed import RelaxedArch, fastest, max_entropy_start

SHAPE = (5, 4, 12)  # stages, blocks, configurations
TARGET_SHARES = (0.05, 0.15, 0.25, 0.35, 0.5)  # of the way from the fastest to the slowest network
TABLES = 4
STEPS = 1200
CONSTRAINT_WEIGHT = 1e4
CONFIG = FrankWolfeConfig(rate=0.01, momentum=0.9)  # five times the paper's rate

Start = Callable[[ExpectedLatency, float], RelaxedArch]


def random_problem(seed: int, shape: tuple[int, int, int] = SHAPE) -> tuple[ExpectedLatency, np.ndarray]:
    """A latency table and the loss of every block in every configuration."""
    rng = np.random.default_rng(seed)
    entries = np.sort(rng.uniform(0.2, 2, shape), axis=2)
    offered = np.ones(shape[:2], bool)
    offered[:, 0] = False
    return ExpectedLatency(1.0, entries, offered), -np.sqrt(entries) * rng.uniform(0.5, 1.5, shape)


def sampled_gradient(loss: np.ndarray, relaxed: RelaxedArch, rng: np.random.Generator) -> RelaxedArch:
    """Gradient of the loss of one sampled network, by every choice."""
    beta = [rng.choice(len(p), p=p / p.sum()) for p in relaxed.beta]
    runs = np.arange(relaxed.beta.shape[1]) <= np.array(beta)[:, None]
    alpha = np.array([[rng.choice(len(p), p=p / p.sum()) for p in stage] for stage in relaxed.alpha])
    return RelaxedArch(runs[:, :, None] * loss, np.take_along_axis(loss, alpha[:, :, None], 2)[:, :, 0].cumsum(1))


def exact(loss: np.ndarray, latency: ExpectedLatency, target_ms: float) -> float:
    """The least summed loss of a network within the target, by mixed-integer linear programming."""
    stages, blocks, choices = loss.shape
    of_blocks = np.kron(np.eye(stages * blocks), np.ones(choices))
    depths_with = np.kron(np.eye(stages), np.triu(np.ones((blocks, blocks))))
    nothing = np.zeros((stages, loss.size))
    as_many = LinearConstraint(np.hstack([of_blocks, -depths_with]), 0, 0)
    one_depth = LinearConstraint(np.hstack([nothing, np.kron(np.eye(stages), np.ones(blocks))]), 1, 1)
    no_depths = np.zeros(stages * blocks)
    within = LinearConstraint(np.concatenate([latency.blocks_ms.ravel(), no_depths])[None], ub=target_ms - latency.fixed_latency_ms)
    objective = np.concatenate([loss.ravel(), no_depths])
    upper = np.concatenate([np.ones(loss.size), latency.offered.ravel()])
    result = milp(objective, integrality=np.ones(len(objective)), bounds=Bounds(0, upper), constraints=[as_many, one_depth, within])
    return float(result.fun)


def gap(start: Start, latency: ExpectedLatency, loss: np.ndarray, target_ms: float, seed: int, steps: int = STEPS) -> float:
    """Gap of the network that the search ends with."""
    *_, last = search(
        begin(start(latency, target_ms)),
        latency,
        target_ms,
        CONFIG,
        steps,
        lambda relaxed, step: sampled_gradient(loss, relaxed, np.random.default_rng([seed, step])),
        lambda step: np.random.default_rng([seed, step, 1]),
    )
    arch = project(last.relaxed, latency, target_ms)
    value = sum(loss[s, b, c] for s, stage in enumerate(arch) for b, c in enumerate(stage))
    best, worst = exact(loss, latency, target_ms), exact(loss, latency, latency.range_ms[0] * (1 + 1e-6))
    return float((value - best) / (worst - best))


def quadratic(latency: ExpectedLatency, target_ms: float, rounds: int = 3) -> RelaxedArch:
    """Equation 26, beta first, from the fastest network; configurations are sorted by latency."""
    relaxed, limit = fastest(latency), target_ms - latency.fixed_latency_ms
    for _ in range(rounds):
        cost = np.where(latency.offered, latency.of_depths(relaxed.alpha), 0)
        relaxed = replace(relaxed, beta=_smooth(relaxed.beta, cost, limit, latency.offered))
        runs = block_probability(relaxed.beta) > 1e-9
        alpha = relaxed.alpha.copy()
        cost = latency.of_configurations(relaxed.beta)[runs]
        alpha[runs] = _smooth(alpha[runs], cost, limit, np.ones(cost.shape, bool))
        relaxed = replace(relaxed, alpha=alpha)
    return relaxed


def _smooth(x: np.ndarray, cost: np.ndarray, limit: float, offered: np.ndarray) -> np.ndarray:
    """Distributions, one per row, with the least squared differences between neighbours, within the limit (to about 1e-6).

    Non-negative least squares with the constraints as rows of large weight and a slack for the limit.
    """
    distributions, n = x.shape
    pairs = offered[:, 1:] & offered[:, :-1]
    differences = [np.kron(np.eye(distributions)[r], np.eye(n)[j + 1] - np.eye(n)[j]) for r, j in zip(*np.nonzero(pairs))]
    system = np.vstack(
        [*differences, *(CONSTRAINT_WEIGHT * np.kron(np.eye(distributions), np.ones(n))), CONSTRAINT_WEIGHT * cost.ravel() / limit]
    )
    system = np.hstack([system * offered.ravel(), np.append(np.zeros(len(system) - 1), CONSTRAINT_WEIGHT)[:, None]])
    right = np.concatenate([np.zeros(len(differences)), np.full(distributions + 1, CONSTRAINT_WEIGHT)])
    solution = nnls(system, right)[0][:-1].reshape(x.shape) * offered
    return solution / solution.sum(1, keepdims=True)


def evenness(relaxed: RelaxedArch, latency: ExpectedLatency) -> tuple[float, float]:
    """Share of the offered choices with a probability above 0; effective number (perplexity) of configurations per block."""
    reached = (relaxed.alpha > 1e-9) & (relaxed.kappa > 1e-9)[:, :, None]
    possible = reached.sum() + ((relaxed.beta > 1e-9) & latency.offered).sum()
    entropy = -np.where(relaxed.alpha > 0, relaxed.alpha * np.log(np.maximum(relaxed.alpha, 1e-300)), 0).sum(2)
    return float(possible / (reached.size + latency.offered.sum())), float(np.exp((relaxed.kappa * entropy).sum() / relaxed.kappa.sum()))


def main() -> None:
    starts: dict[str, Start] = {
        "fastest network": lambda table, target: max_entropy_start(table, target, 0),
        "largest entropy within a quarter of the target": lambda table, target: max_entropy_start(table, target, 0.25),
        "largest entropy within the target": lambda table, target: max_entropy_start(table, target, 1),
        "quadratic programmes": quadratic,
    }
    for share in TARGET_SHARES:
        results = {}
        for name, start in starts.items():
            seconds, evenness_values, gaps = [], [], []
            for seed in range(TABLES):
                latency, loss = random_problem(seed)
                low, high = latency.range_ms
                target = low + share * (high - low)
                began = perf_counter()
                relaxed = start(latency, target)
                seconds.append(perf_counter() - began)
                evenness_values.append(evenness(relaxed, latency))
                gaps.append(gap(start, latency, loss, target, seed))
            possible, effective = np.mean(evenness_values, axis=0)
            results[name] = (
                f"{100 * possible:3.0f} % possible, {effective:4.1f} configurations per block, gap {np.mean(gaps):.2f}, "
                f"{1000 * np.median(seconds):.1f} ms"
            )
        show(f"target at {100 * share:.0f} % of the range, means of {TABLES} tables", results)
    machine()


if __name__ == "__main__":
    main()
