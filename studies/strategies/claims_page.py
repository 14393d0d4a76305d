"""docs/strategies.md: the papers' own runs beside this study's, its pairs and its limits."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from studies.claims import STATISTICS, Claim, Comparison, Page, chance_of_verdict
from studies.strategies.config import PIPELINE

PUBLISHED = {
    "space": "AttentiveNAS, Table 2: 4.4e11 architectures, 203 to 1939 MFLOPs",
    "images": "1.28 million (ImageNet)",
    "epochs": "360, early: 30",
    "steps": "about 225,000 (batches of 2,048)",
    "seeds": "not stated",
    "distillation losses": "AttentiveNAS: KL; AlphaNet: the larger of two alpha-divergences, alpha -1 and 1, clip 5",
    "evaluations": "AttentiveNAS: 5,248 per strategy (its text; its settings give 5,632)",
    "cost targets": "AttentiveNAS: from the prior, 0.2 % at or below 312 MFLOPs",
}
PAIRS = (
    "Pairs are runs with the same seed. They share initial weights and the order of batches, those that differ in the loss the sampled "
    "sub-networks as well; means over buckets of cost, or over models, are taken first. A bucket without an evaluated network on either "
    "side is omitted from that seed's mean."
)
ONE_SEED = (
    "**Only one seed was run.** A single difference has no standard error, so every verdict below is inconclusive, however large the "
    "difference."
)
LIMITS = (
    "Small scale: one dataset, a small search space, short training. After 360 epochs on ImageNet the strategies may differ more, "
    "or less: what is supported here need not be so there, and the other way round.",
    "Strategies and losses are compared on the images that their searches used, as in AttentiveNAS's Figures 5 and 6; only the "
    "inherited weights are compared on test images.",
)
PAGE = Page(
    PIPELINE,
    "The papers' claims, tested at small scale",
    "Sampling strategies and distillation losses side by side: verdicts on the claims of "
    "[AttentiveNAS](https://arxiv.org/abs/2011.09011) and of [AlphaNet](https://arxiv.org/abs/2102.07954).",
    PUBLISHED,
    LIMITS,
    PAIRS,
)


def page_of(claims: Sequence[Claim]) -> Page:
    """The page with the limits that these claims have."""
    comparisons = [c for claim in claims for c in claim.parts]
    single = bool(comparisons) and max(len(c.pairs) for c in comparisons) == 1
    return replace(PAGE, limits=(*LIMITS, *_limits(claims, comparisons)), pairs=f"{PAIRS}\n\n{ONE_SEED}" if single else PAIRS)


def _limits(claims: Sequence[Claim], comparisons: Sequence[Comparison]) -> list[str]:
    limits = []
    by_pairs = Counter(len(c.pairs) for c in set(comparisons) if len(c.pairs) > 1)
    if by_pairs:
        seeds, _ = by_pairs.most_common(1)[0]
        decided = sum(count * chance_of_verdict(n) for n, count in by_pairs.items())
        limits.append(
            f"Few seeds: two standard errors are a lenient threshold. With {seeds} seeds, normal noise alone passes it in either direction "
            f"{100 * chance_of_verdict(seeds):.0f} times in 100. Of the {by_pairs.total()} comparisons about {decided:.0f} would be "
            "decided even if nothing differed, and comparisons that share runs err together."
        )
    if final := [c for c in comparisons if c.name.endswith("Figure 4b")]:
        limits.append(
            "Strategies that end in -acc use a predictor that was fitted early. With the accuracies at the end of training its tau is "
            f"{np.mean(final[0].a):.2f}, that of cost alone {np.mean(final[0].b):.2f}. A weaker predictor makes BestUp and WorstUp less "
            "extreme."
        )
    if any(claim.key.startswith("value of ") and claim.parts for claim in claims):
        limits.append(
            "Each distillation loss was trained with the learning rate and all other settings of KL; none was tuned to it. A loss whose "
            "gradients are larger may only need a lower rate."
        )
    if any(figure in c.name for c in comparisons for figure in ("4c", "7a", "7b")):
        limits.append(
            "Figures 4c, 7a and 7b pair each seed with the next, so a run enters two of their differences, which are not independent: "
            "their standard errors are approximate."
        )
    return [*limits, STATISTICS[1]]
