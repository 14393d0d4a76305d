"""Hypervolume against evaluations for every search method: `python -m benchmarks.search [structure ...]`.

On synthetic oracles (benchmarks/oracle.py), one per seed, over the space of AttentiveNAS with the paper's 5,632 evaluations,
and over the default space with those of params.yaml. Prints a table per oracle, the CPU time excluding evaluation, and how
often the two targets are met; draws benchmarks/search.png (or --image). Structures are those of benchmarks/oracle.py;
"mixed", "measured" and "formula" by default.
"""

import argparse
import time
from dataclasses import dataclass, field

import numpy as np

from benchmarks import oracle, timing
from nas.cost.table import CostTable
from nas.evaluation.metrics import hypervolume
from nas.plots.style import BLUE, CYCLE, GREEN, GREY, ORANGE, PURPLE, Chart, Series, image, save
from nas.sampling.exact import ExactSampler
from nas.sampling.uniform import StratifiedDraw, Unconstrained
from nas.search import bayesian, evolution, nsga2
from nas.search.archive import Archive
from nas.search.loop import Method, search
from nas.search.problem import Problem, cost_objective, score_objective
from nas.spaces.mbconv import Arch

CHANCE = 0.1  # percent
COLOURS = {
    "evolution (the paper's)": ORANGE,
    "evolution, spread": PURPLE,
    "NSGA-II": GREEN,
    "bayesian": BLUE,
    "random": GREY,
    "random, spread": CYCLE[5],
}


@dataclass(frozen=True)
class Scale:
    """A space, and the budget of every method on it."""

    space: str
    classes: int
    evolution: evolution.EvolutionConfig
    nsga2: nsga2.Nsga2Config
    bayesian: bayesian.BayesianConfig
    early: int  # evaluations after which Bayesian search should match the end of evolution
    columns: tuple[int, ...]  # evaluations at the columns of the table

    @property
    def evaluations(self) -> int:
        """The budget of every method."""
        return self.bayesian.evaluations


SCALES = (
    Scale(
        space="attentive_nas",
        classes=1000,
        evolution=evolution.EvolutionConfig(
            population=512, mutations=128, crossovers=128, rounds=20, mutation_probability=0.2, bucket=10.0
        ),
        nsga2=nsga2.Nsga2Config(evaluations=5632, population=128, offspring=128, crossover_probability=0.9, mutation_probability=0.05),
        bayesian=bayesian.BayesianConfig(evaluations=5632, start=64, batch=32),
        early=1500,
        columns=(256, 512, 1000, 1500, 3000, 5632),
    ),
    Scale(
        space="glyphs",
        classes=26,
        evolution=evolution.EvolutionConfig(population=96, mutations=32, crossovers=32, rounds=6, mutation_probability=0.2, bucket=0.03),
        nsga2=nsga2.Nsga2Config(evaluations=480, population=32, offspring=32, crossover_probability=0.9, mutation_probability=0.05),
        bayesian=bayesian.BayesianConfig(evaluations=480, start=64, batch=32),
        early=240,
        columns=(96, 160, 240, 360, 480),
    ),
)


@dataclass
class Timed:
    """An oracle that measures its CPU time."""

    score: oracle.Oracle
    seconds: float = field(default=0.0)

    def __call__(self, archs: list[Arch]) -> np.ndarray:
        start = time.process_time()
        scores = self.score(archs)
        self.seconds += time.process_time() - start
        return scores


def methods(scale: Scale, table: CostTable) -> dict[str, Method]:
    """All methods, by their name in table and image."""
    sampler = ExactSampler(table, (table.largest - table.smallest) / 64, bins=20_000)

    def between(low: float, high: float, n: int, rng: np.random.Generator) -> list[Arch]:
        return sampler.draw_between(low, high, n, rng).archs()

    spread, uniform = StratifiedDraw(between, table.smallest, table.largest), Unconstrained(table.space)
    configured = (
        evolution.Evolution(scale.evolution, uniform),
        evolution.Evolution(scale.evolution, spread),
        nsga2.Nsga2(scale.nsga2, spread),
        bayesian.Bayesian(scale.bayesian, spread),
        evolution.RandomSearch(scale.evaluations, 256, uniform),
        evolution.RandomSearch(scale.evaluations, 256, spread),
    )
    return dict(zip(COLOURS, configured, strict=True))


def area(evaluated: Archive, n: int, table: CostTable) -> float:
    """Hypervolume of the first n evaluations."""
    return hypervolume(evaluated.cost[:n], evaluated.score[:n], table.largest, CHANCE)


def compare(scale: Scale, table: CostTable, structure: oracle.Structure, seeds: int, counts: np.ndarray) -> dict[str, np.ndarray]:
    """Print the table of a structure.

    Returns:
        per method the hypervolumes (seeds, counts) after these numbers of evaluations.
    """
    problem = Problem(table.space, (cost_objective("mflops", table), score_objective()))
    by_name = methods(scale, table)
    areas: dict[str, list[list[float]]] = {name: [] for name in by_name}
    seconds: dict[str, list[float]] = {name: [] for name in by_name}
    for seed in range(seeds):
        synthetic = oracle.build(table, structure, seed)
        for name, method in by_name.items():
            score, start = Timed(synthetic), time.process_time()
            archive = search(method, problem, score=score, seed=seed)
            seconds[name].append(time.process_time() - start - score.seconds)
            areas[name].append([area(archive, n, table) for n in counts])
    arrays = {name: np.array(values) for name, values in areas.items()}
    show(scale, structure, arrays, seconds, counts)
    return arrays


def show(
    scale: Scale, structure: oracle.Structure, areas: dict[str, np.ndarray], seconds: dict[str, list[float]], counts: np.ndarray
) -> None:
    """Print means over the seeds, and how often the targets are met."""
    columns = np.searchsorted(counts, scale.columns)
    seeds = len(areas["bayesian"])
    print(f"\n{scale.space}, oracle {structure.name!r}, {seeds} seeds: mean hypervolume by number of evaluations; maximum CPU seconds")
    print(f"{'':<24}" + "".join(f"{n:>9}" for n in scale.columns) + "  seconds")
    for name, values in areas.items():
        print(f"{name:<24}" + "".join(f"{v:>9.5f}" for v in values.mean(axis=0)[columns]) + f"{max(seconds[name]):>9.2f}")
    paper = areas["evolution (the paper's)"][:, -1]
    met = (areas["bayesian"][:, np.searchsorted(counts, scale.early)] >= paper).sum()
    print(f"bayesian at {scale.early} at least as good as the paper's evolution at {scale.evaluations}: {met} of {seeds} seeds")
    blind = np.maximum(areas["random"], areas["random, spread"])[:, -1]
    ahead = [f"{name} {(values[:, -1] > blind).sum()}" for name, values in areas.items() if not name.startswith("random")]
    print(f"ahead of both random searches at {scale.evaluations}, seeds of {seeds}: {', '.join(ahead)}", flush=True)


def chart(scale: Scale, structure: oracle.Structure, areas: dict[str, np.ndarray], counts: np.ndarray) -> Chart:
    """Means over the seeds with bands from the worst to the best."""
    series = tuple(
        Series(name, counts, values.mean(axis=0), COLOURS[name], dash="solid", band=(values.min(axis=0), values.max(axis=0)))
        for name, values in areas.items()
    )
    title = f"{scale.space}, oracle “{structure.name}”"
    return Chart(f"search_{scale.space}_{structure.name}", title, "evaluations", "hypervolume", series, log_x=True)


def main() -> None:
    structures = {s.name: s for s in oracle.STRUCTURES}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("structures", nargs="*", default=["mixed", "measured", "formula"], help=f"of {', '.join(structures)}")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--image", default="benchmarks/search.png")
    args = parser.parse_args()
    if unknown := sorted(set(args.structures) - set(structures)):
        parser.error(f"no structure {unknown[0]!r}; there are {', '.join(structures)}")
    timing.machine()
    charts = []
    for scale in SCALES:
        table = oracle.load_table(scale.space, scale.classes)
        counts = np.unique(np.concatenate([np.geomspace(scale.columns[0] / 2, scale.evaluations, 40).astype(int), scale.columns]))
        for name in args.structures:
            areas = compare(scale, table, structures[name], args.seeds, counts)
            charts.append(chart(scale, structures[name], areas, counts))
    save(image(*charts), args.image)
    print(f"\n{args.image}")


if __name__ == "__main__":
    main()
