"""Two search spaces under the same training and the same search (AttentiveNAS, Figure 9 and appendix D).

Everywhere `runs` is a frame with the columns space, seed, mflops, top1 (percent): everything evaluated.
"""

import numpy as np
import pandas as pd

from nas.evaluation.metrics import best_front, hypervolume
from nas.plots.style import CYCLE, Chart, Series, wide
from studies.strategies.buckets import lines


def fronts(runs: pd.DataFrame) -> pd.DataFrame:
    """The best Pareto front of each space and seed: columns space, seed, mflops, top1; cost ascending."""
    parts = []
    for _, rows in runs.groupby(["space", "seed"], sort=False):
        parts.append(rows.iloc[best_front(rows["mflops"].to_numpy(), rows["top1"].to_numpy())][["space", "seed", "mflops", "top1"]])
    return pd.concat(parts, ignore_index=True)


def hypervolumes(runs: pd.DataFrame, reference_mflops: float, chance: float) -> pd.DataFrame:
    """A row a space and seed: columns space, seed, evaluations, hypervolume (in [0, 1], see `nas.evaluation.metrics`).

    Args:
        runs: see above.
        reference_mflops: one for both, so that areas can be compared: the larger of the two largest networks' costs.
        chance: top-1 of guessing, percent.
    """
    rows = []
    for (name, seed), mine in runs.groupby(["space", "seed"], sort=False):
        area = hypervolume(mine["mflops"].to_numpy(), mine["top1"].to_numpy(), reference_mflops, chance)
        rows.append((name, seed, len(mine), area))
    return pd.DataFrame(rows, columns=["space", "seed", "evaluations", "hypervolume"])


def summary(areas: pd.DataFrame) -> pd.DataFrame:
    """What `hypervolumes` returned, over seeds: columns space, seeds, hypervolume (mean), hypervolume_sd (sample; NaN for one seed)."""
    groups = areas.groupby("space", sort=False)["hypervolume"]
    return pd.DataFrame({"seeds": groups.count(), "hypervolume": groups.mean(), "hypervolume_sd": groups.std(ddof=1)}).reset_index()


def chart(runs: pd.DataFrame) -> Chart:
    """Figure 9: the fronts, one colour a space, one line a seed."""
    found = fronts(runs)
    series = tuple(
        Series(name, *lines(found[found["space"] == name]), CYCLE[i % len(CYCLE)], dash="solid")
        for i, name in enumerate(found["space"].unique())
    )
    log = wide(np.asarray(found["mflops"]))
    return Chart("spaces", "Two search spaces, a line a seed", "cost, MFLOPs", "top-1 accuracy, %", series, log_x=log)
