"""Search progress: hypervolume against evaluations, for the method of the family and for random search."""

import numpy as np
import pandas as pd

from nas.evaluation.metrics import hypervolume
from nas.plots.style import BLUE, GREEN, ORANGE, PURPLE, Chart, Series

METHODS = {  # title, colour, dash
    "evolution": ("evolution", BLUE, "solid"),
    "nsga2": ("NSGA-II", GREEN, "solid"),
    "bayesian": ("Bayesian search", PURPLE, "solid"),
    "random": ("random search", ORANGE, "dash"),
}


def family_method(evaluated: pd.DataFrame) -> tuple[str, str]:
    """Key and title of the method that the family comes from; random search only if no other method ran.

    Raises:
        ValueError: if no row names a known method.
    """
    present = set(evaluated["method"])
    for method, (title, _, _) in METHODS.items():
        if method in present:
            return method, title
    raise ValueError(f"no evaluations: column method has {sorted(present)}, expected one of {sorted(METHODS)}")


def chart(evaluated: pd.DataFrame, largest_mflops: float, chance: float) -> Chart:
    """Hypervolume of the front of the first n evaluations, from the first twentieth on.

    Args:
        evaluated: columns mflops, top1 (percent, search split), method; the rows of each method in the order of evaluation.
        largest_mflops: cost of the largest sub-network.
        chance: top-1 at chance level, percent.
    """
    family_method(evaluated)
    series = []
    for method, (title, colour, dash) in METHODS.items():
        rows = evaluated[evaluated["method"] == method]
        if len(rows):
            cost, top1 = rows["mflops"].to_numpy(), rows["top1"].to_numpy()
            counts = np.unique(np.linspace(max(1, len(rows) // 20), len(rows), 80).astype(int))  # the steep start would hide the rest
            volumes = np.array([hypervolume(cost[:n], top1[:n], largest_mflops, chance) for n in counts])
            series.append(Series(title, counts, volumes, colour, dash=dash))
    return Chart("search", "Search progress", "evaluated architectures", "hypervolume (0 to 1)", tuple(series))
