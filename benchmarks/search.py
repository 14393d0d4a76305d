"""Hypervolume against evaluations for every way of searching: `python -m benchmarks.search [structure ...]`.

On made-up oracles over the space of AttentiveNAS (benchmarks/oracle.py), one for each of 5 seeds, 5,632 evaluations as in the
paper. Prints a table, the processor time besides scoring, and how often the two targets are met; draws benchmarks/search.png
(or what --picture says). Structures are those of benchmarks/oracle.py, "mixed" if none is named.
"""

import argparse
import time
from dataclasses import dataclass, field

import numpy as np

from benchmarks import oracle, timing
from nas.cost.table import CostTable
from nas.reports.style import BLUE, CYCLE, GREEN, GREY, ORANGE, PURPLE, Chart, Series, picture, save
from nas.sampling.flops import ExactSampler
from nas.sampling.uniform import Unconstrained
from nas.search import evolution, guided, nsga2
from nas.search.evaluated import Evaluated
from nas.search.family import hypervolume
from nas.search.methods import Method, search
from nas.search.problem import Problem, of_score, of_table
from nas.search.spread import Spread
from nas.space import Arch

EVALUATIONS = 5632
EARLY = 1500  # when predictor-guided search is to be where the paper's evolution ends
SHOWN = (256, 512, 1000, EARLY, 3000, EVALUATIONS)
CHANCE = 0.1  # percent, 1000 classes
PAPER = evolution.Settings(population=512, mutants=128, crossovers=128, rounds=20, mutation_probability=0.2, bucket=10.0)
NSGA2 = nsga2.Settings(evaluations=EVALUATIONS, population=128, offspring=128, crossover_probability=0.9, mutation_probability=0.05)
GUIDED = guided.Settings(
    evaluations=EVALUATIONS,
    start=128,
    batch=64,
    growth=0.1,
    population=500,
    generations=10,
    mutation_probability=0.05,
    optimism=0.5,
    trees=50,
    max_depth=15,
    features=0.7,
)
COLOURS = {
    "evolution (the paper's)": ORANGE,
    "evolution, spread": PURPLE,
    "NSGA-II": GREEN,
    "guided": BLUE,
    "random": GREY,
    "random, spread": CYCLE[5],
}


@dataclass
class Timed:
    """Scores of an oracle, and the processor time that they took."""

    score: oracle.Oracle
    seconds: float = field(default=0.0)

    def __call__(self, archs: list[Arch]) -> np.ndarray:
        start = time.process_time()
        found = self.score(archs)
        self.seconds += time.process_time() - start
        return found


def methods(table: CostTable) -> dict[str, Method]:
    """All of them, by the name in table and picture."""
    sampler = ExactSampler(table, (table.largest - table.smallest) / 64, bins=20_000)

    def between(low: float, high: float, n: int, rng: np.random.Generator) -> list[Arch]:
        return sampler.draw_between(low, high, n, rng).archs()

    spread, uniform = Spread(between, table.smallest, table.largest), Unconstrained(table.space)
    every = (
        evolution.Evolution(PAPER, uniform),
        evolution.Evolution(PAPER, spread),
        nsga2.Nsga2(NSGA2, spread),
        guided.Guided(GUIDED, spread),
        evolution.RandomSearch(EVALUATIONS, 256, uniform),
        evolution.RandomSearch(EVALUATIONS, 256, spread),
    )
    return dict(zip(COLOURS, every, strict=True))


def area(evaluated: Evaluated, n: int, table: CostTable) -> float:
    """Hypervolume of the first n evaluations."""
    return hypervolume(evaluated.cost[:n], evaluated.score[:n], table.largest, CHANCE)


def compare(table: CostTable, structure: oracle.Structure, seeds: int, counts: np.ndarray) -> dict[str, np.ndarray]:
    """Prints the table of a structure.

    Returns:
        for each method hypervolumes (seeds, counts) after so many evaluations.
    """
    problem = Problem(table.space, (of_table("mflops", table), of_score()))
    every = methods(table)
    areas: dict[str, list[list[float]]] = {name: [] for name in every}
    seconds: dict[str, list[float]] = {name: [] for name in every}
    for seed in range(seeds):
        made_up = oracle.build(table, structure, seed)
        for name, method in every.items():
            score, start = Timed(made_up), time.process_time()
            found = search(method, problem, score=score, seed=seed)
            seconds[name].append(time.process_time() - start - score.seconds)
            areas[name].append([area(found, n, table) for n in counts])
    found = {name: np.array(values) for name, values in areas.items()}
    shown = [int(np.flatnonzero(counts == n)[0]) for n in SHOWN]
    print(f"\noracle {structure.name!r}, {seeds} seeds: mean hypervolume after so many evaluations; seconds besides scoring (the longest)")
    print(f"{'':<24}" + "".join(f"{n:>9}" for n in SHOWN) + "  seconds")
    for name, values in found.items():
        print(f"{name:<24}" + "".join(f"{v:>9.5f}" for v in values.mean(axis=0)[shown]) + f"{max(seconds[name]):>9.2f}")
    early, last = shown[SHOWN.index(EARLY)], shown[-1]
    paper = found["evolution (the paper's)"][:, last]
    met = (found["guided"][:, early] >= paper).sum()
    print(f"guided at {EARLY} at least as good as the paper's evolution at {EVALUATIONS}: {met} of {seeds} seeds")
    blind = np.maximum(found["random"], found["random, spread"])[:, last]
    ahead = [f"{name} {(values[:, last] > blind).sum()}" for name, values in found.items() if not name.startswith("random")]
    print(f"ahead of both random searches at {EVALUATIONS}, seeds of {seeds}: {', '.join(ahead)}", flush=True)
    return found


def chart(structure: str, areas: dict[str, np.ndarray], counts: np.ndarray) -> Chart:
    """Means over the seeds with bands from the worst to the best."""
    series = tuple(
        Series(name, counts, values.mean(axis=0), COLOURS[name], dash="solid", band=(values.min(axis=0), values.max(axis=0)))
        for name, values in areas.items()
    )
    return Chart(f"search_{structure}", f"Oracle “{structure}”", "evaluations", "hypervolume", series, log_x=True)


def main() -> None:
    names = [s.name for s in oracle.STRUCTURES]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("structures", nargs="*", default=["mixed"], help=f"of {', '.join(names)}")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--picture", default="benchmarks/search.png")
    asked = parser.parse_args()
    if unknown := sorted(set(asked.structures) - set(names)):
        parser.error(f"no structure {unknown[0]!r}; there are {', '.join(names)}")
    timing.machine()
    table = oracle.paper_table()
    counts = np.unique(np.concatenate([np.geomspace(128, EVALUATIONS, 40).astype(int), SHOWN]))
    chosen = [s for s in oracle.STRUCTURES if s.name in asked.structures]
    charts = [chart(s.name, compare(table, s, asked.seeds, counts), counts) for s in chosen]
    save(picture(*charts), asked.picture)
    print(f"\n{asked.picture}")


if __name__ == "__main__":
    main()
