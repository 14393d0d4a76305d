"""Inherited weights against the same network trained alone from scratch: what two-stage NAS rests on.

AttentiveNAS takes networks from the supernet as they are (section 2 and appendix E). Everywhere
`members` is a frame with the columns seed, member, mflops, top1_inherited, top1_alone (percent, test pictures).
"""

import numpy as np
import pandas as pd

from nas.plots.style import BLUE, GREY, ORANGE, Chart, Series, wide

NUMBERS = ["top1_inherited", "top1_alone", "difference"]


def differences(members: pd.DataFrame) -> pd.DataFrame:
    """The same rows with a column `difference`, inherited minus alone, percentage points; by seed, cheapest first."""
    out = members[["seed", "member", "mflops", "top1_inherited", "top1_alone"]].sort_values(["seed", "mflops"], ignore_index=True)
    return out.assign(difference=out["top1_inherited"] - out["top1_alone"])


def summary(members: pd.DataFrame) -> pd.DataFrame:
    """Over seeds: a row a member and one named 'all', of the means over a seed's members.

    Columns member, seeds, mflops, and for top1_inherited, top1_alone and difference the mean and the sample
    deviation over seeds (`difference_sd`, ...; NaN for one seed).
    """
    rows = differences(members)
    order = rows.groupby("member")["mflops"].mean().sort_values().index
    whole = rows.groupby("seed")[["mflops", *NUMBERS]].mean().reset_index().assign(member="all")
    groups = pd.concat([rows, whole]).groupby("member")
    out = groups[["mflops", *NUMBERS]].mean().join(groups[NUMBERS].std(ddof=1).add_suffix("_sd")).assign(seeds=groups["seed"].nunique())
    out = out.loc[[*order, "all"]].rename_axis("member").reset_index()
    return out[["member", "seeds", "mflops", *(c for n in NUMBERS for c in (n, f"{n}_sd"))]]


def charts(members: pd.DataFrame) -> tuple[Chart, Chart]:
    """Both accuracies of each network of each seed against its cost, joined by a line; and their differences."""
    rows = differences(members)
    mflops, inherited, alone = (rows[c].to_numpy() for c in ("mflops", "top1_inherited", "top1_alone"))
    gap = np.full(len(rows), np.nan)  # interrupts the line between two networks
    series = (
        Series("the same network", np.ravel([mflops, mflops, gap], "F"), np.ravel([inherited, alone, gap], "F"), GREY, dash="solid"),
        Series("inherited from the supernet", mflops, inherited, BLUE, "circle"),
        Series("trained alone", mflops, alone, ORANGE, "square"),
    )
    ends, mean = np.array([mflops.min(), mflops.max()]), float(summary(members)["difference"].iloc[-1])
    differing = (
        Series("no difference", ends, np.zeros(2), GREY, dash="dash"),
        Series(f"mean over seeds, {mean:+.2f}", ends, np.full(2, mean), BLUE, dash="dot"),
        Series("a network", mflops, rows["difference"].to_numpy(), BLUE, "circle"),
    )
    return (
        Chart("inherited", "Inherited weights and training alone", "cost, MFLOPs", "top-1 on test pictures, %", series, log_x=wide(mflops)),
        Chart("inherited-gain", "Inherited minus alone", "cost, MFLOPs", "top-1, percentage points", differing, log_x=wide(mflops)),
    )
