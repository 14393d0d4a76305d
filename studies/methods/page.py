"""docs/methods.md: Pareto fronts of all methods, verdicts on pairs of methods, and their compute."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from nas.plots.style import BLUE, CYCLE, GREEN, GREY, ORANGE, PURPLE, Chart, Series
from studies import claims
from studies.claims import INCONCLUSIVE, NOT_SUPPORTED, STANDARD_ERRORS, document, markdown
from studies.methods.results import ALPHA, ATTENTIVE, EVOLUTION, HARDCORE, METHODS, RANDOM, TF, TORCHVISION

STYLES = {  # colour and marker
    ATTENTIVE: (BLUE, "circle"),
    ALPHA: (CYCLE[4], "diamond"),
    TF: (GREEN, "square"),
    HARDCORE: (ORANGE, "star"),
    EVOLUTION: (CYCLE[5], "triangle-up"),
    RANDOM: (GREY, "triangle-up"),
    TORCHVISION: (PURPLE, "circle"),
}
AXES = {"latency_ms": "measured latency, ms per batch of {batch}", "mflops": "MFLOPs (multiply-accumulates) per image"}
SAME_TARGETS = (HARDCORE, EVOLUTION, RANDOM)  # their networks for the same target have the same name
CLAIMS = (  # a method, another one, a claim about the first
    (ALPHA, ATTENTIVE, "AlphaNet's adaptive divergence makes better sub-networks than KL."),
    (HARDCORE, EVOLUTION, "HardCoRe-NAS's search finds better networks of the same one-shot model than evolution."),
    (HARDCORE, RANDOM, "HardCoRe-NAS's search finds better networks of the same one-shot model than random search."),
    (EVOLUTION, RANDOM, "Evolution finds better networks than random search with as many evaluations."),
    (HARDCORE, TF, "HardCoRe-NAS's networks are better than TF-NAS's."),
    (HARDCORE, ATTENTIVE, "HardCoRe-NAS's networks are better than AttentiveNAS's."),
    (ATTENTIVE, TORCHVISION, "AttentiveNAS's networks are better than torchvision's."),
    (TF, TORCHVISION, "TF-NAS's networks are better than torchvision's."),
    (HARDCORE, TORCHVISION, "HardCoRe-NAS's networks are better than torchvision's."),
)
LATENCY_TOLERANCE = 0.05  # slower by at most this is equally fast: tables meet the targets, and measured latencies have noise
MAX_SPEEDUP = 0.15  # a network that is faster by more is not compared for being worse


@dataclass(frozen=True)
class NetworkPair:
    """The network of one method against one of another that is equally fast."""

    network: str
    other: str
    difference: float  # points of top-1
    error: float  # its standard error over the images
    latency_ratio: float  # of the first to the second

    @property
    def verdict(self) -> str:
        """On the claim that the first is better; inconclusive where it is worse but much faster."""
        word = claims.verdict(self.difference, STANDARD_ERRORS * self.error)
        return INCONCLUSIVE if word == NOT_SUPPORTED and self.latency_ratio < 1 - MAX_SPEEDUP else word


def charts(networks: pd.DataFrame, batch: int) -> tuple[Chart, ...]:
    """Top-1 against measured latency, and against FLOPs; a line per method.

    Args:
        networks: method, latency_ms, mflops, top1 (percent).
    """
    figures = []
    for column, label in AXES.items():
        series = []
        for method, rows in networks.groupby("method", sort=False):
            ordered = rows.sort_values(column)
            colour, marker = STYLES[method]
            line = None if method == TORCHVISION else "solid"  # these are networks of different kinds
            series.append(Series(method, ordered[column].to_numpy(), ordered["top1"].to_numpy(), colour, marker, line))
        title = f"Top-1 on test images, by {'latency' if column == 'latency_ms' else 'FLOPs'}"
        figures.append(Chart(column, title, label.format(batch=batch), "top-1, %", tuple(series), log_x=True))
    return tuple(figures)


def network_pairs(networks: pd.DataFrame, correct: np.ndarray, one: str, other: str) -> tuple[list[NetworkPair], int]:
    """Pairs of networks of two methods, and the number of the other's networks without one.

    Networks of searches for the same targets are paired by target. Otherwise each of the other's networks is paired with the slowest of
    the first that is equally fast, not with the best, which would be chosen on the test images.

    Args:
        networks: method, network, latency_ms.
        correct: (networks, images) bool, whether each classifies each test image correctly.
    """
    ms, names, pairs = networks["latency_ms"].to_numpy(), networks["network"].to_numpy(), []
    of_one, of_other = (np.flatnonzero(networks["method"] == method) for method in (one, other))
    for b in of_other:
        same_targets = {one, other} <= set(SAME_TARGETS)
        matches = names[of_one] == names[b] if same_targets else ms[of_one] <= (1 + LATENCY_TOLERANCE) * ms[b]
        if matches.any():
            a = of_one[matches][ms[of_one[matches]].argmax()]
            mean, error = claims.mean_and_error(correct[a].astype(float) - correct[b])
            pairs.append(NetworkPair(names[a], names[b], 100 * mean, 100 * error, ms[a] / ms[b]))
    return pairs, len(of_other) - len(pairs)


def verdict(pairs: Sequence[NetworkPair], unpaired: int) -> str:
    """The combined verdict of the pairs, e.g. "supported in 3 of 4, inconclusive in 1"."""
    if not pairs:
        return "no two networks are equally fast"
    return claims.combined(pair.verdict for pair in pairs) + (f"; none as fast as {unpaired} more" if unpaired else "")


def total_compute(compute: pd.DataFrame, networks: pd.DataFrame) -> pd.DataFrame:
    """A row per method: networks, shared, another (mean marginal compute of a network), total; 1e12 multiply-accumulates.

    Args:
        compute: `results.compute_table`.
    """
    rows = []
    for method, steps in compute.groupby("method", sort=False):
        n, of_network = int((networks["method"] == method).sum()), steps["network"] != ""
        shared, marginal = float(steps.loc[~of_network, "tmacs"].sum()), float(steps.loc[of_network, "tmacs"].sum())
        rows.append({"method": method, "networks": n, "shared": shared, "another": marginal / n, "total": shared + marginal})
    return pd.DataFrame(rows)


LIMITS = (
    "One seed per method. The standard errors are those of the test images: they do not include the variation between seeds.",
    "Each method is trained for minutes, as its own pipeline specifies. The compute of each method is in the table: a method with more "
    "compute is not better for that alone, and none is trained to convergence.",
    "The search spaces of HardCoRe-NAS, TF-NAS and AttentiveNAS differ: a difference between two of these methods is one between space, "
    "training and search together. Evolution, random search and HardCoRe-NAS differ in the search only.",
    "AttentiveNAS's and AlphaNet's models were chosen by search.costs of params.yaml (FLOPs by default), TF-NAS's and HardCoRe-NAS's for a "
    "latency of this device, torchvision's by neither; those halve an image three times instead of five, as is usual for small images.",
    "Small images and small networks: what is supported here need not be so on ImageNet.",
)


def page(networks: pd.DataFrame, correct: np.ndarray, compute: pd.DataFrame, facts: Mapping[str, object], image: str) -> str:
    """The whole page.

    Args:
        networks: a row per network: method, network, latency_ms, noise (a fraction), mflops, parameters, top1 (percent).
        correct: (networks, images) as in `network_pairs`.
        compute: `results.compute_table`.
        facts: what was run, for the table.
        image: file of the figure, relative to the page.
    """
    totals = total_compute(compute, networks)
    return document(
        "# All methods side by side",
        "AttentiveNAS and AlphaNet (a supernet, then a search), TF-NAS and HardCoRe-NAS (gradient-based searches for a latency), evolution "
        "and random search over HardCoRe-NAS's one-shot model, and torchvision's networks: on the same images, measured on one device. The "
        "stage `report` of `studies/methods/dvc.yaml` writes this page from the results: change the runs, not the page.",
        f"![Top-1 by measured latency and by FLOPs, a line per method]({image})",
        "## Summary",
        table(_summary(networks, totals)),
        front_counts(networks),
        "## Claims",
        "Networks of HardCoRe-NAS, evolution and random search are compared target by target. Otherwise each network of the second method "
        f"is compared with the slowest of the first that takes at most {LATENCY_TOLERANCE:.0%} longer, on the same test images. A claim is "
        f"supported or not supported by at least {STANDARD_ERRORS} standard errors over the images; it is inconclusive where the network "
        f"of the first is faster by more than {MAX_SPEEDUP:.0%} and less accurate. In brackets the ratio of the latencies.",
        table(_verdicts(networks, correct)),
        "## All networks",
        table(_network_rows(networks)),
        "## Compute of training and search",
        "In 10^12 multiply-accumulates, which do not depend on the machine. The forward pass of an image costs the network's "
        "multiply-accumulates; a training step costs three times as much, a step of the architecture parameters alone twice. For supernets "
        "it is the mean over the sampled sub-networks. Evaluations of a search count; those for this page do not. The one-shot model "
        "counts in each of the three methods that use it.",
        table(_compute_rows(totals)),
        "By step:",
        table(_steps(compute)),
        "## What was run",
        table(pd.DataFrame({"": list(facts), "this study": [str(value) for value in facts.values()]})),
        "## Limits",
        "\n".join(f"- {limit}" for limit in LIMITS),
    )


def _summary(networks: pd.DataFrame, totals: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for method, group in networks.groupby("method", sort=False):
        best = group.loc[group["top1"].idxmax()]
        tmacs = totals.loc[totals["method"] == method, "total"].item()
        ends = [(f"{group[c].min():.3g}", f"{group[c].max():.3g}") for c in ("latency_ms", "mflops", "top1")]
        spans = [" to ".join(dict.fromkeys(pair)) for pair in ends]
        ranges = dict(zip(("latency, ms", "MFLOPs", "top-1, %"), spans))
        row = {"method": method, "weights": METHODS[method], "networks": len(group), **ranges}
        rows.append({**row, "best": best["network"], "compute, 10^12": f"{tmacs:.3g}"})
    return pd.DataFrame(rows)


def front_counts(networks: pd.DataFrame) -> str:
    """The number of networks of each method on the Pareto front over all methods, by latency and by FLOPs."""
    texts = []
    for column, name in (("latency_ms", "latency"), ("mflops", "FLOPs")):
        ordered = networks.sort_values([column, "top1"], ascending=[True, False])
        best = ordered["top1"].cummax().shift(fill_value=-np.inf)
        counts = ordered.loc[ordered["top1"] > best, "method"].value_counts(sort=False)
        texts.append(f"by {name} " + ", ".join(f"{method} ({n})" for method, n in counts.items()))
    return "Pareto front over all methods: " + "; ".join(texts) + "."


def _verdicts(networks: pd.DataFrame, correct: np.ndarray) -> pd.DataFrame:
    rows = []
    for one, other, claim in CLAIMS:
        pairs, unpaired = network_pairs(networks, correct, one, other)
        points = ", ".join(f"{c.difference:+.1f} ± {c.error:.1f} ({c.latency_ratio:.2f})" for c in pairs)
        rows.append(
            {"claim": claim, "A over B": f"{one} over {other}", "points of top-1": points, "verdict": f"**{verdict(pairs, unpaired)}**"}
        )
    return pd.DataFrame(rows)


def _network_rows(networks: pd.DataFrame) -> pd.DataFrame:
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


def _compute_rows(totals: pd.DataFrame) -> pd.DataFrame:
    names = {"method": totals["method"], "networks": totals["networks"]}
    columns = {"shared by all": "shared", "one more network": "another", "total": "total"}
    return pd.DataFrame(names | {title: [f"{tmacs:.3g}" for tmacs in totals[column]] for title, column in columns.items()})


def _steps(compute: pd.DataFrame) -> pd.DataFrame:
    """The same step of several networks in one row."""
    rows = []
    for (method, step, passes), group in compute.groupby(["method", "what", "passes"], sort=False):
        mmacs = np.average(group["mmacs"], weights=group["images"]) if group["images"].sum() else 0
        numbers = {"images": f"{group['images'].sum():,.0f}", "MFLOPs per image": f"{mmacs:.3g}", "passes": passes}
        rows.append({"method": method, "step": step, **numbers, "10^12": f"{group['tmacs'].sum():.3g}"})
    return pd.DataFrame(rows)


def table(frame: pd.DataFrame) -> str:
    """A frame as Markdown."""
    return markdown(list(frame.columns), frame.astype(str).to_numpy().tolist())
