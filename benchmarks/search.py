"""Evolution against random search with as many evaluations, on the trained supernet: `python -m benchmarks.search [seeds]`.

Run after `dvc repro`. Prints the hypervolume of both for each seed; the pictures are the part `search`.
"""

import sys

from nas import params
from nas.checkpoint import load_weights
from nas.cost import flops
from nas.data import loader
from nas.sampling.uniform import Unconstrained
from nas.search.evolution import evolve, random_search
from nas.search.family import hypervolume
from nas.space import Arch
from nas.stages import common, search, split


def main(seeds: int = 5) -> None:
    p = params.read("search", search.Search)
    _, runtime, evaluation = common.shared()
    space, device = common.search_space(), runtime.start()
    data = loader.read(split.OUT)
    supernet = common.new_supernet(space, len(data.classes), 0).to(device)
    load_weights(search.TRAINED / "weights.safetensors", supernet)
    scorer = common.scorer(supernet, data, "search", evaluation, runtime, device, common.seed())
    table = flops.table(space, len(data.classes))
    known: dict[Arch, float] = {}

    def score(archs: list[Arch]) -> list[float]:
        new = [arch for arch in archs if arch not in known]
        known.update(zip(new, scorer.each(new)))
        return [known[arch] for arch in archs]

    won = 0
    for seed in range(seeds):
        shared = {"score": score, "mflops": table.costs, "draw": Unconstrained(space), "seed": seed}
        evolved = evolve(space, p.evolution, **shared)
        drawn = random_search(space, len(evolved), block=64, **shared)
        areas = [hypervolume(e.cost, e.score, table.largest, 100 / len(data.classes)) for e in (evolved, drawn)]
        won += areas[0] > areas[1]
        print(f"seed {seed}: {len(evolved)} evaluations each, hypervolume evolution {areas[0]:.4f}, random {areas[1]:.4f}", flush=True)
    print(f"evolution is ahead on {won} of {seeds} seeds")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
