"""What HardCoRe-NAS and its appendix claim, each judged by the figures of HardCoRe-NAS's own stages and of this pipeline's."""

from dataclasses import dataclass

import pandas as pd

from nas.evaluation.metrics import kendall_tau
from studies.claims import NATS, POINTS, Check, Claim, as_measured, paired
from studies.hardcore_nas_claims.starts import improvement
from studies.hardcore_nas_claims.tuning import FRESH, TUNED
from studies.strategies.claims import TAU, Comparison

ROUNDING = 1e-9  # of the target: sums of floats, no more
NEAR = 0.022  # of the target: in Table 5 networks are off by so much at most (44 ms for 45)
SHARED, ONE_MORE = 400, 15  # GPU hours of the paper
PROGRAMME, STEP = 1.15e-5, 2.15e-3  # hours of the paper, Appendix H
CLOCK = 0.1  # how far seconds of the same work differ on a machine that does other things besides, a fraction


@dataclass(frozen=True, eq=False)
class Results:
    """What the stages found."""

    targets: pd.DataFrame  # HardCoRe-NAS's summary.json, with a name
    seconds: dict[str, float]  # of HardCoRe-NAS: "shared", and of one more target "search" and "tuning"
    tuning: pd.DataFrame  # of stage tuning
    starts: pd.DataFrame  # of stage starts
    start: float  # HardCoRe-NAS's own
    epochs: dict[str, int]  # of HardCoRe-NAS's stage tune: TUNED, FRESH


def judge(r: Results) -> list[Claim]:
    """All claims, in the order of the page."""
    return [_hard(r), _near(r), _measured(r), _one_more(r), _programmes(r), _balanced(r), *_room(r), *_tuning(r), _order(r)]


def _listed(r: Results) -> list[str]:
    return [f"{row['name']}: {row['target_latency_ms']:.3g} ms" for row in r.targets.to_dict("records")]


def _hard(r: Results) -> Claim:
    own = r.targets["max_violation_ms"] / r.targets["target_latency_ms"]
    others = (r.starts["max_violation_ms"] / r.starts["target_latency_ms"]).max()
    checks = [Check(name, violation, ROUNDING) for name, violation in zip(_listed(r), own)]
    return Claim(
        "hard constraint",
        "main paper, sections 3.2 and 3.4",
        "The search keeps the latency within the target at every step, and so does the network that it is rounded to.",
        "The most that any step, or the network, of a search of `pipelines/hardcore_nas` is above its target by the table, as a share of "
        "it; last the most of all searches of stage `starts`. Rounding of sums is allowed for.",
        (*checks, Check(f"all {len(r.starts)} searches from other starts and with other seeds", others, ROUNDING)),
        figure="constraint",
    )


def _near(r: Results) -> Claim:
    below = 1 - r.targets["table_latency_ms"] / r.targets["target_latency_ms"]
    return Claim(
        "target used up",
        "appendix J, Table 5",
        "The networks take nearly all of the time that they are given.",
        "How far their table latency is below the target: by as much as in Table 5 at most, whose latencies are measured. A network within "
        "the target need not lie on it: the space is discrete, and the last block is rounded to the cheaper one.",
        tuple(Check(name, share, NEAR) for name, share in zip(_listed(r), below)),
        "40, 44, 50, 55 and 61 ms for 40, 45, 50, 55 and 60",
    )


def _measured(r: Results) -> Claim:
    rows = r.targets
    names = [f"{row['name']}: {row['table_latency_ms']:.3g} ms by the table" for row in rows.to_dict("records")]
    over = (rows["measured_latency_ms"] / rows["target_latency_ms"] - 1).max()
    return Claim(
        "measured latency",
        "main paper, section 3.2; appendix J, Table 5",
        "The latency that the constraint is put on, a sum over blocks, is that of the whole network.",
        "Latency of the networks, measured whole, against the table's sum: within what Table 5 is off the targets. The uncertainty is the "
        "noise floor, how far two measurements of the network differ. The constraint is on the table, so what the table is off by, the "
        "network may be above its target.",
        as_measured(rows, names, NEAR),
        "off the target by 2.2 % at most",
        found=f"Of the targets, a network takes {100 * abs(over):.1f} % {'more' if over > 0 else 'less'} at the most, measured.",
    )


def _one_more(r: Results) -> Claim:
    one, shared = r.seconds["search"] + r.seconds["tuning"], r.seconds["shared"]
    share = one / shared
    return Claim(
        "one more target",
        "main paper, section 4.2; appendix H",
        "Once the one-shot model is trained, one more target costs little: N of them 400 + 15 N GPU hours.",
        f"Seconds of a search and of fine-tuning what it finds, as a share of those of the one-shot model; uncertain by {CLOCK:.0%} of it, "
        "as the machine may do other things besides. Training is short here, the search is not as much shorter: a share above the paper's "
        "is of that scale.",
        (Check("one more target, of what all share", share, ONE_MORE / SHARED, CLOCK * share),),
        f"15 of 400 hours, {ONE_MORE / SHARED:.2%}",
        found=f"Here N targets cost {shared:,.0f} + {one:,.0f} N seconds, {r.seconds['search']:,.0f} of the {one:,.0f} for the search.",
    )


def _programmes(r: Results) -> Claim:
    programme, step = r.starts["programme_ms"].median(), r.starts["step_ms"].median()
    share = programme / step
    return Claim(
        "linear programmes",
        "appendix H",
        "The time that the linear programmes take is negligible beside that of the gradients.",
        "Milliseconds of a linear programme as a share of those of a step of the search, medians over the searches of stage `starts`; "
        f"uncertain by {CLOCK:.0%} of it.",
        (Check("a programme, of a step", share, PROGRAMME / STEP, CLOCK * share),),
        f"41 ms on a CPU for a programme, 7.7 s on a GPU for a gradient: {PROGRAMME / STEP:.2%}",
        found=f"Here a programme takes {programme:.3g} ms and a step {step:.3g} ms.",
    )


def _from(r: Results, start: float) -> pd.DataFrame:
    return r.starts[r.starts["start"] == start].set_index(["seed", "target"])


def _against(r: Results, start: float, other: float) -> tuple[Comparison, ...]:
    """Networks found from one start against those from another, in pairs of the same seed and target."""
    own, others = _from(r, start), _from(r, other)
    a, b = (f"{share:.0%} of the way" if share else "fastest" for share in (start, other))
    return (
        paired(f"top-1 fine-tuned, {a} over {b}", POINTS, own["top1"], others["top1"]),
        paired(f"top-1 by the one-shot weights, {a} over {b}", POINTS, own["top1_held_out"], others["top1_held_out"]),
        paired(f"loss by the one-shot weights, {b} over {a}", NATS, others["loss"], own["loss"]),
    )


def _balanced(r: Results) -> Claim:
    networks = r.starts.groupby("start")["arch"].nunique()
    balanced = [start for start in networks.index if start > 0]
    gains = ", ".join(f"{improvement(r.starts, start):+.2f} % from {start:.0%} of the way" for start in balanced)
    different = ", ".join(f"{n} from {start:.0%}" for start, n in networks.items())
    return Claim(
        "balanced start",
        "appendix E, Equation 27",
        "A search from the balanced start finds better networks than one from the fastest network, whose gradients reach no other.",
        "Networks found from the most even point within a share of the way from the fastest network to the target (A), and from the "
        f"fastest network itself (B), by the trained one-shot model; {r.start:.0%} is the start of `pipelines/hardcore_nas`, 100% the "
        "paper's. Top-1 on test images after fine-tuning, as in Equation 27; top-1 and loss on the images of the search, by the "
        "one-shot model's weights; in pairs of the same target and seed. Here a gradient is taken of every choice, drawn or not, at "
        "what was drawn for the others: the fastest network is left all the same.",
        tuple(c for start in balanced for c in _against(r, start, 0.0)),
        "+8.3 % of the top-1, the mean over targets of 35, 40, 45, 50 and 55 ms",
        "starts",
        f"By Equation 27 {gains}. Different networks in {len(_from(r, 0.0))} searches: {different} of the way.",
    )


def _room(r: Results) -> list[Claim]:
    others = sorted(set(r.starts["start"]) - {0.0, r.start})
    claim = Claim(
        "room to change",
        "beyond the paper, whose start is the most even point within all of the target",
        "A balanced start that leaves some of the target unused finds better networks: at the target, alpha can change only against alpha, "
        "beta only against beta.",
        f"As for *balanced start*: within {r.start:.0%} of the way to the target (A) against other shares of it (B).",
        tuple(c for other in others for c in _against(r, r.start, other)),
        figure="starts",
    )
    return [claim] if others else []


def _tuning(r: Results) -> list[Claim]:
    by = r.tuning.set_index(["training", "epochs", "network"])["top1"].sort_index()
    lengths = sorted(epochs for epochs in by[TUNED].index.unique("epochs") if epochs)
    few, many = lengths[0], lengths[-1]
    (scratch,) = by[FRESH].index.unique("epochs")
    fresh, short, long = by[FRESH, scratch], by[TUNED, few], by[TUNED, many]
    gains = ", ".join(f"{gain:+.2f}" for gain in short - fresh)
    every = r.targets.set_index("name")
    told = "the largest network's answers and the one-shot model's weights"
    return [
        Claim(
            "short fine-tuning",
            "appendix G, Figure 8",
            "A few epochs of fine-tuning surpass training from fresh weights in most cases.",
            f"Top-1 on test images after {few} epochs with {told} (A), against {scratch} from fresh weights (B); and what stage tune of "
            "HardCoRe-NAS has for all targets. Pairs are of the same network. The paper's training from fresh weights is the full one.",
            (
                paired(f"{few} epochs over {scratch} from fresh weights", POINTS, short, fresh),
                paired(
                    f"{r.epochs[TUNED]} epochs over {r.epochs[FRESH]} from fresh weights, all targets",
                    POINTS,
                    every["top1"],
                    every["top1_scratch"],
                ),
            ),
            "75.4, 75.9, 76.6, 77.0, 77.4, 78.1 % after 10 epochs, 75.3, 75.8, 76.4, 77.1, 77.6, 78.0 from fresh weights",
            "figure_8",
            f"After {few} epochs {(short > fresh).sum()} of {len(short)} networks are better. They gain {gains} "
            "points, from the fastest on; the paper says that slower networks gain less. With the one-shot model's weights "
            f"as they are the networks have {', '.join(f'{top1:.1f}' for top1 in by[TUNED, 0])} %.",
        ),
        Claim(
            "long fine-tuning",
            "appendix G, Figure 8",
            "More epochs of fine-tuning improve most of the networks significantly.",
            f"Top-1 on test images after {many} epochs with {told} (A), against {scratch} from fresh weights and against {few} (B).",
            (
                paired(f"{many} epochs over {scratch} from fresh weights", POINTS, long, fresh),
                paired(f"{many} epochs over {few}", POINTS, long, short),
            ),
            "75.9, 76.5, 77.1, 77.4, 77.9, 78.1 % after 50 epochs",
            "figure_8",
        ),
    ]


def taus(starts: pd.DataFrame) -> pd.DataFrame:
    """Kendall's tau between what is known before fine-tuning and top-1 after it: a row a target, columns "weights", "latency".

    Of different networks of a target; targets without two that differ in all three figures are left out.
    """
    rows = {}
    for target, found in starts.drop_duplicates(["target", "arch"]).groupby("target"):
        known = {"weights": found["top1_held_out"], "latency": found["table_latency_ms"]}
        if min(column.nunique() for column in (*known.values(), found["top1"])) > 1:
            rows[target] = {name: kendall_tau(column, found["top1"]) for name, column in known.items()}
    return pd.DataFrame.from_dict(rows, orient="index", columns=["weights", "latency"])


def _order(r: Results) -> Claim:
    tau = taus(r.starts)
    return Claim(
        "order of networks",
        "main paper, section 3.3",
        "The one-shot model's weights tell which of two networks will be better.",
        "Kendall's tau between top-1 by the one-shot model's weights, on the images of the search, and top-1 on test images after "
        "fine-tuning (A), against tau of the latency by the table (B), among different networks that stage `starts` found for a target; "
        "pairs are of the same target. The networks of a target are alike in latency and few, so order is hard to tell.",
        (paired("one-shot weights over latency alone", TAU, tau["weights"], tau["latency"]),) if len(tau) else (),
        found=f"Different networks of a target: {_counted(r.starts)}.",
    )


def _counted(starts: pd.DataFrame) -> str:
    return ", ".join(f"{n} for {target}" for target, n in starts.groupby("target")["arch"].nunique().items())
