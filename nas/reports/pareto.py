"""Accuracy against cost: the family on the test split over everything that was searched (AttentiveNAS, Figure 1)."""

import pandas as pd

from nas.pareto import best_front
from nas.reports.style import BLUE, GREEN, GREY, INK, ORANGE, Chart, Series, wide


def chart(family: pd.DataFrame, ends: pd.DataFrame, evaluated: pd.DataFrame) -> Chart:
    """The project's main picture.

    Args:
        family: columns name, mflops, top1_test.
        ends: columns mflops, top1_test; one row each for the smallest and the largest sub-network.
        evaluated: columns mflops, top1 (percent, search split), method ('evolution', and 'random' if it was run).
    """
    evolved = evaluated[evaluated["method"] == "evolution"]
    drawn = evaluated[evaluated["method"] == "random"]
    family = family.sort_values("mflops")
    short = tuple(name.split("-")[-1] for name in family["name"])  # glyphs-a0 -> a0
    series = [_points("evaluated by evolution (search split)", evolved, GREY)]
    if len(drawn):
        series.append(_front("front of random search (search split)", drawn, ORANGE, "dot"))
    series += [
        _front("front of evolution (search split)", evolved, GREEN, "dash"),
        Series("the family (test split)", *_xy(family, "top1_test"), BLUE, "circle", "solid", labels=short, aside=True),
        Series("smallest and largest (test split)", *_xy(ends, "top1_test"), INK, "square"),
    ]
    costs = pd.concat([family["mflops"], ends["mflops"], evaluated["mflops"]])
    return Chart("pareto", "A family from one supernet", "cost, MFLOPs", "top-1 accuracy, %", tuple(series), log_x=wide(costs.to_numpy()))


def _xy(frame: pd.DataFrame, column: str) -> tuple:
    return frame["mflops"].to_numpy(), frame[column].to_numpy()


def _points(name: str, frame: pd.DataFrame, colour: str) -> Series:
    return Series(name, *_xy(frame, "top1"), colour, "circle", faint=True)


def _front(name: str, frame: pd.DataFrame, colour: str, dash: str) -> Series:
    front = frame.iloc[best_front(frame["mflops"].to_numpy(), frame["top1"].to_numpy())]
    return Series(name, *_xy(front, "top1"), colour, dash=dash)
