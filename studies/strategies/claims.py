"""The claims of AttentiveNAS (arXiv:2011.09011) and AlphaNet (arXiv:2102.07954), tested by runs of the same seed."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from studies.claims import AREA, POINTS, TAU, TRIALS, Claim, Comparison
from studies.strategies.comparisons import KL, Results, Setting, best, cheapest_and_mean, compare, figures_of, melted, quantiles

QUANTILES = {"minimum": 0.0, "first quartile": 0.25, "median": 0.5, "third quartile": 0.75, "maximum": 1.0}  # of Figure 5
UNIFORM, BEST, FLAT = "uniform", "bestup-3-loss", "bestup-3-loss-flat"
RIVALS = (UNIFORM, "worstup-3-loss", "bestup-50-acc", "worstup-50-acc", "bestup-1m-acc", "worstup-1m-acc")
BUCKETS = "best, mean over buckets"


def all_claims(results: Results) -> list[Claim]:
    """In the order of the page: AttentiveNAS's sections 4.3, 4.4, appendices B, C, D, sections 1 and 2; AlphaNet's; others."""
    return [
        _predictor(results),
        *_lower_end(results),
        *_upper_end(results),
        _robust(results),
        _proposal(results),
        _deep(results),
        _inherited(results),
        *_losses(results),
        _foremost(results),
        *_flat(results),
        _exact(results),
    ]


def table(claims: Sequence[Claim]) -> pd.DataFrame:
    """A row per comparison: means over seeds of A, B and A - B, the standard error, each difference, both verdicts."""
    rows = [
        {
            "claim": claim.key,
            "claim_verdict": claim.verdict,
            "comparison": c.name,
            "unit": c.unit,
            "seeds": len(c.pairs),
            "a": np.mean(c.a),
            "b": np.mean(c.b),
            "mean": c.mean,
            "standard_error": c.standard_error,
            "verdict": c.verdict,
            "differences": " ".join(f"{d:.6g}" for d in c.differences),
            "paper": c.published,
        }
        for claim in claims
        for c in claim.parts
    ]
    columns = ["claim", "claim_verdict", "comparison", "unit", "seeds", "a", "b", "mean", "standard_error", "verdict", "differences"]
    return pd.DataFrame(rows, columns=[*columns, "paper"])


def _panels(ranks: pd.DataFrame, panels: Mapping[str, str]) -> Iterator[Comparison]:
    for panel, what in panels.items():
        rows = ranks[ranks["figure"] == panel]
        published = f"tau {rows['paper'].iloc[0]:.2f}" if len(rows) else ""
        taus = melted(rows, "tau", "tau_flops", (what, "cost alone"))
        yield from compare(taus, what, "cost alone", f"Figure {panel}", TAU, published)


def _predictor(r: Results) -> Claim:
    panels = {
        "4a": "forest, early supernet",
        "4b": "forest, final supernet",
        "4c": "forest, another partition of the data",
    }
    return Claim(
        "section 4.3",
        "AttentiveNAS, section 4.3, Figure 4",
        "A random forest fitted to sub-networks of an early supernet ranks others correctly, and still does so at the end of training "
        "and on another partition of the data.",
        "Kendall's tau between predicted and measured accuracy (A) against that between cost alone and measured accuracy (B), on the "
        "half that the forest was not fitted to. The paper gives no tau of cost alone; without it a high tau says little, because "
        "more expensive networks tend to be better.",
        tuple(_panels(r.ranks, panels)),
        "tau 0.89 (a), 0.87 (b), 0.88 (c)",
        "figure_4",
    )


def _robust(r: Results) -> Claim:
    panels = {
        "7a": "early, another seed",
        "7b": "final, another seed",
        "7c": "early against final",
    }
    return Claim(
        "appendix B",
        "AttentiveNAS, appendix B, Figure 7",
        "Supernet training is robust: sub-networks rank nearly alike with another seed and partition, and early as at the end.",
        "Kendall's tau between two measurements of the same sub-networks (A) against that between cost alone and the second "
        "measurement (B).",
        tuple(_panels(r.ranks, panels)),
        "tau 0.94 (a), 0.96 (b), 0.88 (c)",
        "figure_7",
    )


def _lower_end(r: Results) -> list[Claim]:
    """Observations 1 and 2: the distribution of accuracies."""
    levels = {name: quantiles(r.runs, r.edges, quantile) for name, quantile in QUANTILES.items()}
    lowest = tuple(
        c
        for a in ("worstup-50-acc", "worstup-1m-acc")
        for b in ("bestup-50-acc", "bestup-1m-acc", UNIFORM)
        for name in ("minimum", "first quartile")
        for c in cheapest_and_mean(levels[name], a, b, name)
    )
    million = tuple(c for name in QUANTILES for c in cheapest_and_mean(levels[name], "worstup-1m-acc", "bestup-1m-acc", name))
    return [
        Claim(
            "observation 1",
            "AttentiveNAS, section 4.4, observation 1, Figure 5 (a) and (b)",
            "Training the worst architectures raises the lower end: minimum and first quartile of accuracy are higher than with uniform "
            "sampling or with training the best.",
            "Minimum and first quartile of the same randomly drawn architectures, in the cheapest bucket of cost and as the mean over all. "
            "The paper shows two regimes of cost.",
            lowest,
            figure="figure_5",
        ),
        Claim(
            "observation 2",
            "AttentiveNAS, section 4.4, observation 2, Figure 5 (a) and (b)",
            "Training the worst of a million predicted architectures beats training the best of them.",
            "Each of the five quantiles of Figure 5, in the cheapest bucket and as the mean over all.",
            million,
            figure="figure_5",
        ),
    ]


def _upper_end(r: Results) -> list[Claim]:
    """Observations 3 to 6: the best of everything evaluated."""
    top, finals = best(r.runs, r.edges), r.finals.set_index(["strategy", "seed"])
    third = "about 0.3 points at 200 ± 10 MFLOPs"
    claims = {  # statement, test, comparisons, the paper's figures
        3: (
            "Training the worst architectures raises the best ones too.",
            "Best top-1 of everything evaluated, in the cheapest bucket and as the mean over all.",
            (
                *cheapest_and_mean(top, "worstup-50-acc", UNIFORM, "best", third),
                *cheapest_and_mean(top, "worstup-1m-acc", UNIFORM, "best"),
            ),
            f"WorstUp-50 (acc) over uniform: {third}",
        ),
        4: (
            "Training the predicted best of 50 improves all but the cheapest networks.",
            "Best top-1 of everything evaluated, mean over the buckets from the second upward.",
            tuple(
                c
                for b in ("worstup-50-acc", UNIFORM)
                for c in compare(top.iloc[:, 1:], "bestup-50-acc", b, "best, second bucket and up", POINTS)
            ),
            "above both from 400 MFLOPs on, of the 200 to 1900 of its space",
        ),
        5: (
            "Choosing by the loss on the batch, the best as well as the worst of three, beats uniform sampling.",
            "Best top-1 of everything evaluated, mean over the buckets.",
            tuple(c for a in ("worstup-3-loss", BEST) for c in compare(top, a, UNIFORM, BUCKETS, POINTS)),
            "",
        ),
        6: (
            "The best of three by the loss on the batch is the best strategy overall.",
            "Best top-1 of everything evaluated, mean over the buckets, and the hypervolume of the front, against each other strategy "
            "of the paper.",
            (
                *(c for b in RIVALS for c in compare(top, BEST, b, BUCKETS, POINTS)),
                *(c for b in RIVALS for c in compare(finals[["hypervolume"]], BEST, b, "hypervolume", AREA)),
            ),
            "",
        ),
    }
    shown = {3: "Figures 5 and 6", 4: "Figure 6", 5: "Figure 6", 6: "Figure 6"}
    return [
        Claim(f"observation {i}", f"AttentiveNAS, section 4.4, observation {i}, {shown[i]}", *claim, figure="figure_6")
        for i, claim in claims.items()
    ]


def _losses(r: Results) -> list[Claim]:
    """AlphaNet's: its divergence against KL, then its settings one by one."""
    if r.losses is None:
        return [_divergence("the adaptive divergence", ())]
    runs, base = r.losses.runs, r.losses.base
    finals = r.losses.finals.set_index(["strategy", "seed"])[["hypervolume"]]
    top = best(runs, r.edges)
    median, minimum = (quantiles(runs, r.edges, QUANTILES[name]) for name in ("median", "minimum"))
    over_kl = (
        *cheapest_and_mean(median, base, KL, "median"),
        *cheapest_and_mean(minimum, base, KL, "minimum"),
        *cheapest_and_mean(top, base, KL, "best"),
        *compare(finals, base, KL, "hypervolume", AREA),
    )
    settings = [
        _setting(
            setting,
            tuple(c for b in setting.others for c in compare(median, base, b, "median, mean over buckets", POINTS))
            + tuple(c for b in setting.others for c in compare(finals, base, b, "hypervolume", AREA)),
            next(name for name, drawn in figures_of(r.losses).items() if setting in drawn),
        )
        for setting in r.losses.settings
    ]
    return [_divergence(base, over_kl), *settings]


def _divergence(base: str, comparisons: tuple[Comparison, ...]) -> Claim:
    return Claim(
        "adaptive divergence",
        "AlphaNet, abstract",
        "Sub-networks that learn from the largest one by the adaptive alpha-divergence are better than those that learn by KL.",
        f"{base[0].upper()}{base[1:]} against KL, both with uniform sampling: median and minimum of the same randomly drawn architectures "
        "and the best of everything evaluated, in the cheapest bucket of cost and as the mean over all; and the hypervolume of the front.",
        comparisons,
        figure="alphanet_9",
    )


ALPHANET = {  # by key of the loss: source, and a note on it
    "alpha_min": (
        "AlphaNet, supplement, section D",
        "A class weighs at most clip / |alpha_min| in the gradient of this divergence, so a smaller |alpha_min| allows larger steps.",
    ),
    "alpha_max": ("AlphaNet, supplement, section D", ""),
    "clip": (
        "AlphaNet, supplement, section D",
        "The supplement varies a beta there that it does not explain; most likely it is this bound of the ratio. "
        "A class weighs at most clip / |alpha_min| in the gradient, so a larger clip allows larger steps.",
    ),
    "weight": (
        "AlphaNet, supplement, section C",
        "It is the share of the largest network's predictions in the target, the rest being the labels'. The supplement has 0.9 as its "
        "default for distillation in general; with 1 the labels have no part, as in AttentiveNAS.",
    ),
    "temperature": ("AlphaNet, supplement, section C", "The supplement gives no value; 1 leaves the predictions unchanged."),
}


def _setting(setting: Setting, comparisons: tuple[Comparison, ...], figure: str) -> Claim:
    source, note = ALPHANET.get(setting.key, ("beyond the papers", ""))
    test = (
        "Median of the same randomly drawn architectures as the mean over the buckets, and hypervolume, against the other values, all "
        "else equal."
    )
    return Claim(
        f"value of {setting.key}",
        source,
        f"With {setting.key} {setting.default} the adaptive divergence gives better sub-networks than with the other values tried.",
        f"{test} {note}".strip(),
        comparisons,
        figure=figure,
    )


def _foremost(r: Results) -> Claim:
    """The strategy with the highest mean hypervolume against each other one."""
    finals = r.finals.set_index(["strategy", "seed"])[["hypervolume"]]
    means = r.finals.groupby("strategy", sort=False)["hypervolume"].mean().sort_values(ascending=False)
    first, *others = means.index if len(means) else [""]
    return Claim(
        "the foremost strategy",
        "beyond the papers",
        "The strategy with the highest mean hypervolume is better than each of the others.",
        f"Hypervolume of {first or 'the foremost'} against that of every other strategy. It was selected after the runs as the highest of "
        f"{len(means)}, which alone raises it a little.",
        tuple(c for other in others for c in compare(finals, first, other, "hypervolume", AREA)),
        figure="figure_6",
    )


def _flat(r: Results) -> list[Claim]:
    finals, top = r.finals.set_index(["strategy", "seed"]), best(r.runs, r.edges)
    low = (
        *compare(finals[["top1_low"]], FLAT, BEST, "best of the cheapest quarter", POINTS),
        *compare(top.iloc[:, :1], FLAT, BEST, "best, cheapest bucket", POINTS),
    )
    overall = (
        *compare(top, FLAT, BEST, BUCKETS, POINTS),
        *compare(finals[["top1_best"]], FLAT, BEST, "best of all", POINTS),
        *compare(finals[["hypervolume"]], FLAT, BEST, "hypervolume", AREA),
    )
    return [
        Claim(
            "flat targets, low end",
            "beyond the papers",
            "Cost targets drawn uniformly over the buckets, not from the prior, raise the low end.",
            f"{FLAT} against {BEST}: the best network of the cheapest quarter of the range of cost, and of the cheapest bucket. In "
            "AttentiveNAS's space the prior rarely draws a cheap target. Where it draws many (see *cost targets* above), flat targets take "
            "training away from the low end, and the question of AttentiveNAS's space is not answered.",
            low,
            figure="figure_6",
        ),
        Claim(
            "flat targets, on the whole",
            "beyond the papers",
            "Flat cost targets lead to a better front.",
            f"{FLAT} against {BEST}: hypervolume, best top-1 of everything evaluated as the mean over the buckets, and best of all.",
            overall,
            figure="figure_6",
        ),
    ]


def _trials(r: Results, a: str, b: str, names: tuple[str, str], published: str = "") -> tuple[Comparison, ...]:
    logs = r.trials.assign(**{c: np.log10(r.trials[c].astype(float)) for c in (a, b)})
    return compare(melted(logs, a, b, names), *names, "", TRIALS, published)


def _mean_trials(r: Results, names: Mapping[str, str]) -> str:
    if r.trials.empty:
        return ""
    means = {name: r.trials[column].mean() for column, name in names.items()}
    texts = (f"{mean:,.0f} by {name}" if mean >= 100 else f"{mean:.4g} by {name}" for name, mean in means.items())
    return f"Mean trials per sample: {', '.join(texts)}."


def _proposal(r: Results) -> Claim:
    return Claim(
        "appendix C",
        "AttentiveNAS, appendix C, Figure 8",
        "The factorised proposal needs far fewer trials for an architecture under a cost target than uniform rejection.",
        "Logarithm of the mean trials per sample on the paper's own search space, over the targets that the proposal's pool met (not the "
        "rarest, where uniform rejection takes millions), a pool per seed. A is claimed to need more.",
        _trials(r, "uniform", "proposal", ("uniform rejection", "the proposal"), f"{np.log10(50_878 / 12):.2f}"),
        "50,878 trials by uniform rejection, about 12 by the proposal",
        "figure_8",
        _mean_trials(r, {"uniform": "uniform rejection", "proposal": "the proposal"}),
    )


def _exact(r: Results) -> Claim:
    return Claim(
        "exact sampling",
        "beyond the papers",
        "Exact sampling by dynamic programming needs fewer trials than the proposal.",
        "As for appendix C. One trial is the minimum.",
        _trials(r, "proposal", "exact", ("the proposal", "exact sampling")),
        figure="figure_8",
        remark=_mean_trials(r, {"proposal": "the proposal", "exact": "exact sampling"}),
    )


def _deep(r: Results) -> Claim:
    levels = r.spaces.set_index(["space", "seed"])[["hypervolume"]]
    return Claim(
        "appendix D",
        "AttentiveNAS, appendix D, Figure 9",
        "A space of deeper, narrower networks yields a better front than one of wider, shallower ones, both with uniform sampling.",
        "Hypervolume of the front, with one reference cost for both spaces. The wide space stands for BigNAS's at the size of "
        "the images used; BigNAS's own, nas/spaces/big_nas.yaml, was not trained. The spaces also differ in the number of their "
        "architectures (see above): of a smaller one, training and search see a larger share.",
        compare(levels, "deep", "wide", "hypervolume", AREA),
        figure="figure_9",
    )


def _inherited(r: Results) -> Claim:
    names = ("inherited weights", "training from scratch")
    return Claim(
        "no retraining",
        "AttentiveNAS, sections 1 and 2",
        "Two-stage search needs no retraining: weights extracted from the supernet are at least as good as those of the same network "
        "trained from scratch.",
        "Top-1 on test images, mean over models of the family, against training from scratch for as many epochs. Equal accuracy "
        "would satisfy the paper too, but is inconclusive as a comparison.",
        compare(melted(r.models, "top1_inherited", "top1_scratch", names, "model"), *names, "mean over models", POINTS),
        figure="inherited",
    )
