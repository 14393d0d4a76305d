"""Time to compute the FLOPs of an architecture: python -m benchmarks.flops."""

from functools import partial

import numpy as np

from benchmarks.timing import best_of, machine, show
from nas.cost import flops
from nas.spaces import FOLDER, encoding
from nas.spaces.mbconv import load


def measure(name: str, classes: int) -> None:
    space = load(FOLDER / f"{name}.yaml")
    table = flops.table(space, classes)
    results = {"table from shapes": f"{best_of(lambda: flops.table(space, classes), 5) * 1e3:.1f} ms"}
    for n, times in ((1, 50), (10_000, 20), (1_000_000, 3)):
        genes = encoding.random_genes(space, n, np.random.default_rng(0))
        results[f"FLOPs, {n} at once"] = f"{best_of(partial(table.costs, genes), times) / n * 1e6:.2f} us per architecture"
    show(f"{name}: {space.size:.4g} architectures, {table.smallest:.3f} to {table.largest:.3f} MFLOPs", results)


def main() -> None:
    measure("attentive_nas", classes=1000)
    measure("glyphs", classes=26)
    machine()


if __name__ == "__main__":
    main()
