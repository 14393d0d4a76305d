"""How fast the searches get there: hypervolume against evaluations, evolution and random search."""

import numpy as np
import pandas as pd

from nas.reports.style import BLUE, ORANGE, Chart, Series
from nas.search.family import hypervolume

LOOKS = {"evolution": ("evolution", BLUE, "solid"), "random": ("random search", ORANGE, "dash")}


def chart(evaluated: pd.DataFrame, largest_mflops: float, chance: float) -> Chart:
    """Hypervolume of the front of the first n evaluations, from the first twentieth on.

    Args:
        evaluated: columns mflops, top1 (percent, search split), method; each method's rows in the order of evaluation.
        largest_mflops: cost of the largest network.
        chance: top-1 of guessing, percent.
    """
    series = []
    for method, (name, colour, dash) in LOOKS.items():
        rows = evaluated[evaluated["method"] == method]
        if len(rows):
            cost, top1 = rows["mflops"].to_numpy(), rows["top1"].to_numpy()
            counts = np.unique(np.linspace(max(1, len(rows) // 20), len(rows), 80).astype(int))  # the steep start would hide the rest
            area = np.array([hypervolume(cost[:n], top1[:n], largest_mflops, chance) for n in counts])
            series.append(Series(name, counts, area, colour, dash=dash))
    if not series:
        raise ValueError(f"no evaluations: column method has {sorted(set(evaluated['method']))}, expected one of {sorted(LOOKS)}")
    return Chart("search", "Search progress", "sub-networks evaluated", "hypervolume (0 to 1)", tuple(series))
