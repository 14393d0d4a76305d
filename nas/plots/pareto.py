"""Accuracy against cost: the family on the test split over everything that was searched (AttentiveNAS, Figure 1)."""

import pandas as pd

from nas.evaluation.metrics import best_front
from nas.plots.search import chosen
from nas.plots.style import BLUE, GREEN, GREY, INK, ORANGE, Chart, Series, wide

AXES = {"mflops": "cost, MFLOPs", "parameters": "parameters", "latency_ms": "latency, ms"}  # of the columns that hold costs


def chart(family: pd.DataFrame, ends: pd.DataFrame, evaluated: pd.DataFrame, cost: str = "mflops") -> Chart:
    """The project's main image.

    Args:
        family: columns name, the cost's, top1_test.
        ends: columns of the cost and top1_test; one row each for the smallest and the largest sub-network.
        evaluated: columns of the cost, top1 (percent, search split), method (those of `nas.plots.search`).
        cost: the column, one of AXES.
    """
    method, name = chosen(evaluated)
    searched, drawn = (evaluated[evaluated["method"] == m] for m in (method, "random"))
    family = family.sort_values(cost)
    short = tuple(name.split("-")[-1] for name in family["name"])  # glyphs-a0 -> a0
    series = [_points(f"evaluated by {name} (search split)", searched, cost, GREY)]
    if method != "random" and len(drawn):
        series.append(_front("front of random search (search split)", drawn, cost, ORANGE, "dot"))
    series += [
        _front(f"front of {name} (search split)", searched, cost, GREEN, "dash"),
        Series("the family (test split)", *_xy(family, cost, "top1_test"), BLUE, "circle", "solid", labels=short, aside=True),
        Series("smallest, largest (test)", *_xy(ends, cost, "top1_test"), INK, "square"),
    ]
    log = wide(pd.concat([family[cost], ends[cost], evaluated[cost]]).to_numpy())
    key, title = ("pareto", "A family from one supernet") if cost == "mflops" else (f"pareto-{cost}", f"The same by {AXES[cost]}")
    return Chart(key, title, AXES[cost], "top-1 accuracy, %", tuple(series), log_x=log)


def _xy(frame: pd.DataFrame, cost: str, column: str) -> tuple:
    return frame[cost].to_numpy(), frame[column].to_numpy()


def _points(name: str, frame: pd.DataFrame, cost: str, colour: str) -> Series:
    return Series(name, *_xy(frame, cost, "top1"), colour, "circle", faint=True)


def _front(name: str, frame: pd.DataFrame, cost: str, colour: str, dash: str) -> Series:
    front = frame.iloc[best_front(frame[cost].to_numpy(), frame["top1"].to_numpy())]
    return Series(name, *_xy(front, cost, "top1"), colour, dash=dash)
