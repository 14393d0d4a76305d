"""The methods side by side as figures and as a page of Markdown: fronts, verdicts by pairs of methods, what training cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from nas.plots.style import BLUE, CYCLE, GREEN, GREY, ORANGE, PURPLE, Chart, Series
from studies.methods.found import ALPHA, ATTENTIVE, EVOLUTION, HARDCORE, METHODS, RANDOM, TF, TORCHVISION

LOOKS = {  # colour and marker
    ATTENTIVE: (BLUE, "circle"),
    ALPHA: (CYCLE[4], "diamond"),
    TF: (GREEN, "square"),
    HARDCORE: (ORANGE, "star"),
    EVOLUTION: (CYCLE[5], "triangle-up"),
    RANDOM: (GREY, "triangle-up"),
    TORCHVISION: (PURPLE, "circle"),
}
AXES = {"latency_ms": "measured latency, ms a batch of {batch}", "mflops": "MFLOPs (multiply-accumulates) an image"}
SAME_TARGETS = (HARDCORE, EVOLUTION, RANDOM)  # their networks are named alike for the same target
QUESTIONS = (  # a method, another one, what is claimed of the first
    (ALPHA, ATTENTIVE, "AlphaNet's adaptive divergence makes better sub-networks than KL."),
    (HARDCORE, EVOLUTION, "HardCoRe-NAS's search finds better networks of the same one-shot model than evolution."),
    (HARDCORE, RANDOM, "HardCoRe-NAS's search finds better networks of the same one-shot model than random search."),
    (EVOLUTION, RANDOM, "Evolution finds better ones than random search with as many evaluations."),
    (HARDCORE, TF, "HardCoRe-NAS's networks are better than TF-NAS's."),
    (HARDCORE, ATTENTIVE, "HardCoRe-NAS's networks are better than AttentiveNAS's."),
    (ATTENTIVE, TORCHVISION, "AttentiveNAS's networks are better than torchvision's."),
    (TF, TORCHVISION, "TF-NAS's networks are better than torchvision's."),
    (HARDCORE, TORCHVISION, "HardCoRe-NAS's networks are better than torchvision's."),
)
ALIKE = 0.05  # so much slower counts as equally fast: targets are met by tables, and measured latencies have noise
FASTER = 0.15  # a network that is faster by more cannot be called worse
SURE = 2  # standard errors
BETTER, WORSE, OPEN = "better", "worse", "cannot be told"


@dataclass(frozen=True)
class Comparison:
    """The network of one method against one of another that is as fast."""

    network: str
    other: str
    difference: float  # points of top-1
    error: float  # standard error of it, by the images
    slower: float  # its latency over the other's

    @property
    def verdict(self) -> str:
        if abs(self.difference) < SURE * self.error or not self.difference:
            return OPEN
        if self.difference > 0:
            return BETTER
        return WORSE if self.slower >= 1 - FASTER else OPEN


def charts(networks: pd.DataFrame, batch: int) -> tuple[Chart, ...]:
    """Top-1 against measured latency, and against FLOPs; a line a method.

    Args:
        networks: method, latency_ms, mflops, top1 (percent).
    """
    drawn = []
    for column, label in AXES.items():
        series = []
        for method, rows in networks.groupby("method", sort=False):
            ordered = rows.sort_values(column)
            colour, marker = LOOKS[method]
            line = None if method == TORCHVISION else "solid"  # those are networks of different kinds
            series.append(Series(method, ordered[column].to_numpy(), ordered["top1"].to_numpy(), colour, marker, line))
        title = f"Top-1 on test images, by {'latency' if column == 'latency_ms' else 'FLOPs'}"
        drawn.append(Chart(column, title, label.format(batch=batch), "top-1, %", tuple(series), log_x=True))
    return tuple(drawn)


def compared(networks: pd.DataFrame, right: np.ndarray, one: str, other: str) -> tuple[list[Comparison], int]:
    """Networks of the two methods for the same targets; where they have none, for each of the other's the slowest of the first
    that is as fast. And how many of the other's are left over.

    The slowest, not the best: that would be chosen on the test images.

    Args:
        networks: method, network, latency_ms.
        right: (networks, images) bool, whether each names each test image rightly.
    """
    ms, names, found = networks["latency_ms"].to_numpy(), networks["network"].to_numpy(), []
    mine, theirs = (np.flatnonzero(networks["method"] == method) for method in (one, other))
    for b in theirs:
        same = {one, other} <= set(SAME_TARGETS)
        fit = mine[names[mine] == names[b]] if same else mine[ms[mine] <= (1 + ALIKE) * ms[b]]
        if len(fit):
            a = fit[ms[fit].argmax()]
            apart = right[a].astype(float) - right[b]
            error = 100 * apart.std(ddof=1) / np.sqrt(len(apart))
            found.append(Comparison(names[a], names[b], 100 * apart.mean(), error, ms[a] / ms[b]))
    return found, len(theirs) - len(found)


def verdict(found: Sequence[Comparison], without: int) -> str:
    """In words: "better at 3 of 4, cannot be told at 1"."""
    n = len(found)
    if not n:
        return "no two networks are as fast"
    counts = [(word, sum(each.verdict == word for each in found)) for word in (BETTER, OPEN, WORSE)]
    told = [f"{word} at {k}" + (f" of {n}" if i == 0 else "") for i, (word, k) in enumerate((w, k) for w, k in counts if k)]
    return ", ".join(told) + (f"; none as fast as {without} more" if without else "")


def total_costs(costs: pd.DataFrame, networks: pd.DataFrame) -> pd.DataFrame:
    """A row a method: networks, shared, another (what one more network costs, the mean), total; 1e12 multiply-accumulates.

    Args:
        costs: `found.costs`.
    """
    rows = []
    for method, works in costs.groupby("method", sort=False):
        n, own = int((networks["method"] == method).sum()), works["network"] != ""
        shared, each = float(works.loc[~own, "tmacs"].sum()), float(works.loc[own, "tmacs"].sum())
        rows.append({"method": method, "networks": n, "shared": shared, "another": each / n, "total": shared + each})
    return pd.DataFrame(rows)


def page(networks: pd.DataFrame, right: np.ndarray, costs: pd.DataFrame, facts: Mapping[str, object], image: str) -> str:
    """The whole page.

    Args:
        networks: a row a network: method, network, latency_ms, noise (a fraction), mflops, parameters, top1 (percent).
        right: (networks, images) as in `compared`.
        costs: `found.costs`.
        facts: what was run, for the table.
        image: file of the figure, from where the page lies.
    """
    totals = total_costs(costs, networks)
    parts = [
        "# The methods side by side",
        "AttentiveNAS and AlphaNet (a supernet, then a search), TF-NAS and HardCoRe-NAS (searches by gradients for a latency), evolution "
        "and random search over HardCoRe-NAS's one-shot model, and torchvision's networks: on the same images, measured on one "
        "device. The page is written from the results by the stage `report` of `studies/methods/dvc.yaml`: change the runs, "
        "not the page.",
        f"![Top-1 by measured latency and by FLOPs, a line a method]({image})",
        "## In short",
        table(_short(networks, totals)),
        foremost(networks),
        "## Questions",
        "Networks of HardCoRe-NAS, evolution and random search are compared target by target. Else, for each network of the second "
        f"method, the slowest of the first that takes at most {ALIKE:.0%} longer. The same test images for both. *Better* and "
        f"*worse*: by at least {SURE} standard errors, by the images; *worse* is not said of a network that is faster by more than "
        f"{FASTER:.0%}. In brackets the latency of the first as a share of the second's.",
        table(_answers(networks, right)),
        "## All networks",
        table(_listed(networks)),
        "## What training cost",
        "In 10^12 multiply-accumulates, which do not depend on the machine. An image costs a network's multiply-accumulates forward; "
        "three times that where weights learn, twice where only choices learn. Of supernets the mean over the sub-networks that are "
        "drawn. Evaluations of a search count; those for this page do not. The one-shot model is counted in each of the three methods "
        "that use it.",
        table(_priced(totals)),
        "What it is made up of:",
        table(_parts(costs)),
        "## What was run",
        table(pd.DataFrame({"": list(facts), "here": [str(value) for value in facts.values()]})),
        "## What this cannot tell",
        "\n".join(f"- {line}" for line in LIMITS),
    ]
    return "\n\n".join(parts) + "\n"


LIMITS = (
    "One seed a method. The standard errors are those of the test images: what another seed would change is not in them.",
    "Each method is trained as its own pipeline says, for minutes. How long each trained is in the table of costs: methods with more "
    "of it are not better for that alone, and none is trained until nothing is gained any more.",
    "The spaces differ in what they offer, HardCoRe-NAS's, TF-NAS's and AttentiveNAS's: a difference between two of these methods is "
    "one between space, training and search together. Evolution, random search and HardCoRe-NAS share all but the search.",
    "AttentiveNAS's and AlphaNet's models were chosen by search.costs of params.yaml (FLOPs, if unchanged), TF-NAS's and HardCoRe-NAS's "
    "for a latency of this device, torchvision's for nothing here; those halve an image three times instead of five, as is usual for "
    "small images.",
    "Small images and small networks: what holds here need not hold on ImageNet.",
)


def _short(networks: pd.DataFrame, totals: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for method, each in networks.groupby("method", sort=False):
        best = each.loc[each["top1"].idxmax()]
        cost = totals.loc[totals["method"] == method, "total"].item()
        ends = [(f"{each[c].min():.3g}", f"{each[c].max():.3g}") for c in ("latency_ms", "mflops", "top1")]
        spans = [" to ".join(dict.fromkeys(pair)) for pair in ends]
        figures = dict(zip(("latency, ms", "MFLOPs", "top-1, %"), spans))
        said = {"method": method, "weights": METHODS[method], "networks": len(each), **figures}
        rows.append({**said, "best": best["network"], "training, 10^12": f"{cost:.3g}"})
    return pd.DataFrame(rows)


def foremost(networks: pd.DataFrame) -> str:
    """Which methods have a network on the front of all, by latency and by FLOPs."""
    told = []
    for column, words in (("latency_ms", "latency"), ("mflops", "FLOPs")):
        ordered = networks.sort_values([column, "top1"], ascending=[True, False])
        best = ordered["top1"].cummax().shift(fill_value=-np.inf)
        counts = ordered.loc[ordered["top1"] > best, "method"].value_counts(sort=False)
        told.append(f"by {words} " + ", ".join(f"{method} ({n})" for method, n in counts.items()))
    return "Networks that none of any method beats in top-1 at no more cost: " + "; ".join(told) + "."


def _answers(networks: pd.DataFrame, right: np.ndarray) -> pd.DataFrame:
    rows = []
    for one, other, claim in QUESTIONS:
        found, without = compared(networks, right, one, other)
        points = ", ".join(f"{c.difference:+.1f} ± {c.error:.1f} ({c.slower:.2f})" for c in found)
        rows.append(
            {"claim": claim, "compared": f"{one} over {other}", "points of top-1": points, "verdict": f"**{verdict(found, without)}**"}
        )
    return pd.DataFrame(rows)


def _listed(networks: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "method": networks["method"],
            "network": networks["network"],
            "latency, ms": [f"{ms:.3g}" for ms in networks["latency_ms"]],
            "noise": [f"{noise:.1%}" for noise in networks["noise"]],
            "MFLOPs": [f"{mflops:.3f}" for mflops in networks["mflops"]],
            "parameters": [f"{n:,}" for n in networks["parameters"]],
            "top-1, %": [f"{top1:.2f}" for top1 in networks["top1"]],
        }
    )


def _priced(totals: pd.DataFrame) -> pd.DataFrame:
    shown = {"method": totals["method"], "networks": totals["networks"]}
    columns = {"shared by all": "shared", "one network more": "another", "total": "total"}
    return pd.DataFrame(shown | {words: [f"{cost:.3g}" for cost in totals[column]] for words, column in columns.items()})


def _parts(costs: pd.DataFrame) -> pd.DataFrame:
    """Works of the same kind for several networks in one row."""
    rows = []
    for (method, what, passes), works in costs.groupby(["method", "what", "passes"], sort=False):
        mmacs = np.average(works["mmacs"], weights=works["images"]) if works["images"].sum() else 0
        seen = {"images": f"{works['images'].sum():,.0f}", "MFLOPs an image": f"{mmacs:.3g}", "passes": passes}
        rows.append({"method": method, "work": what, **seen, "10^12": f"{works['tmacs'].sum():.3g}"})
    return pd.DataFrame(rows)


def table(frame: pd.DataFrame) -> str:
    """A frame as Markdown."""
    rows = [list(frame.columns), ["---"] * len(frame.columns), *frame.astype(str).to_numpy().tolist()]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
