"""The Pareto family: accuracy against cost (AttentiveNAS, Figure 1), and a table of its models."""

import pandas as pd

from nas.cost.registry import COSTS
from nas.evaluation.metrics import best_front
from nas.plots.search import family_method
from nas.plots.style import BLUE, GREEN, GREY, INK, ORANGE, Chart, Series, wide
from nas.spaces import encoding
from nas.spaces.mbconv import Arch

FORMATS = {"mflops": ".3f", "parameters": ","}  # of costs in the table; others have three significant digits


def chart(family: pd.DataFrame, ends: pd.DataFrame, evaluated: pd.DataFrame, cost: str = "mflops") -> Chart:
    """Test accuracy of the family, over the architectures that the search evaluated and their Pareto fronts.

    Args:
        family: columns name, the cost's, top1_test.
        ends: columns of the cost and top1_test; one row each for the smallest and the largest sub-network.
        evaluated: columns of the cost, top1 (percent, search split), method (a key of `nas.plots.search.METHODS`).
        cost: a key of `nas.cost.registry.COSTS`.
    """
    method, title = family_method(evaluated)
    searched, random = (evaluated[evaluated["method"] == m] for m in (method, "random"))
    family = family.sort_values(cost)
    short_names = tuple(name.split("-")[-1] for name in family["name"])  # glyphs-a0 -> a0
    series = [Series(f"evaluated by {title} (search split)", *_xy(searched, cost, "top1"), GREY, "circle", faint=True)]
    if method != "random" and len(random):
        series.append(_front("random search", random, cost, ORANGE, "dot"))
    series += [
        _front(title, searched, cost, GREEN, "dash"),
        Series("Pareto family (test split)", *_xy(family, cost, "top1_test"), BLUE, "circle", "solid", labels=short_names, aside=True),
        Series("smallest, largest (test)", *_xy(ends, cost, "top1_test"), INK, "square"),
    ]
    log = wide(pd.concat([family[cost], ends[cost], evaluated[cost]]).to_numpy())
    key = "pareto" if cost == "mflops" else f"pareto-{cost}"
    label = COSTS[cost].label
    return Chart(key, f"Accuracy against {label.partition(',')[0]}", label, "top-1 accuracy, %", tuple(series), log_x=log)


def table(family: pd.DataFrame) -> pd.DataFrame:
    """A table for readers: one row per model, cheapest first.

    Args:
        family: columns name, mflops and any other costs of the registry, top1_search and top1_test (percent), arch
            (nas.spaces.encoding JSON).
    """
    family = family.sort_values("mflops")
    costs = [cost for cost in COSTS.values() if cost.name in family]
    return pd.DataFrame(
        {
            "name": family["name"],
            **{cost.label.removeprefix("cost, "): [format(v, FORMATS.get(cost.name, ".3g")) for v in family[cost.name]] for cost in costs},
            "top-1 search, %": [f"{t:.1f}" for t in family["top1_search"]],
            "top-1 test, %": [f"{t:.1f}" for t in family["top1_test"]],
            "architecture": [describe(encoding.from_json(a)) for a in family["arch"]],
        }
    )


def describe(arch: Arch) -> str:
    """For example "24 px | stem 8 | 8×1 k3 e1 | 16×2 k5 e3 | head 96": a stage is width × depth, kernel, expansion."""
    stages = (f"{s.width}×{s.depth} k{s.kernel} e{s.expansion}" for s in arch.stages)
    return " | ".join([f"{arch.resolution} px", f"stem {arch.stem}", *stages, f"head {arch.head}"])


def _front(title: str, evaluated: pd.DataFrame, cost: str, colour: str, dash: str) -> Series:
    front = evaluated.iloc[best_front(evaluated[cost].to_numpy(), evaluated["top1"].to_numpy())]
    return Series(f"front of {title} (search split)", *_xy(front, cost, "top1"), colour, dash=dash)


def _xy(frame: pd.DataFrame, cost: str, column: str) -> tuple:
    return frame[cost].to_numpy(), frame[column].to_numpy()
