"""How fast the searches get there: hypervolume against evaluations, the chosen method and random search."""

import numpy as np
import pandas as pd

from nas.plots.style import BLUE, GREEN, ORANGE, PURPLE, Chart, Series
from nas.search.family import hypervolume

LOOKS = {
    "evolution": ("evolution", BLUE, "solid"),
    "nsga2": ("NSGA-II", GREEN, "solid"),
    "bayesian": ("Bayesian search", PURPLE, "solid"),
    "random": ("random search", ORANGE, "dash"),
}


def chosen(evaluated: pd.DataFrame) -> tuple[str, str]:
    """The method that the family comes from and what it is called; random search only where nothing else was run.

    Raises:
        ValueError: if no row names a known method.
    """
    there = set(evaluated["method"])
    for method, (name, _, _) in LOOKS.items():
        if method in there:
            return method, name
    raise ValueError(f"no evaluations: column method has {sorted(there)}, expected one of {sorted(LOOKS)}")


def chart(evaluated: pd.DataFrame, largest_mflops: float, chance: float) -> Chart:
    """Hypervolume of the front of the first n evaluations, from the first twentieth on.

    Args:
        evaluated: columns mflops, top1 (percent, search split), method; each method's rows in the order of evaluation.
        largest_mflops: cost of the largest network.
        chance: top-1 of guessing, percent.
    """
    chosen(evaluated)
    series = []
    for method, (name, colour, dash) in LOOKS.items():
        rows = evaluated[evaluated["method"] == method]
        if len(rows):
            cost, top1 = rows["mflops"].to_numpy(), rows["top1"].to_numpy()
            counts = np.unique(np.linspace(max(1, len(rows) // 20), len(rows), 80).astype(int))  # the steep start would hide the rest
            area = np.array([hypervolume(cost[:n], top1[:n], largest_mflops, chance) for n in counts])
            series.append(Series(name, counts, area, colour, dash=dash))
    return Chart("search", "Search progress", "sub-networks evaluated", "hypervolume (0 to 1)", tuple(series))
