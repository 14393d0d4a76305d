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
from studies.claims import Claim
from studies.strategies import charts, deployments, ranks
from studies.strategies.comparisons import Ablation, figures_of
from studies.strategies.deployments import Method

Figures = Mapping[str, Sequence[Chart | BoxChart]]


@dataclass(frozen=True, eq=False)
class Content:
    """Results of all stages, as the figures take them."""

    runs: pd.DataFrame  # strategy, seed, mflops, top1, round
    edges: Sequence[float]  # of the buckets of cost, MFLOPs
    summary: pd.DataFrame  # strategy, seeds, and mean and deviation over seeds of the final metrics
    ranks: Mapping[int, pd.DataFrame]  # by seed: mflops, part, predicted, early, final
    trials: pd.DataFrame  # target, uniform, paper_mean, paper_std, exact: on AttentiveNAS's own space
    spaces: pd.DataFrame  # space, seed, mflops, top1
    methods: Sequence[Method]  # of obtaining N networks
    models: pd.DataFrame  # seed, model, mflops, top1_inherited, top1_scratch
    losses: Ablation
    losses_summary: pd.DataFrame  # as summary, with the names of the losses
    claims: Sequence[Claim]


def figures(content: Content) -> Figures:
    """Every figure by the name of its file, in the order of the page."""
    by_cost = {(m.source, m.fixed, m.per_network): m for m in reversed(content.methods)}  # of equal costs the first
    return {
        "figure_4": ranks.charts(content.ranks, "4"),
        "figure_5": charts.box_charts(content.runs, content.edges),
        "figure_6": [charts.gain_chart(content.runs, content.edges)],
        "fronts": charts.front_charts(content.runs),
        "figure_7": ranks.charts(content.ranks, "7"),
        "figure_8": [training.sampling(content.trials)],
        "figure_9": [charts.space_chart(content.spaces)],
        "table_3": deployments.charts(list(by_cost.values())[::-1]),
        "inherited": charts.inherited_charts(content.models),
        **{name: charts.loss_charts(content.losses, content.edges, name) for name in figures_of(content.losses)},
    }


def page(content: Content) -> str:
    """The whole page as HTML text."""
    drawn, title = figures(content), "Sampling strategies and distillation losses side by side"
    return document(
        title,
        [
            _header(content, title),
            *_strategies(content, drawn),
            *_distillation(content, drawn),
            _claims(content),
            *_networks(content, drawn),
            *_sampling(content, drawn),
        ],
    )


def _header(content: Content, title: str) -> str:
    strategies, losses, seeds = content.runs["strategy"].nunique(), len(content.losses_summary), content.runs["seed"].nunique()
    evaluations = content.runs.groupby(["strategy", "seed"]).size().iloc[0]
    best = content.summary.sort_values("hypervolume_mean", ascending=False).head(3)
    return (
        f"<header><h1>{escape(title)}</h1><p>{strategies} strategies and {losses} distillation losses, "
        f"{seeds} {'seed' if seeds == 1 else 'seeds'} each: equal training steps, the same architectures evaluated, "
        f"{evaluations} evaluations per run.</p></header>"
        + cards([(f"{row.hypervolume_mean:.3f}", f"hypervolume of {row.strategy} (mean)") for row in best.itertuples()])
    )


def _strategies(content: Content, drawn: Figures) -> list[str]:
    return [
        section(
            "Sampling strategies",
            "Gain of the best evaluated network over that of uniform sampling with the same seed, by bucket of cost (AttentiveNAS's Figure "
            "6); bars are one standard deviation over the seeds. Under Claims is which differences are more than chance.",
            drawn["figure_6"],
            summary_table(content.summary),
            "Means over the seeds, ± their standard deviation. Top-1 in percent on the search split: top1_low is the best within the "
            "cheapest quarter of the range of cost.",
        ),
        section(
            "Distribution of accuracies",
            "The same randomly drawn architectures for all strategies, by bucket of cost (AttentiveNAS's Figure 5): minimum, quartiles, "
            "maximum, means over the seeds. The dotted line is the median of uniform sampling.",
            drawn["figure_5"],
        ),
        section("Pareto fronts", "A line per seed, over those of uniform sampling.", drawn["fronts"]),
    ]


def _distillation(content: Content, drawn: Figures) -> list[str]:
    base = content.losses.base
    default = ", ".join(f"{s.key} {s.default}" for s in content.losses.settings)
    return [
        section(
            "Distillation: two alphas",
            "The distillation loss of sub-networks, with uniform sampling: KL, AlphaNet's adaptive alpha-divergence "
            f"({base}: {default}), and that with another alpha_min or alpha_max (its Figure 9). The same randomly drawn "
            f"architectures for all: minimum, quartiles, maximum, means over the seeds. The dotted line is the median of {base}.",
            drawn["alphanet_9"],
            summary_table(content.losses_summary, "loss"),
            "Means over the seeds, ± their standard deviation, as above; all losses, those of the next figure too.",
        ),
        section(
            "Distillation: clip, weight and temperature",
            "The bound of the ratio, the weight against the labels, and the temperature, one at a time (AlphaNet's Figure 10). The dotted "
            f"line is the median of {base}.",
            drawn["alphanet_10"],
        ),
    ]


def _claims(content: Content) -> str:
    verdicts = pd.DataFrame([(c.key, c.verdict, c.statement) for c in content.claims], columns=["claim", "verdict", "statement"])
    return section(
        "Claims",
        "Verdicts of these runs on the claims of the papers; docs/strategies.md has every comparison behind a verdict.",
        [],
        verdicts,
        "Supported and not supported: by two standard errors or more, over the seeds.",
    )


def _networks(content: Content, drawn: Figures) -> list[str]:
    return [
        section(
            "Inherited weights against training from scratch",
            "Models of a family with weights extracted from the supernet, and each trained from scratch for as many epochs. On test "
            "images, on which nothing was chosen.",
            drawn["inherited"],
            inherited_table(content.models),
            "Top-1 in percent, means over the seeds ± their standard deviation.",
        ),
        section(
            "Accuracy predictor",
            "Predicted against measured accuracy of sub-networks that the forest was not fitted to (AttentiveNAS's Figure 4): early, at "
            "the end of training, and on another partition of the data.",
            drawn["figure_4"],
        ),
        section(
            "Robustness",
            "The same sub-networks measured twice: another seed, and early against final (AttentiveNAS's Figure 7).",
            drawn["figure_7"],
        ),
    ]


def _sampling(content: Content, drawn: Figures) -> list[str]:
    return [
        section(
            "Sampling under a cost target",
            "Trials for one architecture, on AttentiveNAS's own search space (its Figure 8). Fewer is better, one is the minimum.",
            drawn["figure_8"],
        ),
        section(
            "Deep and narrow, or wide and shallow",
            "Fronts of two search spaces with uniform sampling (AttentiveNAS's Figure 9).",
            drawn["figure_9"],
        ),
        section(
            "Training cost of N networks",
            "In epochs x networks, as in AttentiveNAS's Table 3; a forward pass without gradient counts a third.",
            drawn["table_3"],
            deployments.table(content.methods),
            " ".join(break_even(content.methods)),
        ),
    ]


def summary_table(summary: pd.DataFrame, name: str = "strategy") -> pd.DataFrame:
    """For readers: a row per strategy, in a column of this name, mean ± deviation of each final metric."""
    digits = {"hypervolume": 3, "top1_low": 1, "top1_best": 1}
    columns = {name: summary["strategy"], "seeds": summary["seeds"]}
    return pd.DataFrame(columns | {key: _mean_sd(summary[f"{key}_mean"], summary[f"{key}_std"], n) for key, n in digits.items()})


def inherited_table(models: pd.DataFrame) -> pd.DataFrame:
    """For readers: `charts.inherited_summary`, mean ± deviation of each accuracy and of the difference."""
    rows = charts.inherited_summary(models)
    names = {"inherited": "top1_inherited", "from scratch": "top1_scratch", "difference": "difference"}
    columns = {"model": rows["model"], "MFLOPs": rows["mflops"].round(3)}
    return pd.DataFrame(columns | {name: _mean_sd(rows[column], rows[f"{column}_sd"], 1) for name, column in names.items()})


def _mean_sd(means: pd.Series, deviations: pd.Series, digits: int) -> list[str]:
    """["70.1 ± 2.3", ...]; without the deviation where there is one seed."""
    return [f"{m:.{digits}f}" + (f" ± {d:.{digits}f}" if np.isfinite(d) else "") for m, d in zip(means, deviations)]


def break_even(methods: Sequence[Method]) -> list[str]:
    """Number of deployments from which each supernet of this study costs less than training each network from scratch."""
    scratch = next(m for m in methods if m.source == "here" and m.per_network)
    return [deployments.statement(m, scratch) for m in methods if m.source == "here" and not m.per_network]
