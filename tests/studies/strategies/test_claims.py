"""Claims of the comparison against differences computed by hand and scipy's standard errors."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from studies.claims import AREA, DECIMALS, INCONCLUSIVE, NOT_RUN, SUPPORTED, Claim
from studies.strategies import claims, comparisons
from studies.strategies.claims import all_claims, table
from studies.strategies.claims_page import page_of
from studies.strategies.comparisons import KL, Ablation, Results, Setting

EDGES = (0.0, 10.0, 20.0)  # two buckets
SEEDS = (0, 1, 2)
KEYS = [  # without runs of other losses
    "section 4.3",
    *(f"observation {i}" for i in range(1, 7)),
    "appendix B",
    "appendix C",
    "appendix D",
    "no retraining",
    "adaptive divergence",
    "the foremost strategy",
    "flat targets, low end",
    "flat targets, on the whole",
    "exact sampling",
]
STRATEGIES = (*claims.RIVALS, claims.BEST, claims.FLAT)
LIFT = {s: float(i) for i, s in enumerate(STRATEGIES)}  # points above uniform


def runs(strategies=STRATEGIES, seeds=SEEDS, noise: float = 0.5) -> pd.DataFrame:
    """Per run five architectures of round 0 in each bucket, then one better one (+10) in the expensive bucket."""
    rng = np.random.default_rng(1)
    rows = []
    for s in strategies:
        for seed in seeds:
            shift = LIFT[s] + noise * rng.normal()
            rows += [(s, seed, 5.0 + i / 10, 50 + i + shift, 0) for i in range(5)]
            rows += [(s, seed, 15.0 + i / 10, 60 + 2 * i + shift, 0) for i in range(5)]
            rows += [(s, seed, 25.0, 78 + shift, 1)]
    return pd.DataFrame(rows, columns=["strategy", "seed", "mflops", "top1", "round"])


def everything(seeds=SEEDS) -> Results:
    rng = np.random.default_rng(2)
    finals = [(s, k, 0.8 + LIFT[s] / 100, 80 + LIFT[s] + rng.normal(), 90.0) for s in STRATEGIES for k in seeds]
    ranks = [(f, k, 0.8 + rng.normal() / 50, 0.5, p) for f, p in zip(("4a", "4b", "4c", "7a", "7b", "7c"), PAPER_TAU) for k in seeds]
    return Results(
        EDGES,
        runs(seeds=seeds),
        pd.DataFrame(finals, columns=["strategy", "seed", "hypervolume", "top1_low", "top1_best"]),
        pd.DataFrame(ranks, columns=["figure", "seed", "tau", "tau_flops", "paper"]),
        pd.DataFrame([(k, 1e9, 10.0 ** (1 + k / 10), 1.0) for k in seeds], columns=["seed", "uniform", "proposal", "exact"]),
        pd.DataFrame([(s, k, 0.7 + rng.normal()) for s in ("deep", "wide") for k in seeds], columns=["space", "seed", "hypervolume"]),
        pd.DataFrame(
            [(k, f"a{m}", 1.0 + m, 80.0 + m, 81.0 + k) for k in seeds for m in range(3)],
            columns=["seed", "model", "mflops", "top1_inherited", "top1_scratch"],
        ),
    )


LOSSES = {KL: 0.0, "adaptive": 2.0, "alpha_min -2": 1.0, "alpha_min -0.5": 5.0, "weight 0.9": 2.0}  # points above KL


def losses(seeds=SEEDS) -> Ablation:
    """Median of round 0: 52 in the cheap bucket, 64 in the expensive one, and the points above KL; the best there is 78."""
    drawn = runs(("uniform",), seeds, noise=0)
    finals = [(name, k, 0.5 + lift / 100 + k / 1000 * (name != KL), 50.0, 80.0) for name, lift in LOSSES.items() for k in seeds]
    return Ablation(
        "adaptive",
        (Setting("alpha_min", "-1", ("alpha_min -2", "alpha_min -0.5")), Setting("weight", "1", ("weight 0.9",))),
        pd.concat([drawn.assign(strategy=name, top1=drawn["top1"] + lift) for name, lift in LOSSES.items()]),
        pd.DataFrame(finals, columns=["strategy", "seed", "hypervolume", "top1_low", "top1_best"]),
    )


PAPER_TAU = (0.89, 0.87, 0.88, 0.94, 0.96, 0.88)


def page_text(found: list[Claim], facts: dict) -> str:
    return page_of(found).text(found, facts)


def named(results: Results) -> dict[str, Claim]:
    return {c.key: c for c in all_claims(results)}


def test_costs_outside_the_edges_count_to_the_end_buckets():
    """Below the first edge is bucket 0, on or above the last inner edge the next; empty ones are NaN."""
    frame = pd.DataFrame(
        [("u", 0, 1.0, 50.0, 0), ("u", 0, 9.9, 60.0, 1), ("u", 0, 10.0, 70.0, 0), ("u", 0, 99.0, 40.0, 0), ("v", 0, 5.0, 30.0, 0)],
        columns=["strategy", "seed", "mflops", "top1", "round"],
    )
    best = comparisons.best(frame, (5.0, 10.0, 20.0, 30.0))
    expected = [[60, 70, 40], [30, np.nan, np.nan]]
    np.testing.assert_array_equal(best.to_numpy(), expected)
    assert best.index.tolist() == [("u", 0), ("v", 0)]


def test_the_five_quantiles_are_of_round_0():
    """numpy's quantiles of the five drawn in each bucket; the 78 of a later round does not count."""
    frame = runs(("uniform",), (0,), noise=0)
    found = [comparisons.quantiles(frame, EDGES, q).to_numpy()[0] for q in claims.QUANTILES.values()]
    np.testing.assert_allclose(found, np.column_stack([np.arange(50, 55), np.arange(60, 70, 2)]))


def test_each_observation_has_its_comparisons():
    """Counts by hand: 3; 2 x 3 x 2 twice, 5 twice, 2 twice, 2, 2, 6 rivals twice; 3, 1, 1, 1; 0; 7 behind the foremost; 2 and 3; 1."""
    found = named(everything())
    assert list(found) == KEYS
    assert [len(found[k].parts) for k in KEYS] == [3, 24, 10, 4, 2, 2, 12, 3, 1, 1, 1, 0, 7, 2, 3, 1]


def test_differences_pair_runs_of_the_same_seed():
    """Observation 5 by hand: the best of each bucket, minus uniform's of that seed, averaged over both buckets."""
    results = everything()
    worst, best = named(results)["observation 5"].parts
    rows = results.runs.to_dict("records")

    def top(strategy: str, seed: int, expensive: bool) -> float:
        return max(r["top1"] for r in rows if (r["strategy"], r["seed"], r["mflops"] >= 10) == (strategy, seed, expensive))

    for c, strategy in ((worst, "worstup-3-loss"), (best, "bestup-3-loss")):
        expected = [sum(top(strategy, k, expensive) - top("uniform", k, expensive) for expensive in (False, True)) / 2 for k in SEEDS]
        assert c.differences == pytest.approx(expected)
        assert (c.mean, c.standard_error) == pytest.approx((np.mean(expected), stats.sem(expected)))


def test_buckets_that_one_side_lacks_are_omitted():
    """In bucket 1 only uniform has a network: the mean is that of bucket 0, +2, not mixed with 90 - nothing."""
    frame = pd.DataFrame(
        [("uniform", 0, 5.0, 50.0, 0), ("uniform", 0, 15.0, 90.0, 0), ("bestup-3-loss", 0, 5.0, 52.0, 0)],
        columns=["strategy", "seed", "mflops", "top1", "round"],
    )
    (c,) = named(Results(EDGES, frame))["observation 5"].parts
    assert (c.a, c.b, c.differences) == ((52.0,), (50.0,), (2.0,))


def test_only_seeds_that_both_ran_are_compared():
    """Uniform with seeds 0 to 2, bestup-3-loss with 2 and 1 (in this order): two differences, of seeds 1 and 2."""
    frame = runs(("uniform", "bestup-3-loss"), noise=0)
    frame = frame[(frame["strategy"] == "uniform") | frame["seed"].isin([1, 2])][::-1]
    (c,) = named(Results(EDGES, frame))["observation 5"].parts
    assert c.pairs == (1, 2) and c.differences == pytest.approx([6.0, 6.0])


def test_cheap_and_expensive_buckets_are_distinguished():
    """worstup-50-acc is 4 points up in the cheap bucket and 10 down in the expensive one, bestup-50-acc 3 up there."""
    rows = [
        (s, seed, mflops, top1 + seed, 0)
        for seed in SEEDS
        for s, low, high in (("uniform", 50, 70), ("worstup-50-acc", 54, 60), ("bestup-50-acc", 40, 73))
        for mflops, top1 in ((5.0, low), (15.0, high))
    ]
    found = named(Results(EDGES, pd.DataFrame(rows, columns=["strategy", "seed", "mflops", "top1", "round"])))
    third, all_buckets = found["observation 3"].parts
    over_worst, over_uniform = found["observation 4"].parts
    assert third.differences == (4.0,) * 3 and all_buckets.differences == (-3.0,) * 3
    assert over_worst.differences == (13.0,) * 3 and over_uniform.differences == (3.0,) * 3


def test_trials_are_compared_as_logarithms():
    """1e9 against 10, 10^1.1, 10^1.2 trials: 8, 7.9 and 7.8; the proposal against one trial: 1, 1.1, 1.2."""
    found = named(everything())
    assert found["appendix C"].parts[0].differences == pytest.approx([8, 7.9, 7.8])
    assert found["exact sampling"].parts[0].differences == pytest.approx([1, 1.1, 1.2])


def test_models_are_averaged_within_a_seed():
    """Inherited 80, 81, 82 in each seed, from scratch 81, 82, 83: 0, -1, -2; mean -1 under two standard errors of 0.577."""
    (c,) = named(everything())["no retraining"].parts
    assert c.differences == pytest.approx([0, -1, -2]) and c.verdict == INCONCLUSIVE
    assert c.standard_error == pytest.approx(stats.sem([0, -1, -2]))


def test_tau_is_compared_with_that_of_cost_alone():
    """Three panels a figure, in order, each with the paper's tau; A holds tau itself."""
    results = everything()
    found = named(results)
    panels = found["section 4.3"].parts + found["appendix B"].parts
    for c, (figure, rows), paper in zip(panels, results.ranks.groupby("figure"), PAPER_TAU):
        assert figure in c.name and c.published == f"tau {paper:.2f}"
        assert c.a == pytest.approx(rows["tau"]) and c.differences == pytest.approx(rows["tau"] - 0.5)


def test_flat_targets_are_compared_with_the_prior():
    """Flat minus prior: the low end, and best of all, here equal and so inconclusive."""
    results = everything()
    low = results.finals.pivot(index="seed", columns="strategy", values="top1_low")
    found = named(results)
    assert found["flat targets, low end"].parts[0].differences == pytest.approx(low[claims.FLAT] - low[claims.BEST])
    best_of_all = found["flat targets, on the whole"].parts[1]
    assert best_of_all.differences == (0.0,) * 3 and best_of_all.verdict == INCONCLUSIVE


def test_the_adaptive_divergence_is_compared_with_kl():
    """2 points up everywhere: median, minimum and best, in the cheapest bucket and over both; hypervolumes by hand."""
    found = named(replace(everything(), losses=losses()))["adaptive divergence"]
    *points, area = found.parts
    assert [c.name for c in points] == [
        f"adaptive over KL: {what}, {where}" for what in ("median", "minimum", "best") for where in ("cheapest bucket", "mean over buckets")
    ]
    assert [c.differences for c in points] == [(2.0,) * 3] * 6
    assert [c.a[0] for c in points] == [54, (54 + 66) / 2, 52, (52 + 62) / 2, 56, (56 + 80) / 2]
    assert area.unit == AREA and area.differences == pytest.approx([0.02, 0.021, 0.022]) and found.verdict == SUPPORTED


def test_each_setting_is_compared_with_its_other_values():
    """A claim a setting, in order; the default is a point above alpha_min -2, three below -0.5, and level with weight 0.9."""
    found = named(replace(everything(), losses=losses()))
    assert [key for key in found if key.startswith("value of")] == ["value of alpha_min", "value of weight"]
    alpha, weight = found["value of alpha_min"], found["value of weight"]
    assert [c.name.split(":")[0] for c in alpha.parts] == ["adaptive over alpha_min -2", "adaptive over alpha_min -0.5"] * 2
    assert [c.mean for c in alpha.parts] == pytest.approx([1, -3, 0.01, -0.03])
    assert alpha.verdict == "supported in 2 of 4, not supported in 2" and weight.verdict == INCONCLUSIVE
    assert (alpha.figure, weight.figure) == ("alphanet_9", "alphanet_10")
    assert "alpha_min -1" in alpha.statement and "0.9 as its default" in weight.test


def test_losses_do_not_change_the_claims_on_strategies():
    """However good one is, the foremost strategy is a strategy; every other claim has the same comparisons."""
    without, with_losses = named(everything()), named(replace(everything(), losses=losses()))
    kept = [key for key in without if key != "adaptive divergence"]
    assert [without[key] for key in kept] == [with_losses[key] for key in kept]


def test_the_page_has_both_papers():
    """Every source names its paper or says that there is none; AlphaNet's figures once each, by their name, and a warning."""
    found = all_claims(replace(everything(), losses=losses()))
    assert {c.source.split(",")[0] for c in found} == {"AttentiveNAS", "AlphaNet", "beyond the papers"}
    text = page_text(found, {"distillation losses": "kl"})
    for number in (9, 10):
        assert text.count(f"![AlphaNet Figure {number}](../studies/strategies/outputs/report/alphanet_{number}.png)") == 1
    assert "(#value-of-alpha_min)" in text and "### Value of alpha_min\n" in text
    assert "| distillation losses | kl | AttentiveNAS: KL; AlphaNet: " in text
    assert "none was tuned to it" in text and "none was tuned to it" not in page_text(all_claims(everything()), {})


def test_the_foremost_is_compared_with_every_other_strategy():
    """Flat is lifted most, by 7 hundredths over uniform: first of all, nearest rival next, 0.01 to 0.07 ahead in every seed."""
    found = named(everything())["the foremost strategy"].parts
    assert [c.name.split(" over ")[0] for c in found] == [claims.FLAT] * 7
    assert found[0].name == f"{claims.FLAT} over {claims.BEST}: hypervolume"
    assert [c.mean for c in found] == pytest.approx([0.01 * i for i in range(1, 8)])


def test_strategies_that_were_not_run_leave_their_comparisons_out():
    """With uniform, bestup-3-loss and worstup-1m-acc: observation 1 keeps 4 of 24, 2 and 4 have none, 6 keeps two rivals twice."""
    some = ("uniform", "bestup-3-loss", "worstup-1m-acc")
    whole = everything()
    found = named(Results(EDGES, runs(some), whole.finals[whole.finals["strategy"].isin(some)]))
    assert [len(found[f"observation {i}"].parts) for i in range(1, 7)] == [4, 0, 2, 0, 1, 4]
    assert found["observation 2"].verdict == found["appendix D"].verdict == NOT_RUN


def test_without_results_nothing_is_claimed():
    """Every claim is not run, the table has no rows, the page can still be written."""
    found = all_claims(Results(EDGES))
    assert {c.verdict for c in found} == {NOT_RUN}
    assert table(found).empty and page_text(found, {}).count("None of the runs that it compares exists") == len(KEYS)


def test_one_seed_is_inconclusive_and_the_page_says_why():
    """However large the differences, every claim is open."""
    found = all_claims(replace(everything(seeds=(0,)), losses=losses(seeds=(0,))))
    assert {c.verdict for c in found} == {INCONCLUSIVE}
    assert "Only one seed was run" in page_text(found, {}) and "nan" not in page_text(found, {})
    assert "Only one seed was run" not in page_text(all_claims(everything()), {})


def test_the_table_has_a_row_a_comparison():
    """Means and standard errors are those of the listed differences."""
    found = all_claims(everything())
    rows = table(found)
    assert len(rows) == sum(len(c.parts) for c in found)
    for row in rows.itertuples():
        differences = [float(d) for d in row.differences.split()]
        assert len(differences) == row.seeds
        assert (row.mean, row.standard_error) == pytest.approx((np.mean(differences), stats.sem(differences)), rel=1e-3, abs=1e-9)
        assert row.a - row.b == pytest.approx(row.mean, abs=1e-9)


def test_the_page_states_every_claim_with_its_verdict_and_numbers():
    """A heading and a verdict a claim, each mean and standard error, the facts beside the paper's, each image once."""
    found = all_claims(everything())
    text = page_text(found, {"evaluations": 1234, "seeds": [0, 1, 2]})
    for claim in found:
        section = text.split(f"### {claim.key[0].upper()}{claim.key[1:]}\n")[1].split("\n###")[0]
        assert claim.statement in section and f"Verdict: **{claim.verdict}**." in section
        for c in claim.parts:
            digits = DECIMALS.get(c.unit, 2)
            assert f"| {c.name} |" in section and f"{c.mean:+.{digits}f} ± {c.standard_error:.{digits}f} | {c.verdict} |" in section
    assert "| evaluations | 1,234 | AttentiveNAS: 5,248 per strategy (" in text and "| seeds | 0, 1, 2 |" in text
    images = re.findall(r"!\[[^\]]*\]\(([^)]*)\)", text)
    assert len(images) == len(set(images)) == 7 and "../studies/strategies/outputs/report/figure_4.png" in images


def test_the_page_is_well_formed():
    """Rows of a table have as many cells as its header, links within lead to headings, and the same claims give the same text."""
    everything_at_all = replace(everything(), losses=losses())
    found = all_claims(everything_at_all)
    text = page_text(found, {"seeds": 3})
    for block in re.findall(r"(?:^\|.*\|$\n?)+", text, re.MULTILINE):
        assert len({line.count("|") for line in block.splitlines()}) == 1
    headings = {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}
    assert set(re.findall(r"\(#([^)]*)\)", text)) <= headings
    assert text == page_text(all_claims(everything_at_all), {"seeds": 3})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"edges": (1.0,)}, "two or more ascending costs"),
        ({"edges": (2.0, 1.0)}, "two or more ascending costs"),
        ({"edges": EDGES, "spaces": pd.DataFrame({"space": ["deep"], "seed": [0]})}, "spaces has no column 'hypervolume'"),
        (
            {"edges": EDGES, "spaces": pd.DataFrame({"space": ["deep"] * 2, "seed": [1, 1], "hypervolume": [0.1, 0.2]})},
            "spaces has a row twice: space deep, seed 1",
        ),
    ],
)
def test_results_that_cannot_be_compared_are_refused(given, message):
    """The error names the frame and what is wrong."""
    with pytest.raises(ValueError, match=message):
        Results(**given)
