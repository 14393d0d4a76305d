"""The comparison's page: whole, offline, the same every time; its tables by hand."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from studies.strategies import claims, deployments, html_page
from studies.strategies.comparisons import KL, Ablation, Results, Setting
from studies.strategies.deployments import Counts, Method
from studies.strategies.html_page import Content
from tests.plots.test_page import Reader

STRATEGIES, SEEDS, EDGES = ("uniform", "bestup-3-loss", "worstup-3-loss"), (0, 1), (0.0, 1.0, 2.0)
LIFT = dict(zip(STRATEGIES, (0.0, 1.0, -1.0)))


def synthetic() -> Content:
    """Three strategies with two seeds; 12 architectures for all, then 4 of a search."""
    rng = np.random.default_rng(0)
    cost = np.linspace(0.1, 2.0, 16)
    runs = pd.concat(
        pd.DataFrame(
            {
                "strategy": strategy,
                "seed": seed,
                "mflops": cost,
                "top1": 50 + 15 * cost + LIFT[strategy] + rng.normal(0, 0.3, 16),
                "round": np.repeat([0, 1], [12, 4]),
            }
        )
        for strategy in STRATEGIES
        for seed in SEEDS
    )
    summary = pd.DataFrame({"strategy": STRATEGIES, "seeds": 2})
    for name, level, spread in (("hypervolume", 0.7, 0.01), ("top1_low", 62.0, 0.5), ("top1_best", 80.0, 0.4)):
        summary[f"{name}_mean"] = [level + LIFT[s] / 10 for s in STRATEGIES]
        summary[f"{name}_std"] = spread
    measured = pd.DataFrame({"mflops": cost, "part": ["fit", "test"] * 8})
    ranks = {s: measured.assign(**{c: cost + rng.normal(0, 0.2, 16) for c in ("predicted", "early", "final")}) for s in SEEDS}
    targets = np.arange(200.0, 400.0, 25.0)
    trials = pd.DataFrame({"target": targets, "uniform": 50.0, "paper_mean": 12.0, "paper_std": 5.0, "exact": 1.0})
    spaces = pd.concat(
        pd.DataFrame({"space": space, "seed": seed, "mflops": cost, "top1": level + 10 * cost})
        for space, level in (("deep", 60), ("wide", 58))
        for seed in SEEDS
    )
    models = pd.DataFrame(
        [(seed, f"a{i}", 0.2 + i, 60.0 + i, 61.0 + i + seed) for seed in SEEDS for i in range(2)],
        columns=["seed", "model", "mflops", "top1_inherited", "top1_scratch"],
    )
    methods = [
        deployments.from_supernet("uniform", Counts(4, 4)),
        deployments.from_supernet("bestup-3-loss", Counts(4, 4, 6)),
        deployments.from_supernet("worstup-3-loss", Counts(4, 4, 6)),
        deployments.from_scratch(4),
        *deployments.PUBLISHED,
    ]
    losses = distilled(runs)
    levels = summary.assign(strategy=[KL, "adaptive", "clip 2"])
    judged = claims.all_claims(Results(EDGES, runs, models=models, losses=losses))
    return Content(runs, EDGES, summary, ranks, trials, spaces, methods, models, losses, levels, judged)


def distilled(runs: pd.DataFrame) -> Ablation:
    """The strategies' runs under the names of three losses."""
    names = dict(zip(STRATEGIES, (KL, "adaptive", "clip 2")))
    finals = [(name, seed, 0.7, 60.0, 80.0) for name in names.values() for seed in runs["seed"].unique()]
    columns = ["strategy", "seed", "hypervolume", "top1_low", "top1_best"]
    settings = (Setting("clip", "5", ("clip 2",)),)
    return Ablation("adaptive", settings, runs.replace({"strategy": names}), pd.DataFrame(finals, columns=columns))


CONTENT = synthetic()


@pytest.fixture(scope="module")
def text() -> str:
    return html_page.page(CONTENT)


@pytest.fixture(scope="module")
def read(text) -> Reader:
    reader = Reader()
    reader.feed(text)
    return reader


def test_it_opens_offline(read, text):
    """Every tag is closed, no address at all, and plotly.js is in the page once."""
    assert read.open == [] and read.addresses == []
    assert text.count("<script") == text.count("</script>") and len(text) > 1_000_000
    assert "cdn.plot.ly/plotly" not in text.split("</head>")[1] and "@import" not in text.split("</style>")[0]


def test_every_figure_is_there_once(read, text):
    """Each chart of each figure by its id, and a script that draws into it."""
    drawn = [chart.key for figure in html_page.figures(CONTENT).values() for chart in figure]
    assert len(set(drawn)) == len(drawn) == 3 + 2 + 1 + 2 + 3 + 1 + 1 + 2 + 2 + 2 + 2
    assert sorted(read.ids) == sorted(drawn)
    assert all(re.search(rf'Plotly\.newPlot\(\s*"{key}"', text) for key in drawn)


def test_the_same_content_gives_the_same_page(text):
    """Byte for byte, from content made again: no times, no random ids."""
    assert html_page.page(synthetic()) == text


def test_figures_are_named_after_the_papers():
    """A file for each of AttentiveNAS's figures and Table 3, for two of AlphaNet's, and for what goes beyond them."""
    papers = [f"figure_{n}" for n in range(4, 10)] + ["table_3", "alphanet_9", "alphanet_10"]
    assert set(html_page.figures(CONTENT)) == {*papers, "fronts", "inherited"}


def test_numbers_and_verdicts_can_be_read(read):
    """The best strategy's hypervolume first, the budget, every claim with its verdict."""
    words = " ".join(read.words)
    assert "0.800 hypervolume of bestup-3-loss (mean) 0.700 hypervolume of uniform (mean)" in words
    assert "3 strategies and 3 distillation losses, 2 seeds each" in words and "16 evaluations per run" in words
    for claim in CONTENT.claims:
        assert f"{claim.key} {claim.verdict} {claim.statement}" in re.sub(r"\s+", " ", words)


def test_the_summary_in_words():
    """Three decimals for the hypervolume, one for top-1; no deviation where there is one seed."""
    summary = CONTENT.summary.copy()
    summary.loc[2, [c for c in summary if c.endswith("_std")]] = np.nan
    found = html_page.summary_table(summary)
    assert found.iloc[1].tolist() == ["bestup-3-loss", 2, "0.800 ± 0.010", "62.1 ± 0.5", "80.1 ± 0.4"]
    assert found.iloc[2].tolist() == ["worstup-3-loss", 2, "0.600", "61.9", "79.9"]


def test_losses_have_a_table_of_their_own(read):
    """Its first column is not called a strategy, and KL, which the others are set against, comes first."""
    assert html_page.summary_table(CONTENT.losses_summary, "loss").columns[0] == "loss"
    assert "adaptive alpha-divergence (adaptive: clip 5)" in " ".join(read.words)
    assert "loss seeds hypervolume top1_low top1_best KL 2 0.700 ± 0.010" in re.sub(r"\s+", " ", " ".join(read.words))


def test_the_table_of_models_in_words():
    """Inherited 60 and 61, from scratch 61 and 62 with seed 0, a point more with seed 1: differences -1 and -2, mean -1.5, sd 0.7."""
    found = html_page.inherited_table(CONTENT.models).set_index("model").loc["all"]
    assert found[["inherited", "from scratch", "difference"]].tolist() == ["60.5 ± 0.0", "62.0 ± 0.7", "-1.5 ± 0.7"]


def test_break_even_by_hand():
    """4 x 4 = 16 against 4 N: from 5; 16 + 4 x 6 / 3 = 24: equal at 6, from 7. Published methods are not compared."""
    assert html_page.break_even(CONTENT.methods) == [
        "uniform costs less than each network from scratch from 5 deployments on.",
        "bestup-3-loss costs less than each network from scratch from 7 deployments on.",
        "worstup-3-loss costs less than each network from scratch from 7 deployments on.",
    ]


def test_of_methods_with_equal_costs_the_first_is_drawn():
    """BestUp-3 and WorstUp-3 cost the same, one line would hide the other; those of another source or cost stay."""
    here, paper = html_page.figures(CONTENT)["table_3"]
    assert [s.name for s in here.series] == ["uniform", "bestup-3-loss", "each network from scratch"]
    assert [s.name for s in paper.series] == [m.name for m in deployments.PUBLISHED]


def test_methods_that_differ_are_all_drawn():
    """The same total for one network, another for two."""
    methods = [Method("flat", "here", "", 8, 0), Method("steep", "here", "", 0, 8), Method("flat too", "here", "", 8, 0)]
    (here,) = html_page.figures(replace(CONTENT, methods=methods))["table_3"]
    assert {s.name for s in here.series} == {"flat", "steep"}


def test_a_single_seed_is_enough():
    """What needs two seeds is left out, the rest of the page is there."""
    runs, spaces, models = (f[f["seed"] == 0] for f in (CONTENT.runs, CONTENT.spaces, CONTENT.models))
    summary = CONTENT.summary.assign(seeds=1, **{c: np.nan for c in CONTENT.summary if c.endswith("_std")})
    judged = claims.all_claims(Results(EDGES, runs, models=models, losses=distilled(runs)))
    one = replace(CONTENT, runs=runs, spaces=spaces, models=models, summary=summary, ranks={0: CONTENT.ranks[0]}, claims=judged)
    found = html_page.page(replace(one, losses=distilled(runs), losses_summary=summary))
    assert "3 distillation losses, 1 seed each" in found
    assert "±" not in found.split("</table>")[0].split("<table")[1]
