"""The papers' claims, each judged by differences between runs of the same seed.

AttentiveNAS (arXiv:2011.09011) and AlphaNet (arXiv:2102.07954).

A claim is taken apart into comparisons "A over B". A comparison has one difference A - B per seed, their mean m and
standard error se = sd / sqrt(n), sd with n - 1:

    m >= 2 se    holds
    m <= -2 se   does not hold
    otherwise    cannot be told, as with one seed (no standard error) or where nothing differs (m = 0)

The papers show one run each and no spread; pairing by seed, and the spread, are this project's.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from studies.strategies.buckets import place
from studies.strategies.distillation import KL, Ablation, Setting, figures

HOLDS, FAILS, OPEN, NOT_RUN = "holds", "does not hold", "cannot be told", "not run"
POINTS, TAU, AREA, TRIALS = "points of top-1", "tau", "hypervolume", "log10 of trials"
DIGITS = {POINTS: 2, TAU: 3, AREA: 4, TRIALS: 2}  # shown after the point
NUMBERS = {"minimum": 0.0, "first quartile": 0.25, "median": 0.5, "third quartile": 0.75, "maximum": 1.0}  # quantiles, Figure 5
UNIFORM, BEST, FLAT = "uniform", "bestup-3-loss", "bestup-3-loss-flat"
OTHERS = (UNIFORM, "worstup-3-loss", "bestup-50-acc", "worstup-50-acc", "bestup-1m-acc", "worstup-1m-acc")
COLUMNS = {  # of each frame: those that name a row once, then the others
    "runs": ((), ("strategy", "seed", "mflops", "top1", "round")),
    "finals": (("strategy", "seed"), ("hypervolume", "top1_low", "top1_best")),
    "ranks": (("figure", "seed"), ("tau", "tau_flops", "paper")),
    "trials": (("seed",), ("uniform", "proposal", "exact")),
    "spaces": (("space", "seed"), ("hypervolume",)),
    "models": (("seed", "model"), ("top1_inherited", "top1_scratch")),
}


@dataclass(frozen=True, eq=False)
class Results:
    """What the runs found. A frame that is left out or empty becomes one without rows: the claims that need it are not run.

    Raises:
        ValueError: if a frame lacks a column or has a row twice, or the edges are not ascending.
    """

    edges: Sequence[float]  # of the buckets of cost, ascending, MFLOPs; what lies outside counts to the end buckets
    runs: pd.DataFrame | None = None  # everything evaluated: strategy, seed, mflops, top1 (percent), round (0: the same networks for all)
    finals: pd.DataFrame | None = None  # strategy, seed, hypervolume, top1_low, top1_best (percent)
    ranks: pd.DataFrame | None = None  # figure (4a to 4c, 7a to 7c), seed, tau, tau_flops (of cost alone), paper (its tau)
    trials: pd.DataFrame | None = None  # seed (of the pool), mean trials a sample: uniform, proposal, exact
    spaces: pd.DataFrame | None = None  # space ("deep" or "wide"), seed, hypervolume
    models: pd.DataFrame | None = None  # seed, model, top1_inherited, top1_scratch (percent)
    losses: Ablation | None = None  # of distillation

    def __post_init__(self) -> None:
        if len(self.edges) < 2 or not (np.diff(self.edges) > 0).all():
            raise ValueError(f"edges {list(self.edges)} must be two or more ascending costs")
        for name, (keys, values) in COLUMNS.items():
            frame = getattr(self, name)
            if frame is None or frame.empty:
                object.__setattr__(self, name, pd.DataFrame({c: pd.Series(dtype=float) for c in (*keys, *values)}))
                continue
            if missing := [c for c in (*keys, *values) if c not in frame]:
                raise ValueError(f"{name} has no column {missing[0]!r}; it needs {', '.join((*keys, *values))}")
            if keys and frame.duplicated(list(keys)).any():
                twice = frame.loc[frame.duplicated(list(keys)), list(keys)].iloc[0]
                raise ValueError(f"{name} has a row twice: {', '.join(f'{k} {v}' for k, v in twice.items())}")


@dataclass(frozen=True)
class Comparison:
    """ "A over B": what was found for A and for B with each seed, in one unit; a claim says that A is higher."""

    name: str
    unit: str  # one of DIGITS
    seeds: tuple[int, ...]  # that both were run with
    a: tuple[float, ...]  # a value a seed
    b: tuple[float, ...]
    paper: str = ""  # the paper's figure for just this

    @property
    def differences(self) -> tuple[float, ...]:
        """A - B of the same seed."""
        return tuple(a - b for a, b in zip(self.a, self.b))

    @property
    def mean(self) -> float:
        return float(np.mean(self.differences))

    @property
    def standard_error(self) -> float:
        """sd (n - 1) / sqrt(n) of the differences; NaN for one seed."""
        return _deviation(self.differences) / np.sqrt(len(self.seeds))

    @property
    def verdict(self) -> str:
        if len(self.seeds) < 2 or self.mean == 0 or abs(self.mean) < 2 * self.standard_error:
            return OPEN
        return HOLDS if self.mean > 0 else FAILS


@dataclass(frozen=True)
class Claim:
    """Something a paper says (or that goes beyond both), and the comparisons that test it."""

    key: str  # e.g. "observation 1"
    source: str  # which paper says so, and where
    statement: str  # in our words
    judged: str  # what is compared with what
    comparisons: tuple[Comparison, ...]
    paper: str = ""  # its figures, if it gives any
    figure: str = ""  # name of the image that shows it
    found: str = ""  # figures of our own that the comparisons do not show

    @property
    def verdict(self) -> str:
        """That of all comparisons if they agree, else how many say what; "not run" without any."""
        count = Counter(c.verdict for c in self.comparisons)
        if len(count) < 2:
            return next(iter(count), NOT_RUN)
        said = [f"{verdict} in {count[verdict]}" for verdict in (HOLDS, OPEN, FAILS) if count[verdict]]
        return ", ".join([f"{said[0]} of {count.total()}", *said[1:]])


def judge(results: Results) -> list[Claim]:
    """All claims in the order of the page: AttentiveNAS's sections 4.3, 4.4, appendices B, C, D, sections 1 and 2; AlphaNet's; others."""
    return [
        _predictor(results),
        *_observations(results),
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
    """A row a comparison: means over seeds of A, B and A - B, the standard error, each difference, both verdicts."""
    columns = [
        "claim",
        "claim_verdict",
        "comparison",
        "unit",
        "seeds",
        "a",
        "b",
        "mean",
        "standard_error",
        "verdict",
        "differences",
        "paper",
    ]
    return pd.DataFrame(
        [
            (
                claim.key,
                claim.verdict,
                c.name,
                c.unit,
                len(c.seeds),
                np.mean(c.a),
                np.mean(c.b),
                c.mean,
                c.standard_error,
                c.verdict,
                " ".join(f"{d:.6g}" for d in c.differences),
                c.paper,
            )
            for claim in claims
            for c in claim.comparisons
        ],
        columns=columns,
    )


def best(runs: pd.DataFrame, edges: Sequence[float]) -> pd.DataFrame:
    """Highest top-1 (percent) of everything evaluated: a row per (strategy, seed), a column per bucket; NaN where nothing lies."""
    return _bucketed(runs, edges, 1.0)


def number(runs: pd.DataFrame, edges: Sequence[float], quantile: float) -> pd.DataFrame:
    """A quantile of the top-1 (percent) of the architectures of round 0, shaped as by `best`."""
    return _bucketed(runs[runs["round"] == 0], edges, quantile)


def _bucketed(runs: pd.DataFrame, edges: Sequence[float], quantile: float) -> pd.DataFrame:
    bucket = place(runs["mflops"].to_numpy(np.float64), edges)
    levels = runs.groupby(["strategy", "seed", bucket])["top1"].quantile(quantile).unstack()
    return levels.reindex(columns=range(len(edges) - 1))


def _melted(frame: pd.DataFrame, a: str, b: str, names: tuple[str, str], part: str | None = None) -> pd.DataFrame:
    """Two columns brought to the shape of `best`: rows (name, seed), a column per value of `part` (or just one)."""
    frame = frame.rename(columns={a: names[0], b: names[1]})
    long = frame.melt(["seed"] if part is None else ["seed", part], list(names), "who", "level")
    long["part"] = 0 if part is None else long[part]
    return long.pivot(index=["who", "seed"], columns="part", values="level")


def compare(levels: pd.DataFrame, a: str, b: str, what: str, unit: str, paper: str = "") -> tuple[Comparison, ...]:
    """A over B with the seeds of both; no comparison where there is no such seed.

    Args:
        levels: rows (who, seed), a column or several, over which the mean is taken where both A and B have a number.
        a: who is claimed to be higher.
        b: the other.
        what: is compared; "" if the names of A and B say it.
        unit: of the levels.
        paper: its figure.
    """
    found = set(levels.index.get_level_values(0))
    if not {a, b} <= found:
        return ()
    high, low = levels.xs(a).align(levels.xs(b), join="inner", axis=0)
    both = high.notna() & low.notna()
    high, low = (side.where(both).mean(axis=1).dropna().sort_index() for side in (high, low))
    if high.empty:
        return ()
    name = f"{a} over {b}" + (f": {what}" if what else "")
    return (Comparison(name, unit, tuple(int(s) for s in high.index), tuple(high.tolist()), tuple(low.tolist()), paper),)


def _panels(ranks: pd.DataFrame, panels: Mapping[str, str]) -> Iterator[Comparison]:
    for panel, what in panels.items():
        rows = ranks[ranks["figure"] == panel]
        paper = f"tau {rows['paper'].iloc[0]:.2f}" if len(rows) else ""
        yield from compare(_melted(rows, "tau", "tau_flops", (what, "cost alone")), what, "cost alone", f"Figure {panel}", TAU, paper)


def _predictor(r: Results) -> Claim:
    panels = {
        "4a": "forest, early supernet",
        "4b": "forest, final supernet",
        "4c": "forest, another partition of the data",
    }
    return Claim(
        "section 4.3",
        "AttentiveNAS, section 4.3, Figure 4",
        "A random forest fitted to sub-networks of an early supernet ranks others rightly, and still does so at the end of training "
        "and on another partition of the data.",
        "Kendall's tau between predicted and measured accuracy (A) against that between cost alone and measured accuracy (B), on the "
        "half that the forest was not fitted to. The paper gives no tau of cost alone; without it a high tau says little, because "
        "dearer networks tend to be better.",
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
        "Supernet training is robust: the same sub-networks rank nearly alike with another seed and partition, and early as at the end.",
        "Kendall's tau between two measurements of the same sub-networks (A) against that between cost alone and the second "
        "measurement (B).",
        tuple(_panels(r.ranks, panels)),
        "tau 0.94 (a), 0.96 (b), 0.88 (c)",
        "figure_7",
    )


def _twice(levels: pd.DataFrame, a: str, b: str, what: str, paper: str = "") -> tuple[Comparison, ...]:
    """In the cheapest bucket, where `paper` is the paper's figure, and over all."""
    cheapest = compare(levels.iloc[:, :1], a, b, f"{what}, cheapest bucket", POINTS, paper)
    return cheapest + compare(levels, a, b, f"{what}, mean over buckets", POINTS)


def _observations(r: Results) -> list[Claim]:
    numbers = {name: number(r.runs, r.edges, quantile) for name, quantile in NUMBERS.items()}
    top = best(r.runs, r.edges)
    finals = r.finals.set_index(["strategy", "seed"])
    return [
        Claim(
            "observation 1",
            "AttentiveNAS, section 4.4, observation 1, Figure 5 (a) and (b)",
            "Training the worst architectures lifts the lower end: minimum and first quartile of accuracy are higher than with uniform "
            "sampling or with training the best.",
            "Minimum and first quartile of the same randomly drawn architectures, in the cheapest bucket of cost and as the mean over all. "
            "The paper shows two regimes of cost.",
            tuple(
                c
                for a in ("worstup-50-acc", "worstup-1m-acc")
                for b in ("bestup-50-acc", "bestup-1m-acc", UNIFORM)
                for name in ("minimum", "first quartile")
                for c in _twice(numbers[name], a, b, name)
            ),
            figure="figure_5",
        ),
        Claim(
            "observation 2",
            "AttentiveNAS, section 4.4, observation 2, Figure 5 (a) and (b)",
            "Training the worst of a million predicted architectures beats training the best of them.",
            "Each of the five numbers of Figure 5, in the cheapest bucket and as the mean over all.",
            tuple(c for name in NUMBERS for c in _twice(numbers[name], "worstup-1m-acc", "bestup-1m-acc", name)),
            figure="figure_5",
        ),
        Claim(
            "observation 3",
            "AttentiveNAS, section 4.4, observation 3, Figures 5 and 6",
            "Training the worst architectures lifts the best ones too.",
            "Best top-1 of everything evaluated, in the cheapest bucket and as the mean over all.",
            (
                *_twice(top, "worstup-50-acc", UNIFORM, "best", "about 0.3 points at 200 ± 10 MFLOPs"),
                *_twice(top, "worstup-1m-acc", UNIFORM, "best"),
            ),
            "WorstUp-50 (acc) over uniform: about 0.3 points at 200 ± 10 MFLOPs",
            "figure_6",
        ),
        Claim(
            "observation 4",
            "AttentiveNAS, section 4.4, observation 4, Figure 6",
            "Training the predicted best of 50 pays above the cheapest networks.",
            "Best top-1 of everything evaluated, mean over the buckets from the second upward.",
            tuple(
                c
                for b in ("worstup-50-acc", UNIFORM)
                for c in compare(top.iloc[:, 1:], "bestup-50-acc", b, "best, second bucket and up", POINTS)
            ),
            "above both from 400 MFLOPs on, of the 200 to 1900 of its space",
            "figure_6",
        ),
        Claim(
            "observation 5",
            "AttentiveNAS, section 4.4, observation 5, Figure 6",
            "Choosing by the loss on the batch, the best as well as the worst of three, beats uniform sampling.",
            "Best top-1 of everything evaluated, mean over the buckets.",
            tuple(c for a in ("worstup-3-loss", BEST) for c in compare(top, a, UNIFORM, "best, mean over buckets", POINTS)),
            figure="figure_6",
        ),
        Claim(
            "observation 6",
            "AttentiveNAS, section 4.4, observation 6, Figure 6",
            "The best of three by the loss on the batch is the best strategy on the whole.",
            "Best top-1 of everything evaluated, mean over the buckets, and the hypervolume of the front, against each other strategy "
            "of the paper.",
            (
                *(c for b in OTHERS for c in compare(top, BEST, b, "best, mean over buckets", POINTS)),
                *(c for b in OTHERS for c in compare(finals[["hypervolume"]], BEST, b, "hypervolume", AREA)),
            ),
            figure="figure_6",
        ),
    ]


def _losses(r: Results) -> list[Claim]:
    """AlphaNet's: its divergence against KL, then its settings one by one."""
    if r.losses is None:
        return [_divergence("the adaptive divergence", ())]
    found, base = r.losses, r.losses.base
    finals = found.finals.set_index(["strategy", "seed"])[["hypervolume"]]
    top = best(found.runs, r.edges)
    median, minimum = (number(found.runs, r.edges, NUMBERS[name]) for name in ("median", "minimum"))
    over_kl = (
        *_twice(median, base, KL, "median"),
        *_twice(minimum, base, KL, "minimum"),
        *_twice(top, base, KL, "best"),
        *compare(finals, base, KL, "hypervolume", AREA),
    )
    settings = [
        _setting(
            setting,
            tuple(c for b in setting.others for c in compare(median, base, b, "median, mean over buckets", POINTS))
            + tuple(c for b in setting.others for c in compare(finals, base, b, "hypervolume", AREA)),
            next(name for name, drawn in figures(found).items() if setting in drawn),
        )
        for setting in found.settings
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


ALPHANET = {  # by key of the loss: where the paper has it, and what to know about it
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
        "It is the share of the largest network's answers, the rest being the labels'. The supplement has 0.9 as its default for "
        "distillation at large; with 1 the labels have no part, as in AttentiveNAS.",
    ),
    "temperature": ("AlphaNet, supplement, section C", "The supplement gives no value; with 1 the answers stay as they are."),
}


def _setting(setting: Setting, comparisons: tuple[Comparison, ...], figure: str) -> Claim:
    source, note = ALPHANET.get(setting.key, ("beyond the papers", ""))
    judged = (
        "Median of the same randomly drawn architectures as the mean over the buckets, and hypervolume, against the other values, all "
        "else alike."
    )
    return Claim(
        f"value of {setting.key}",
        source,
        f"With {setting.key} {setting.default} the adaptive divergence gives better sub-networks than with the other values tried.",
        f"{judged} {note}".strip(),
        comparisons,
        figure=figure,
    )


def _foremost(r: Results) -> Claim:
    """Which strategy to take: the one with the highest mean hypervolume against each other one."""
    finals = r.finals.set_index(["strategy", "seed"])[["hypervolume"]]
    means = r.finals.groupby("strategy", sort=False)["hypervolume"].mean().sort_values(ascending=False)
    first, *others = means.index if len(means) else [""]
    return Claim(
        "the foremost strategy",
        "beyond the papers",
        "The strategy with the highest mean hypervolume is better than each of the others.",
        f"Hypervolume of {first or 'the foremost'} against that of every other strategy. It was picked after the runs as the highest of "
        f"{len(means)}, which alone lifts it a little.",
        tuple(c for other in others for c in compare(finals, first, other, "hypervolume", AREA)),
        figure="figure_6",
    )


def _flat(r: Results) -> list[Claim]:
    finals = r.finals.set_index(["strategy", "seed"])
    top = best(r.runs, r.edges)
    return [
        Claim(
            "flat targets, low end",
            "beyond the papers",
            "Cost targets drawn evenly over the buckets, not from the prior, lift the low end.",
            f"{FLAT} against {BEST}: the best network of the cheapest quarter of the range of cost, and of the cheapest bucket. In "
            "AttentiveNAS's space the prior hardly ever asks for a cheap network. Where it asks for many (see *cost targets* above), flat "
            "targets take training away from the low end, and the question of AttentiveNAS's space is not answered.",
            (
                *compare(finals[["top1_low"]], FLAT, BEST, "best of the cheapest quarter", POINTS),
                *compare(top.iloc[:, :1], FLAT, BEST, "best, cheapest bucket", POINTS),
            ),
            figure="figure_6",
        ),
        Claim(
            "flat targets, on the whole",
            "beyond the papers",
            "Such flat targets lead to a better front.",
            f"{FLAT} against {BEST}: hypervolume, best top-1 of everything evaluated as the mean over the buckets, and best of all.",
            (
                *compare(top, FLAT, BEST, "best, mean over buckets", POINTS),
                *compare(finals[["top1_best"]], FLAT, BEST, "best of all", POINTS),
                *compare(finals[["hypervolume"]], FLAT, BEST, "hypervolume", AREA),
            ),
            figure="figure_6",
        ),
    ]


def _trials(r: Results, a: str, b: str, names: tuple[str, str], paper: str = "") -> tuple[Comparison, ...]:
    logs = r.trials.assign(**{c: np.log10(r.trials[c].astype(float)) for c in (a, b)})
    return compare(_melted(logs, a, b, names), *names, "", TRIALS, paper)


def _mean_trials(r: Results, names: Mapping[str, str]) -> str:
    if r.trials.empty:
        return ""
    means = {name: r.trials[column].mean() for column, name in names.items()}
    words = (f"{mean:,.0f} by {name}" if mean >= 100 else f"{mean:.4g} by {name}" for name, mean in means.items())
    return f"Mean trials a sample: {', '.join(words)}."


def _proposal(r: Results) -> Claim:
    return Claim(
        "appendix C",
        "AttentiveNAS, appendix C, Figure 8",
        "The factorised proposal needs far fewer trials for an architecture under a cost target than uniform rejection.",
        "Logarithm of the mean trials a sample on the paper's own search space, over the targets that the proposal's pool met (not the "
        "rarest, where uniform rejection takes millions), a pool a seed. A is what is claimed to need more.",
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
        "As for appendix C. One trial is the least there is.",
        _trials(r, "proposal", "exact", ("the proposal", "exact sampling")),
        figure="figure_8",
        found=_mean_trials(r, {"proposal": "the proposal", "exact": "exact sampling"}),
    )


def _deep(r: Results) -> Claim:
    levels = r.spaces.set_index(["space", "seed"])[["hypervolume"]]
    return Claim(
        "appendix D",
        "AttentiveNAS, appendix D, Figure 9",
        "A space of deeper, narrower networks yields a better front than one of wider, shallower ones, both with uniform sampling.",
        "Hypervolume of the front, with one reference cost for both spaces. The wide space plays the part of BigNAS's at the size of "
        "the images here; BigNAS's own, nas/spaces/big_nas.yaml, was not trained. The spaces differ in the number of their "
        "architectures too (see above): of a smaller one, training and search see a larger share.",
        compare(levels, "deep", "wide", "hypervolume", AREA),
        figure="figure_9",
    )


def _inherited(r: Results) -> Claim:
    names = ("inherited weights", "training alone")
    return Claim(
        "no retraining",
        "AttentiveNAS, sections 1 and 2",
        "Two-stage search needs no retraining: weights cut out of the supernet are at least as good as those of the same network "
        "trained alone.",
        "Top-1 on test images, mean over models of the family, against training from scratch for as many epochs. Equal accuracy "
        "would satisfy the paper too, but shows here as a difference that cannot be told.",
        compare(_melted(r.models, "top1_inherited", "top1_scratch", names, "model"), *names, "mean over models", POINTS),
        figure="inherited",
    )


PAPER = {
    "space": "AttentiveNAS, Table 2: 4.4e11 architectures, 203 to 1939 MFLOPs",
    "images": "1.28 million (ImageNet)",
    "epochs": "360, early: 30",
    "steps": "about 225,000 (batches of 2,048)",
    "seeds": "not said",
    "distillation losses": "AttentiveNAS: KL; AlphaNet: the larger of two alpha-divergences, alpha -1 and 1, clip 5",
    "evaluations": "AttentiveNAS: 5,248 a strategy (its text; its settings give 5,632)",
    "cost targets": "AttentiveNAS: from the prior, 0.2 % at or below 312 MFLOPs",
}


def page(claims: Sequence[Claim], facts: Mapping[str, object], figures: str = "../studies/strategies/outputs/report") -> str:
    """The page on all claims, as Markdown; the same claims and facts give the same text.

    Args:
        claims: as judged.
        facts: what was run, in the order to be shown: numbers, texts or lists. Those named as in PAPER get the paper's beside them.
        figures: folder of the images, seen from the page.
    """
    shown: set[str] = set()
    short = [(_anchor(c), c.statement, f"**{c.verdict}**") for c in claims]
    run = [(name, _fact(value), PAPER.get(name, "")) for name, value in facts.items()]
    parts = [
        "# The papers' claims, tested at small scale",
        "Sampling strategies and distillation losses side by side: which claims of [AttentiveNAS](https://arxiv.org/abs/2011.09011) and of "
        "[AlphaNet](https://arxiv.org/abs/2102.07954) hold in this comparison. The page is written "
        "from the results by the stage `report` of `studies/strategies/dvc.yaml`: change the runs, not the page.",
        "## In short\n\n" + _rows(("claim", "in words", "verdict"), short),
        "## What was run\n\n" + _rows(("", "here", "the papers"), run),
        "## How a verdict is reached\n\n" + _how(claims),
        "## Claim by claim",
        *(_section(claim, figures, shown) for claim in claims),
        "## Limits\n\n" + _limits(claims),
    ]
    return "\n\n".join(parts) + "\n"


def _how(claims: Sequence[Claim]) -> str:
    text = (
        "Each claim is taken apart into comparisons, *A over B*, in the direction that is claimed. Runs with the same seed share initial "
        "weights and the order of batches, those that differ in the loss the sampled sub-networks as well, so the difference A - B is "
        "taken seed by seed; means over buckets of cost, or over models, are taken first. The mean of the differences is set against its "
        "standard error (standard deviation with n - 1, over √n):\n\n"
        f"- **{HOLDS}**: the mean is at least two standard errors above zero;\n"
        f"- **{FAILS}**: it is at least two standard errors below zero;\n"
        f"- **{OPEN}**: it is less than two standard errors from zero, or there is but one seed.\n\n"
        "A claim has the verdict of its comparisons if they agree, else the counts are given. A bucket without an evaluated network on "
        "either side is left out of that seed's mean."
    )
    if _one_seed(claims):
        text += (
            "\n\n**Only one seed was run.** A single difference has no standard error, so every verdict below is "
            f'"{OPEN}", however large the difference.'
        )
    return text


def _one_seed(claims: Sequence[Claim]) -> bool:
    counts = [len(c.seeds) for claim in claims for c in claim.comparisons]
    return bool(counts) and max(counts) == 1


def _section(claim: Claim, figures: str, shown: set[str]) -> str:
    """`shown` gathers the images that are on the page already."""
    parts = [f"### {_title(claim)}", claim.statement, f"- Source: {claim.source}."]
    if claim.paper:
        parts[-1] += f"\n- The paper's figure: {claim.paper}."
    parts[-1] += f"\n- Compared here: {claim.judged}\n- Verdict: **{claim.verdict}**."
    if claim.found:
        parts[-1] += f"\n- {claim.found}"
    if not claim.comparisons:
        return "\n\n".join([*parts, "What it compares was not among the runs."])
    parts.append(_comparisons(claim.comparisons))
    image = claim.figure.replace("_", " ").capitalize().replace("Alphanet", "AlphaNet's Figure")
    if claim.figure and claim.figure not in shown:
        shown.add(claim.figure)
        parts.append(f"![{image}]({figures}/{claim.figure}.png)")
    elif claim.figure:
        parts.append(f"[{image}]({figures}/{claim.figure}.png), shown above.")
    return "\n\n".join(parts)


def _comparisons(comparisons: Sequence[Comparison]) -> str:
    """One unit after another, a table a unit; the paper's column only where it gives a figure."""
    tables = []
    for unit in dict.fromkeys(c.unit for c in comparisons):
        mine = [c for c in comparisons if c.unit == unit]
        header = ["A over B", "A (sd)", "B (sd)", "A - B by seed", "mean ± se", "verdict"]
        rows = [
            [
                c.name,
                _spread(c.a, unit),
                _spread(c.b, unit),
                ", ".join(_signed(d, unit) for d in c.differences),
                f"{_signed(c.mean, unit)} ± {_plain(c.standard_error, unit)}" if len(c.seeds) > 1 else _signed(c.mean, unit),
                c.verdict if len(c.seeds) > 1 else f"{c.verdict} (one seed)",
            ]
            for c in mine
        ]
        if any(c.paper for c in mine):
            header.append("the paper")
            rows = [[*row, c.paper] for row, c in zip(rows, mine)]
        seeds = sorted({s for c in mine for s in c.seeds})
        tables.append(f"In {unit}; {'seeds' if len(seeds) > 1 else 'seed'} {', '.join(map(str, seeds))}:\n\n{_rows(header, rows)}")
    return "\n\n".join(tables)


def _limits(claims: Sequence[Claim]) -> str:
    by_seeds = Counter(len(c.seeds) for c in {c for claim in claims for c in claim.comparisons} if len(c.seeds) > 1)
    points = [
        "Small scale: one data set, a small search space, short training. After 360 epochs on ImageNet the strategies may differ more, "
        "or less: what holds here need not hold there, and the other way round.",
        "Strategies and losses are compared on the images that their searches chose by, as in AttentiveNAS's Figures 5 and 6; only the "
        "inherited weights are compared on test images.",
    ]
    if by_seeds:
        seeds, _ = by_seeds.most_common(1)[0]
        decided = sum(count * by_chance(n) for n, count in by_seeds.items())
        points.append(
            f"Few seeds: two standard errors are a lenient bar. With {seeds} seeds, normal noise alone passes it, one way or the other, "
            f"{100 * by_chance(seeds):.0f} times in 100. Of the {by_seeds.total()} comparisons here about {decided:.0f} would be decided "
            "even if nothing differed at all, and comparisons that share runs go wrong together."
        )
    late = [c for claim in claims for c in claim.comparisons if c.name.endswith("Figure 4b")]
    if late:
        points.append(
            "Strategies that end in -acc chose by a predictor that was fitted early. With the accuracies at the end of training its tau is "
            f"{np.mean(late[0].a):.2f}, that of cost alone {np.mean(late[0].b):.2f}: the less it ranks, the less is the predicted best or "
            "worst the best or worst."
        )
    if any(claim.key.startswith("value of ") and claim.comparisons for claim in claims):
        points.append(
            "Each distillation loss was trained with the learning rate and all other settings of KL; none was tuned to it. A loss whose "
            "gradients are larger may only need a lower rate."
        )
    if any("4c" in c.name or "7a" in c.name or "7b" in c.name for claim in claims for c in claim.comparisons):
        points.append(
            "Figures 4c, 7a and 7b pair each seed with the next, so a run enters two of their differences, which are not independent: "
            "take their standard errors as rough."
        )
    points.append(
        '"Cannot be told" does not say that two strategies are equal: only that a difference of this size would need more seeds to be seen.'
    )
    return "\n".join(f"- {p}" for p in points)


def by_chance(seeds: int) -> float:
    """How often differences of nothing but normal noise lie two standard errors or more from zero: Student's t, both tails."""
    return float(2 * stats.t.sf(2, seeds - 1))


def _deviation(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def _plain(value: float, unit: str) -> str:
    return f"{value:.{DIGITS[unit]}f}"


def _signed(value: float, unit: str) -> str:
    return f"{value:+z.{DIGITS[unit]}f}"


def _spread(values: Sequence[float], unit: str) -> str:
    mean = _plain(float(np.mean(values)), unit)
    return f"{mean} ({_plain(_deviation(values), unit)})" if len(values) > 1 else mean


def _title(claim: Claim) -> str:
    return claim.key[0].upper() + claim.key[1:]


def _anchor(claim: Claim) -> str:
    slug = "".join(c for c in claim.key.lower() if c.isalnum() or c in " -_").replace(" ", "-")
    return f"[{_title(claim)}](#{slug})"


def _fact(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence):
        return ", ".join(map(_fact, value))
    return f"{value:,}"


def _rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
