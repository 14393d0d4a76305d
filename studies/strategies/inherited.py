"""Inherited weights against the same network trained alone from scratch: what two-stage NAS rests on.

AttentiveNAS takes networks from the supernet as they are (section 2 and appendix E). Everywhere
`models` is a frame with the columns seed, model, mflops, top1_inherited, top1_scratch (percent, test images).
"""

import numpy as np
import pandas as pd

from nas.plots.style import BLUE, GREY, ORANGE, Chart, Series, wide

NUMBERS = ["top1_inherited", "top1_scratch", "difference"]


def differences(models: pd.DataFrame) -> pd.DataFrame:
    """The same rows with a column `difference`, inherited minus alone, percentage points; by seed, cheapest first."""
    out = models[["seed", "model", "mflops", "top1_inherited", "top1_scratch"]].sort_values(["seed", "mflops"], ignore_index=True)
    return out.assign(difference=out["top1_inherited"] - out["top1_scratch"])


def summary(models: pd.DataFrame) -> pd.DataFrame:
    """Over seeds: a row a model and one named 'all', of the means over a seed's models.

    Columns model, seeds, mflops, and for top1_inherited, top1_scratch and difference the mean and the sample
    deviation over seeds (`difference_sd`, ...; NaN for one seed).
    """
    rows = differences(models)
    order = rows.groupby("model")["mflops"].mean().sort_values().index
    whole = rows.groupby("seed")[["mflops", *NUMBERS]].mean().reset_index().assign(model="all")
    groups = pd.concat([rows, whole]).groupby("model")
    out = groups[["mflops", *NUMBERS]].mean().join(groups[NUMBERS].std(ddof=1).add_suffix("_sd")).assign(seeds=groups["seed"].nunique())
    out = out.loc[[*order, "all"]].rename_axis("model").reset_index()
    return out[["model", "seeds", "mflops", *(c for n in NUMBERS for c in (n, f"{n}_sd"))]]


def charts(models: pd.DataFrame) -> tuple[Chart, Chart]:
    """Both accuracies of each network of each seed against its cost, joined by a line; and their differences."""
    rows = differences(models)
    mflops, inherited, alone = (rows[c].to_numpy() for c in ("mflops", "top1_inherited", "top1_scratch"))
    gap = np.full(len(rows), np.nan)  # interrupts the line between two networks
    series = (
        Series("the same network", np.ravel([mflops, mflops, gap], "F"), np.ravel([inherited, alone, gap], "F"), GREY, dash="solid"),
        Series("inherited from the supernet", mflops, inherited, BLUE, "circle"),
        Series("trained alone", mflops, alone, ORANGE, "square"),
    )
    ends, mean = np.array([mflops.min(), mflops.max()]), float(summary(models)["difference"].iloc[-1])
    differing = (
        Series("no difference", ends, np.zeros(2), GREY, dash="dash"),
        Series(f"mean over seeds, {mean:+.2f}", ends, np.full(2, mean), BLUE, dash="dot"),
        Series("a network", mflops, rows["difference"].to_numpy(), BLUE, "circle"),
    )
    return (
        Chart("inherited", "Inherited weights and training alone", "cost, MFLOPs", "top-1 on test images, %", series, log_x=wide(mflops)),
        Chart("inherited-gain", "Inherited minus alone", "cost, MFLOPs", "top-1, percentage points", differing, log_x=wide(mflops)),
    )
