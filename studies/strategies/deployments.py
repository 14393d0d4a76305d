"""What N deployments cost in training (AttentiveNAS, Table 3 and appendix E).

The unit is the paper's: epochs x networks. An epoch of a supernet whose steps train four networks is
four; the size of a network does not count. The paper leaves out what a step forwards without a
gradient and the pretraining for a predictor; here both are counted, a forward pass as a third (a
backward pass takes about two forward ones). Search, and measuring for the predictor, train nothing
and are left out, as in the paper.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor

import numpy as np
import pandas as pd

from nas.plots.style import Chart, Series
from studies.strategies.buckets import looks

DEPLOYMENTS = (1, 5, 40)  # the paper's N is 40
FORWARD = 1 / 3  # of training a network on the same images


@dataclass(frozen=True)
class Counts:
    """What a supernet's training did."""

    epochs: float
    trained: int  # networks that a step trains: the largest, the sampled ones, the smallest
    forwarded: int = 0  # candidates that a step forwards without a gradient
    pretraining_epochs: float = 0  # with uniform sampling, for the predictor of the strategies that need one


@dataclass(frozen=True)
class Method:
    """A way to N networks: it costs fixed + each * N, in epochs x networks."""

    name: str
    source: str  # "here", or where it was published
    formula: str  # in words and numbers
    fixed: float
    each: float


PUBLISHED = (
    Method("MnasNet", "paper", "40,000 N", 0, 40_000),
    Method("ProxylessNAS", "paper", "200 N (supernet) + 300 N (retraining)", 0, 500),
    Method("OFA", "paper", "590 (supernet) + 75 N (fine-tuning)", 590, 75),
    Method("AttentiveNAS", "paper", "360 × 4 (supernet)", 1440, 0),
)


def supernet(name: str, counts: Counts) -> Method:
    """A supernet, from which N networks are taken as they are."""
    parts = [f"{counts.epochs:g} × {counts.trained} (supernet)"]
    fixed = counts.epochs * counts.trained
    if counts.forwarded:
        parts.append(f"{counts.epochs:g} × {counts.forwarded} / 3 (candidates forwarded)")
        fixed += counts.epochs * counts.forwarded * FORWARD
    if counts.pretraining_epochs:
        parts.append(f"{counts.pretraining_epochs:g} × {counts.trained} (pretraining)")
        fixed += counts.pretraining_epochs * counts.trained
    return Method(name, "here", " + ".join(parts), fixed, 0)


def alone(epochs: float) -> Method:
    """N networks, each trained from scratch for so many epochs."""
    return Method("each network alone", "here", f"{epochs:g} N", 0, epochs)


def costs(methods: Sequence[Method], deployments: Sequence[int] = DEPLOYMENTS) -> pd.DataFrame:
    """Tidy: columns method, source, formula, deployments, cost (epochs x networks)."""
    rows = [(m.name, m.source, m.formula, n, m.fixed + m.each * n) for m in methods for n in deployments]
    return pd.DataFrame(rows, columns=["method", "source", "formula", "deployments", "cost"])


def table(methods: Sequence[Method], deployments: Sequence[int] = DEPLOYMENTS) -> pd.DataFrame:
    """For people: a row a method, a column a number of deployments."""
    shown = {"method": [m.name for m in methods], "source": [m.source for m in methods], "epochs × networks": [m.formula for m in methods]}
    return pd.DataFrame(shown | {f"N = {n}": [f"{m.fixed + m.each * n:,.0f}" for m in methods] for n in deployments})


def cheaper_from(one: Method, other: Method) -> int | None:
    """The smallest N >= 1 from which on `one` costs less than `other`; None if it never does.

    Raises:
        ValueError: if `one` is cheaper at first only: its cost grows faster.
    """
    rise, behind = other.each - one.each, one.fixed - other.fixed
    if rise > 0:
        return max(1, floor(round(behind / rise, 9)) + 1)  # rounded: 8 epochs x 6 / 3 over 8 epochs is a whole number
    if rise == 0:
        return 1 if behind < 0 else None
    if one.fixed + one.each < other.fixed + other.each:
        raise ValueError(f"{one.name!r} is cheaper than {other.name!r} for few deployments only")
    return None


def statement(one: Method, other: Method) -> str:
    """A sentence: from which number of deployments on `one` is cheaper. Errors as `cheaper_from`."""
    n = cheaper_from(one, other)
    if n is None:
        return f"{one.name} never costs less than {other.name}."
    return f"{one.name} costs less than {other.name} from {n} {'deployment' if n == 1 else 'deployments'} on."


def charts(methods: Sequence[Method], most: int = 100) -> tuple[Chart, ...]:
    """Cost against N from 1 to `most`, both logarithmic: a chart for what was counted here, one for what was published.

    Methods of the same cost hide each other; of strategies, one of each kind is enough.
    """
    n = np.unique(np.geomspace(1, most, 60).round())
    titles = {"here": "Training cost here", "paper": "Training cost as published (ImageNet)"}
    drawn = []
    for source, title in titles.items():
        mine = [m for m in methods if m.source == source]
        look = looks(m.name for m in mine)
        series = tuple(Series(m.name, n, m.fixed + m.each * n, look[m.name][0], dash="dash" if m.each else "solid") for m in mine)
        if series:
            labels = "networks deployed, N", "epochs × networks"
            drawn.append(Chart(f"deployments-{source}", title, *labels, series, log_x=True, log_y=True))
    return tuple(drawn)
