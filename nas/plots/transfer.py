"""Transfer to other datasets: hold-out accuracy, and test accuracy of the selected models (AttentiveNAS, Table 5)."""

import numpy as np
import pandas as pd

from nas.cost.registry import COSTS
from nas.plots.style import CYCLE, Chart, Series, wide


def selected(results: pd.DataFrame) -> pd.DataFrame:
    """The rows marked `best`, one per dataset.

    Args:
        results: columns set, model, mflops, learning_rate, weight_decay, top1_holdout, top1_test (percent), best (bool).

    Raises:
        ValueError: if a dataset has no best row, or its best row has no test accuracy.
    """
    best = results[results["best"].astype(bool)]
    if missing := [s for s in results["set"].unique() if s not in set(best["set"])]:
        raise ValueError(f"transfer dataset {missing[0]!r} has no row marked best")
    if best["top1_test"].isna().any():
        raise ValueError(f"transfer dataset {best.loc[best['top1_test'].isna(), 'set'].iloc[0]!r}: the best row has no test accuracy")
    return best.drop(columns="best").reset_index(drop=True)


def holdout(results: pd.DataFrame) -> pd.DataFrame:
    """Hold-out accuracy of each model with its best hyperparameters: columns model, mflops, and one per dataset, percent."""
    table = results.pivot_table(index=["mflops", "model"], columns="set", values="top1_holdout", aggfunc="max")
    order = list(dict.fromkeys(results["set"]))
    return table[order].reset_index()[["model", "mflops", *order]].rename_axis(columns=None)


def table(results: pd.DataFrame) -> pd.DataFrame:
    """A table for readers: one row per model, one column per dataset; hold-out accuracy, and test accuracy of the selected model."""
    if results.empty:
        return pd.DataFrame()
    best, accuracy = selected(results), holdout(results)
    test = {(r.set, r.model): r.top1_test for r in best.itertuples()}
    columns = {"model": accuracy["model"], "MFLOPs": [f"{m:.3f}" for m in accuracy["mflops"]]}
    for name in accuracy.columns[2:]:
        cells = ["–" if pd.isna(top1) else f"{top1:.1f}" for top1 in accuracy[name]]
        columns[f"{name}, %"] = [f"{c} → test {test[name, m]:.1f}" if (name, m) in test else c for c, m in zip(cells, accuracy["model"])]
    return pd.DataFrame(columns)


def chart(results: pd.DataFrame) -> Chart:
    """Hold-out accuracy against cost, one line per dataset; a star marks the test accuracy of the selected model."""
    labels = COSTS["mflops"].label, "top-1 accuracy, %"
    if results.empty:
        return Chart("transfer", "No transfer datasets", *labels, ())
    best, accuracy = selected(results), holdout(results)
    markers, lines, stars = ("circle", "square", "diamond", "triangle-up"), [], []
    for i, name in enumerate(accuracy.columns[2:]):
        colour = CYCLE[i % len(CYCLE)]
        lines.append(Series(f"{name} (hold-out)", *_xy(accuracy.dropna(subset=name), name), colour, markers[i % len(markers)], "solid"))
        stars.append(Series(f"{name}, selected (test)", *_xy(best[best["set"] == name], "top1_test"), colour, "star"))
    return Chart("transfer", "Transfer", *labels, (*lines, *stars), log_x=wide(accuracy["mflops"].to_numpy()))


def _xy(frame: pd.DataFrame, column: str) -> tuple[np.ndarray, np.ndarray]:
    return frame["mflops"].to_numpy(), frame[column].to_numpy()
