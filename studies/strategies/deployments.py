"""Training cost of N deployments (AttentiveNAS, Table 3 and appendix E).

The unit is the paper's: epochs x networks. An epoch of a supernet whose steps train four networks counts as four; the size of a network
does not count. The paper omits forward passes without a gradient and the pretraining for a predictor; here both count, a forward pass
as a third (a backward pass takes about as long as two). Search and evaluation for the predictor train nothing and are omitted, as in
the paper.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor

import numpy as np
import pandas as pd

from nas.plots.style import Chart, Series
from studies.strategies.charts import styles

DEPLOYMENTS = (1, 5, 40)  # the paper's N is 40
FORWARD = 1 / 3  # of training a network on the same images


@dataclass(frozen=True)
class Counts:
    """Networks and epochs of a supernet's training."""

    epochs: float
    trained: int  # networks that a step trains: the largest, the sampled ones, the smallest
    forwarded: int = 0  # candidates that a step forwards without a gradient
    pretraining_epochs: float = 0  # with uniform sampling, for the predictor of the strategies that need one


@dataclass(frozen=True)
class Method:
    """A way to obtain N networks at the cost fixed + per_network * N, in epochs x networks."""

    name: str
    source: str  # "here", or where it was published
    formula: str  # in words and numbers
    fixed: float
    per_network: float


PUBLISHED = (
    Method("MnasNet", "paper", "40,000 N", 0, 40_000),
    Method("ProxylessNAS", "paper", "200 N (supernet) + 300 N (retraining)", 0, 500),
    Method("OFA", "paper", "590 (supernet) + 75 N (fine-tuning)", 590, 75),
    Method("AttentiveNAS", "paper", "360 × 4 (supernet)", 1440, 0),
)


def from_supernet(name: str, counts: Counts) -> Method:
    """A supernet from which N networks are extracted without retraining."""
    parts = [f"{counts.epochs:g} × {counts.trained} (supernet)"]
    fixed = counts.epochs * counts.trained
    if counts.forwarded:
        parts.append(f"{counts.epochs:g} × {counts.forwarded} / 3 (candidates forwarded)")
        fixed += counts.epochs * counts.forwarded * FORWARD
    if counts.pretraining_epochs:
        parts.append(f"{counts.pretraining_epochs:g} × {counts.trained} (pretraining)")
        fixed += counts.pretraining_epochs * counts.trained
    return Method(name, "here", " + ".join(parts), fixed, 0)


def from_scratch(epochs: float) -> Method:
    """N networks, each trained from scratch for this number of epochs."""
    return Method("each network from scratch", "here", f"{epochs:g} N", 0, epochs)


def costs(methods: Sequence[Method], deployments: Sequence[int] = DEPLOYMENTS) -> pd.DataFrame:
    """Tidy: columns method, source, formula, deployments, cost (epochs x networks)."""
    rows = [(m.name, m.source, m.formula, n, m.fixed + m.per_network * n) for m in methods for n in deployments]
    return pd.DataFrame(rows, columns=["method", "source", "formula", "deployments", "cost"])


def table(methods: Sequence[Method], deployments: Sequence[int] = DEPLOYMENTS) -> pd.DataFrame:
    """For readers: a row per method, a column per number of deployments."""
    columns = {
        "method": [m.name for m in methods],
        "source": [m.source for m in methods],
        "epochs × networks": [m.formula for m in methods],
    }
    return pd.DataFrame(columns | {f"N = {n}": [f"{m.fixed + m.per_network * n:,.0f}" for m in methods] for n in deployments})


def cheaper_from(one: Method, other: Method) -> int | None:
    """The smallest N >= 1 at which `one` costs less than `other`, for all larger N too; None if there is none.

    Raises:
        ValueError: if `one` is cheaper for few deployments only, because its cost grows faster.
    """
    slope, gap = other.per_network - one.per_network, one.fixed - other.fixed
    if slope > 0:
        return max(1, floor(round(gap / slope, 9)) + 1)  # rounded: 8 epochs x 6 / 3 over 8 epochs is a whole number
    if slope == 0:
        return 1 if gap < 0 else None
    if one.fixed + one.per_network < other.fixed + other.per_network:
        raise ValueError(f"{one.name!r} is cheaper than {other.name!r} for few deployments only")
    return None


def statement(one: Method, other: Method) -> str:
    """A sentence with the result of `cheaper_from`, and its errors."""
    n = cheaper_from(one, other)
    if n is None:
        return f"{one.name} never costs less than {other.name}."
    return f"{one.name} costs less than {other.name} from {n} {'deployment' if n == 1 else 'deployments'} on."


def charts(methods: Sequence[Method], max_deployments: int = 100) -> tuple[Chart, ...]:
    """Cost against N from 1 to `max_deployments`, both logarithmic: a chart for this study, one for published methods.

    Methods of the same cost hide each other; one of each kind is enough.
    """
    n = np.unique(np.geomspace(1, max_deployments, 60).round())
    titles = {"here": "Training cost here", "paper": "Training cost as published (ImageNet)"}
    drawn = []
    for source, title in titles.items():
        of_source = [m for m in methods if m.source == source]
        colours = styles(m.name for m in of_source)
        series = tuple(
            Series(m.name, n, m.fixed + m.per_network * n, colours[m.name][0], dash="dash" if m.per_network else "solid") for m in of_source
        )
        if series:
            labels = "networks deployed, N", "epochs × networks"
            drawn.append(Chart(f"deployments-{source}", title, *labels, series, log_x=True, log_y=True))
    return tuple(drawn)
