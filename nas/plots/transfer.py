"""Fine-tuning on other data sets: what was chosen on the hold-out, and its test accuracy (AttentiveNAS, Table 5)."""

import numpy as np
import pandas as pd

from nas.plots.style import CYCLE, Chart, Series, wide


def chosen(results: pd.DataFrame) -> pd.DataFrame:
    """The rows marked `best`, by set: what is reported.

    Args:
        results: columns set, model, mflops, learning_rate, weight_decay, top1_holdout, top1_test (percent), best (bool).

    Raises:
        ValueError: if a set has no best row, or a best one was not tested.
    """
    best = results[results["best"].astype(bool)]
    if missing := [s for s in results["set"].unique() if s not in set(best["set"])]:
        raise ValueError(f"transfer set {missing[0]!r} has no row marked best")
    if best["top1_test"].isna().any():
        raise ValueError(f"transfer set {best.loc[best['top1_test'].isna(), 'set'].iloc[0]!r}: the best row has no test accuracy")
    return best.drop(columns="best").reset_index(drop=True)


def holdout(results: pd.DataFrame) -> pd.DataFrame:
    """Hold-out accuracy of each model with its best setting: columns model, mflops, and one a set, percent."""
    wide_form = results.pivot_table(index=["mflops", "model"], columns="set", values="top1_holdout", aggfunc="max")
    order = list(dict.fromkeys(results["set"]))
    return wide_form[order].reset_index()[["model", "mflops", *order]].rename_axis(columns=None)


def table(results: pd.DataFrame) -> pd.DataFrame:
    """For people: a row a model, a column a set: hold-out accuracy, and test accuracy where it was chosen."""
    if results.empty:
        return pd.DataFrame()
    best, out = chosen(results), holdout(results)
    tested = {(r.set, r.model): r.top1_test for r in best.itertuples()}
    shown = {"model": out["model"], "MFLOPs": [f"{m:.3f}" for m in out["mflops"]]}
    for name in out.columns[2:]:
        cells = ["–" if pd.isna(top1) else f"{top1:.1f}" for top1 in out[name]]
        shown[f"{name}, %"] = [f"{c} → test {tested[name, m]:.1f}" if (name, m) in tested else c for c, m in zip(cells, out["model"])]
    return pd.DataFrame(shown)


def chart(results: pd.DataFrame) -> Chart:
    """Hold-out accuracy against cost, a line a set, with a star for the test accuracy of what was chosen."""
    if results.empty:
        return Chart("transfer", "No transfer sets", "cost, MFLOPs", "top-1 accuracy, %", ())
    best, out = chosen(results), holdout(results)
    markers, lines, stars = ("circle", "square", "diamond", "triangle-up"), [], []
    for i, name in enumerate(out.columns[2:]):
        colour, mine, there = CYCLE[i % len(CYCLE)], best[best["set"] == name], out.dropna(subset=name)
        lines.append(Series(f"{name} (hold-out)", *_xy(there, name), colour, markers[i % len(markers)], "solid"))
        stars.append(Series(f"{name}, chosen (test)", *_xy(mine, "top1_test"), colour, "star"))
    costs = out["mflops"].to_numpy()
    return Chart("transfer", "Transfer", "cost, MFLOPs", "top-1 accuracy, %", (*lines, *stars), log_x=wide(costs))


def _xy(frame: pd.DataFrame, column: str) -> tuple[np.ndarray, np.ndarray]:
    return frame["mflops"].to_numpy(), frame[column].to_numpy()
