"""The comparison of sampling strategies and of distillation losses as one HTML page that opens offline.

AttentiveNAS (arXiv:2011.09011), section 4.4 and appendices B to E; AlphaNet (arXiv:2102.07954), section D of its supplement.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import pandas as pd

from nas.plots import training
from nas.plots.page import cards, document, section
from nas.plots.style import BoxChart, Chart
from studies.strategies import buckets, claims, deployments, distillation, inherited, ranks, spaces
from studies.strategies.deployments import Method


@dataclass(frozen=True, eq=False)
class Findings:
    """What the stages of the comparison found; the frames are those that the figures of `nas.plots` take."""

    runs: pd.DataFrame  # strategy, seed, mflops, top1, round
    edges: Sequence[float]  # of the buckets of cost, MFLOPs
    summary: pd.DataFrame  # strategy, seeds, and mean and deviation over seeds of the final figures
    ranks: Mapping[int, pd.DataFrame]  # by seed: mflops, part, predicted, early, final
    trials: pd.DataFrame  # target, uniform, paper_mean, paper_std, exact: on AttentiveNAS's own space
    spaces: pd.DataFrame  # space, seed, mflops, top1
    methods: Sequence[Method]  # of getting N networks
    models: pd.DataFrame  # seed, model, mflops, top1_inherited, top1_scratch
    losses: distillation.Ablation
    losses_summary: pd.DataFrame  # as summary, with the names of the losses
    claims: Sequence[claims.Claim]


def charts(found: Findings) -> dict[str, Sequence[Chart | BoxChart]]:
    """Every figure by the name of its file, in the order of the page."""
    shown = list({(m.source, m.fixed, m.each): m for m in reversed(found.methods)}.values())[::-1]  # of those with equal costs the first
    return {
        "figure_4": ranks.charts(found.ranks, "4"),
        "figure_5": buckets.box_charts(found.runs, found.edges),
        "figure_6": [buckets.gain_chart(found.runs, found.edges)],
        "fronts": buckets.front_charts(found.runs),
        "figure_7": ranks.charts(found.ranks, "7"),
        "figure_8": [training.sampling(found.trials)],
        "figure_9": [spaces.chart(found.spaces)],
        "table_3": deployments.charts(shown),
        "inherited": inherited.charts(found.models),
        **{name: distillation.box_charts(found.losses, found.edges, name) for name in distillation.figures(found.losses)},
    }


def page(found: Findings) -> str:
    """The whole page as HTML text."""
    drawn, title = charts(found), "Sampling strategies and distillation losses side by side"
    strategies, losses, seeds = found.runs["strategy"].nunique(), len(found.losses_summary), found.runs["seed"].nunique()
    evaluations = found.runs.groupby(["strategy", "seed"]).size().iloc[0]
    verdicts = pd.DataFrame([(c.key, c.verdict, c.statement) for c in found.claims], columns=["claim", "verdict", "in words"])
    default = ", ".join(f"{s.key} {s.default}" for s in found.losses.settings)
    best = found.summary.sort_values("hypervolume_mean", ascending=False)
    body = [
        f"<header><h1>{escape(title)}</h1><p>{strategies} strategies and {losses} distillation losses, "
        f"{seeds} {'seed' if seeds == 1 else 'seeds'} each: equal training steps, the same architectures measured, "
        f"{evaluations} evaluations a run.</p></header>",
        cards([(f"{row.hypervolume_mean:.3f}", f"hypervolume of {row.strategy} (mean)") for row in best.head(3).itertuples()]),
        section(
            "The strategies",
            "Best found above what uniform sampling found with the same seed, by bucket of cost (AttentiveNAS's Figure 6); bars are one "
            "standard deviation over the seeds. Which differences can be told from chance is said under The claims.",
            drawn["figure_6"],
            summary_table(found.summary),
            "Means over the seeds, ± their standard deviation. Top-1 in percent on the search split: top1_low is the best within the "
            "cheapest quarter of the range of cost.",
        ),
        section(
            "The spread of accuracies",
            "The same randomly drawn architectures for all, by bucket of cost (AttentiveNAS's Figure 5): minimum, quartiles, maximum, "
            "means over the seeds. The dotted line is the median of uniform sampling.",
            drawn["figure_5"],
        ),
        section("Fronts", "A line a seed, over those of uniform sampling.", drawn["fronts"]),
        section(
            "Distillation: two alphas",
            "What sub-networks learn from the largest one, with uniform sampling: by KL, by AlphaNet's adaptive alpha-divergence "
            f"({found.losses.base}: {default}), and by that with another alpha_min or alpha_max (its Figure 9). The same randomly drawn "
            "architectures for all: minimum, quartiles, maximum, means over the seeds. The dotted line is the median of "
            f"{found.losses.base}.",
            drawn["alphanet_9"],
            summary_table(found.losses_summary, "loss"),
            "Means over the seeds, ± their standard deviation, as above; all losses, those of the next figure too.",
        ),
        section(
            "Distillation: clip, weight and temperature",
            f"The bound of the ratio, the weight against the labels, and the temperature, one at a time (AlphaNet's Figure 10). The dotted "
            f"line is the median of {found.losses.base}.",
            drawn["alphanet_10"],
        ),
        section(
            "The claims",
            "Each claim of the papers as judged by these runs; docs/strategies.md has every comparison behind a verdict.",
            [],
            verdicts,
            "Holds and does not hold: by two standard errors or more, over the seeds.",
        ),
        section(
            "Inherited weights against training alone",
            "Models of a family, with weights cut out of the supernet, and each trained from scratch for as many epochs. On test "
            "images, on which nothing was chosen.",
            drawn["inherited"],
            inherited_table(found.models),
            "Top-1 in percent, means over the seeds ± their standard deviation.",
        ),
        section(
            "The predictor",
            "Predicted against measured accuracy of sub-networks that the forest was not fitted to (AttentiveNAS's Figure 4): early, at "
            "the end of training, and on another partition of the data.",
            drawn["figure_4"],
        ),
        section(
            "Robustness",
            "The same sub-networks measured twice: another seed, and early against final (AttentiveNAS's Figure 7).",
            drawn["figure_7"],
        ),
        section(
            "Sampling under a cost target",
            "Trials for one architecture, on AttentiveNAS's own search space (its Figure 8). Fewer is better, one is the least there is.",
            drawn["figure_8"],
        ),
        section(
            "Deep and narrow, or wide and shallow",
            "Fronts of two search spaces with uniform sampling (AttentiveNAS's Figure 9).",
            drawn["figure_9"],
        ),
        section(
            "What N networks cost in training",
            "In epochs x networks, as in AttentiveNAS's Table 3; a forward pass without gradient counts a third.",
            drawn["table_3"],
            deployments.table(found.methods),
            " ".join(break_even(found.methods)),
        ),
    ]
    return document(title, body)


def summary_table(summary: pd.DataFrame, what: str = "strategy") -> pd.DataFrame:
    """For people: a row a strategy (or whatever the column is to be named), mean ± deviation of each final figure."""
    digits = {"hypervolume": 3, "top1_low": 1, "top1_best": 1}
    shown = {what: summary["strategy"], "seeds": summary["seeds"]}
    return pd.DataFrame(shown | {name: _spread(summary[f"{name}_mean"], summary[f"{name}_std"], n) for name, n in digits.items()})


def inherited_table(models: pd.DataFrame) -> pd.DataFrame:
    """For people: `inherited.summary`, mean ± deviation of each accuracy and of the difference."""
    found = inherited.summary(models)
    names = {"inherited": "top1_inherited", "trained alone": "top1_scratch", "difference": "difference"}
    shown = {"model": found["model"], "MFLOPs": found["mflops"].round(3)}
    return pd.DataFrame(shown | {name: _spread(found[column], found[f"{column}_sd"], 1) for name, column in names.items()})


def _spread(means: pd.Series, deviations: pd.Series, digits: int) -> list[str]:
    """["70.1 ± 2.3", ...]; without the deviation where there is but one seed."""
    return [f"{m:.{digits}f}" + (f" ± {d:.{digits}f}" if np.isfinite(d) else "") for m, d in zip(means, deviations)]


def break_even(methods: Sequence[Method]) -> list[str]:
    """From how many deployments on each supernet of this comparison costs less than training each network alone."""
    alone = next(m for m in methods if m.source == "here" and m.each)
    return [deployments.statement(m, alone) for m in methods if m.source == "here" and not m.each]
