"""The claims of HardCoRe-NAS (arXiv:2102.11646) and its appendix, tested by its own pipeline and the stages of this study."""

from dataclasses import dataclass

import pandas as pd

from nas.evaluation.metrics import kendall_tau
from studies.claims import NATS, POINTS, TAU, Check, Claim, Comparison, latency_checks, paired
from studies.hardcore_nas_claims.config import SCRATCH, TUNED, improvement

ROUNDING_TOLERANCE = 1e-9  # of the target, for sums of floats
TARGET_TOLERANCE = 0.022  # of the target: in Table 5 networks deviate by at most this (44 ms for 45)
SHARED_HOURS, TARGET_HOURS = 400, 15  # GPU hours of the paper: for all targets, and for one more
PROGRAMME_HOURS, STEP_HOURS = 1.15e-5, 2.15e-3  # of the paper, Appendix H
CLOCK_NOISE = 0.1  # relative variation of the seconds of equal work on a busy machine


@dataclass(frozen=True, eq=False)
class Results:
    """Results of the stages."""

    targets: pd.DataFrame  # HardCoRe-NAS's summary.json, with a name
    seconds: dict[str, float]  # of HardCoRe-NAS: "shared", and of one more target "search" and "tuning"
    tuning: pd.DataFrame  # of stage tuning
    starts: pd.DataFrame  # of stage starts
    start: float  # HardCoRe-NAS's own
    epochs: dict[str, int]  # of HardCoRe-NAS's stage tune, by TUNED and SCRATCH


def all_claims(r: Results) -> list[Claim]:
    """In the order of the page."""
    return [_hard(r), _used_up(r), _measured(r), _one_more(r), _programmes(r), _balanced(r), *_room(r), *_tuning(r), _order(r)]


def _target_names(r: Results) -> list[str]:
    return [f"{row['name']}: {row['target_latency_ms']:.3g} ms" for row in r.targets.to_dict("records")]


def _hard(r: Results) -> Claim:
    own = r.targets["max_violation_ms"] / r.targets["target_latency_ms"]
    others = (r.starts["max_violation_ms"] / r.starts["target_latency_ms"]).max()
    checks = [Check(name, violation, ROUNDING_TOLERANCE) for name, violation in zip(_target_names(r), own)]
    return Claim(
        "hard constraint",
        "main paper, sections 3.2 and 3.4",
        "The search keeps the latency within the target at every step, and the discretised network does so too.",
        "Maximum excess over the target by the table, at any step or of the network, as a share of the target: per search of "
        "`pipelines/hardcore_nas`, and last over all searches of stage `starts`. Rounding of sums is tolerated.",
        (*checks, Check(f"all {len(r.starts)} searches from other starts and with other seeds", others, ROUNDING_TOLERANCE)),
        figure="constraint",
    )


def _used_up(r: Results) -> Claim:
    below = 1 - r.targets["table_latency_ms"] / r.targets["target_latency_ms"]
    return Claim(
        "target used up",
        "appendix J, Table 5",
        "The networks use nearly all of the target latency.",
        "Table latency below the target by at most the deviation of Table 5, whose latencies are measured. A network within the target "
        "need not reach it: the space is discrete, and the last block is rounded to the cheaper one.",
        tuple(Check(name, share, TARGET_TOLERANCE) for name, share in zip(_target_names(r), below)),
        "40, 44, 50, 55 and 61 ms for 40, 45, 50, 55 and 60",
    )


def _measured(r: Results) -> Claim:
    rows = r.targets
    names = [f"{row['name']}: {row['table_latency_ms']:.3g} ms by the table" for row in rows.to_dict("records")]
    over = (rows["measured_latency_ms"] / rows["target_latency_ms"] - 1).max()
    return Claim(
        "measured latency",
        "main paper, section 3.2; appendix J, Table 5",
        "The constrained latency, a sum over blocks, is that of the whole network.",
        "Measured latency of the networks against the sum of the table: within the deviation of Table 5. The uncertainty is the noise "
        "floor, the relative difference of two measurements of the network. The constraint is on the table, so a network may exceed its "
        "target by the error of the table.",
        latency_checks(rows, names, TARGET_TOLERANCE),
        "deviation from the target of at most 2.2 %",
        remark=f"The largest measured latency is {100 * abs(over):.1f} % {'above' if over > 0 else 'below'} its target.",
    )


def _one_more(r: Results) -> Claim:
    per_target, shared = r.seconds["search"] + r.seconds["tuning"], r.seconds["shared"]
    share = per_target / shared
    return Claim(
        "one more target",
        "main paper, section 4.2; appendix H",
        "Once the one-shot model is trained, one more target costs little: N targets take 400 + 15 N GPU hours.",
        f"Seconds of a search and of fine-tuning its network, as a share of those of the one-shot model; the uncertainty is "
        f"{CLOCK_NOISE:.0%} of it, for a busy machine. Training is short here, and the search is not shorter to the same degree: a share "
        "above the paper's follows from the scale.",
        (Check("marginal cost of one more target, of the shared cost", share, TARGET_HOURS / SHARED_HOURS, CLOCK_NOISE * share),),
        f"15 of 400 hours, {TARGET_HOURS / SHARED_HOURS:.2%}",
        remark=f"N targets take {shared:,.0f} + {per_target:,.0f} N seconds, of which the search is {r.seconds['search']:,.0f} N.",
    )


def _programmes(r: Results) -> Claim:
    programme, step = r.starts["programme_ms"].median(), r.starts["step_ms"].median()
    share = programme / step
    return Claim(
        "linear programmes",
        "appendix H",
        "The time of the linear programmes is negligible compared with that of the gradients.",
        "Milliseconds of a linear programme as a share of those of a step of the search, medians over the searches of stage `starts`; "
        f"the uncertainty is {CLOCK_NOISE:.0%} of it.",
        (Check("a programme, of a step", share, PROGRAMME_HOURS / STEP_HOURS, CLOCK_NOISE * share),),
        f"41 ms on a CPU for a programme, 7.7 s on a GPU for a gradient: {PROGRAMME_HOURS / STEP_HOURS:.2%}",
        remark=f"A programme takes {programme:.3g} ms and a step {step:.3g} ms.",
    )


def _searches_from(r: Results, start: float) -> pd.DataFrame:
    return r.starts[r.starts["start"] == start].set_index(["seed", "target"])


def _against(r: Results, start: float, other: float) -> tuple[Comparison, ...]:
    """Networks of searches from one start against those from another, in pairs of the same seed and target."""
    own, others = _searches_from(r, start), _searches_from(r, other)
    a, b = (f"{share:.0%} of the way" if share else "fastest" for share in (start, other))
    return (
        paired(f"top-1 fine-tuned, {a} over {b}", POINTS, own["top1"], others["top1"]),
        paired(f"top-1 with one-shot weights, {a} over {b}", POINTS, own["top1_held_out"], others["top1_held_out"]),
        paired(f"loss with one-shot weights, {b} over {a}", NATS, others["loss"], own["loss"]),
    )


def _balanced(r: Results) -> Claim:
    networks = r.starts.groupby("start")["arch"].nunique()
    balanced = [start for start in networks.index if start > 0]
    gains = ", ".join(f"{improvement(r.starts, start):+.2f} % from {start:.0%} of the way" for start in balanced)
    distinct = ", ".join(f"{n} from {start:.0%}" for start, n in networks.items())
    return Claim(
        "balanced start",
        "appendix E, Equation 27",
        "A search from the balanced start finds better networks than one from the fastest network, whose gradients reach no other.",
        "Networks of searches from the maximum-entropy point within a share of the way from the fastest network to the target (A), and "
        f"from the fastest network itself (B), with the trained one-shot model; {r.start:.0%} is the start of `pipelines/hardcore_nas`, "
        "100% the paper's. Top-1 on test images after fine-tuning, as in Equation 27; top-1 and loss on the images of the search, with the "
        "one-shot model's weights; in pairs of the same target and seed. This project takes the gradient of every choice, drawn or not, "
        "given the drawn choices of the other blocks, so a search can leave the fastest network.",
        tuple(c for start in balanced for c in _against(r, start, 0.0)),
        "+8.3 % of the top-1, the mean over targets of 35, 40, 45, 50 and 55 ms",
        "starts",
        f"By Equation 27 {gains}. Distinct networks in {len(_searches_from(r, 0.0))} searches: {distinct} of the way.",
    )


def _room(r: Results) -> list[Claim]:
    others = sorted(set(r.starts["start"]) - {0.0, r.start})
    claim = Claim(
        "room to change",
        "beyond the paper, whose start is the maximum-entropy point within the whole target",
        "A balanced start that leaves part of the target unused finds better networks: at the target, alpha can only be traded for alpha, "
        "beta only for beta.",
        f"As for *balanced start*: within {r.start:.0%} of the way to the target (A) against other shares of it (B).",
        tuple(c for other in others for c in _against(r, r.start, other)),
        figure="starts",
    )
    return [claim] if others else []


def _tuning(r: Results) -> list[Claim]:
    top1 = r.tuning.set_index(["training", "epochs", "network"])["top1"].sort_index()
    lengths = sorted(epochs for epochs in top1[TUNED].index.unique("epochs") if epochs)
    few, many = lengths[0], lengths[-1]
    (epochs,) = top1[SCRATCH].index.unique("epochs")
    scratch, short, long = top1[SCRATCH, epochs], top1[TUNED, few], top1[TUNED, many]
    gains = ", ".join(f"{gain:+.2f}" for gain in short - scratch)
    targets = r.targets.set_index("name")
    tuning = "from the one-shot model's weights with the largest network as teacher"
    return [
        Claim(
            "short fine-tuning",
            "appendix G, Figure 8",
            "A few epochs of fine-tuning surpass training from scratch in most cases.",
            f"Top-1 on test images after {few} epochs {tuning} (A), against {epochs} from scratch (B); and the same for all targets, from "
            "stage tune of HardCoRe-NAS. Pairs are of the same network. The paper's training from scratch is the full one.",
            (
                paired(f"{few} epochs over {epochs} from scratch", POINTS, short, scratch),
                paired(
                    f"{r.epochs[TUNED]} epochs over {r.epochs[SCRATCH]} from scratch, all targets",
                    POINTS,
                    targets["top1"],
                    targets["top1_scratch"],
                ),
            ),
            "75.4, 75.9, 76.6, 77.0, 77.4, 78.1 % after 10 epochs, 75.3, 75.8, 76.4, 77.1, 77.6, 78.0 from scratch",
            "figure_8",
            f"After {few} epochs {(short > scratch).sum()} of {len(short)} networks are better. They gain {gains} "
            "points, in order of latency; in the paper slower networks gain less. With inherited weights, before fine-tuning, the networks "
            f"have {', '.join(f'{value:.1f}' for value in top1[TUNED, 0])} %.",
        ),
        Claim(
            "long fine-tuning",
            "appendix G, Figure 8",
            "More epochs of fine-tuning improve most of the networks significantly.",
            f"Top-1 on test images after {many} epochs {tuning} (A), against {epochs} from scratch and against {few} (B).",
            (
                paired(f"{many} epochs over {epochs} from scratch", POINTS, long, scratch),
                paired(f"{many} epochs over {few}", POINTS, long, short),
            ),
            "75.9, 76.5, 77.1, 77.4, 77.9, 78.1 % after 50 epochs",
            "figure_8",
        ),
    ]


def taus(starts: pd.DataFrame) -> pd.DataFrame:
    """Kendall's tau of one-shot accuracy ("weights") and of latency with top-1 after fine-tuning: a row per target.

    Among distinct networks of a target; targets without two that differ in all three columns are omitted.
    """
    rows = {}
    for target, networks in starts.drop_duplicates(["target", "arch"]).groupby("target"):
        rankings = {"weights": networks["top1_held_out"], "latency": networks["table_latency_ms"]}
        if min(column.nunique() for column in (*rankings.values(), networks["top1"])) > 1:
            rows[target] = {name: kendall_tau(column, networks["top1"]) for name, column in rankings.items()}
    return pd.DataFrame.from_dict(rows, orient="index", columns=["weights", "latency"])


def _order(r: Results) -> Claim:
    tau = taus(r.starts)
    return Claim(
        "order of networks",
        "main paper, section 3.3",
        "The one-shot model's weights rank the networks as fine-tuning does.",
        "Kendall's tau between top-1 with the one-shot model's weights, on the images of the search, and top-1 on test images after "
        "fine-tuning (A), against tau of the latency by the table (B), among the distinct networks of stage `starts` for a target; "
        "pairs are of the same target. The networks of a target are few and similar in latency, so their order is uncertain.",
        (paired("one-shot weights over latency alone", TAU, tau["weights"], tau["latency"]),) if len(tau) else (),
        remark=f"Distinct networks of a target: {_counts(r.starts)}.",
    )


def _counts(starts: pd.DataFrame) -> str:
    return ", ".join(f"{n} for {target}" for target, n in starts.groupby("target")["arch"].nunique().items())
