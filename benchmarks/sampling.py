"""Time and trials of sampling under a FLOPs target, on AttentiveNAS's space: python -m benchmarks.sampling."""

import numpy as np

from benchmarks.timing import best_of, machine, show
from nas.cost import flops
from nas.sampling.exact import ExactSampler
from nas.sampling.factorised import FactorisedSampler
from nas.sampling.uniform import uniform_trials
from nas.spaces import FOLDER
from nas.spaces.mbconv import load

STEP = 25  # MFLOPs
POOL = 1_000_000
BATCH = 1000


def main() -> None:
    rng = np.random.default_rng(0)
    table = flops.table(load(FOLDER / "attentive_nas.yaml"), classes=1000)
    exact, paper = ExactSampler(table, STEP), FactorisedSampler(table, STEP, POOL, rng)
    prior = exact.prior()
    targets = [prior.draw(rng) for _ in range(20)]
    common = [t for t in targets if t in paper.prior().targets]

    def draw(sampler: ExactSampler | FactorisedSampler, n: int) -> list[np.ndarray]:
        return [sampler.draw(t, n, rng).trials for t in common]

    show(
        f"{exact.count:.4g} architectures, {len(prior.targets)} buckets of {STEP} MFLOPs; {len(common)} targets from the prior",
        {
            "exact: tables": f"{best_of(lambda: ExactSampler(table, STEP), 3):.2f} s",
            "exact: prior": f"{best_of(lambda: ExactSampler(table, STEP).prior(), 1):.2f} s, tables included",
            f"exact: {BATCH} at once": f"{best_of(lambda: draw(exact, BATCH), 5) / len(common) / BATCH * 1e6:.1f} us per sample",
            "exact: 3 at once": f"{best_of(lambda: draw(exact, 3), 5) / len(common) / 3 * 1e6:.0f} us per sample",
            "exact: trials per sample": f"{np.mean(draw(exact, BATCH)):.4f}",
            f"factorised: pool of {POOL:,}": f"{best_of(lambda: FactorisedSampler(table, STEP, POOL, rng), 1):.2f} s",
            f"factorised: {BATCH} at once": f"{best_of(lambda: draw(paper, BATCH), 3) / len(common) / BATCH * 1e6:.1f} us per sample",
            "factorised: trials per sample": f"{np.mean(draw(paper, BATCH)):.1f}",
            "plain rejection: trials, targets from the prior": f"{uniform_trials(prior) @ prior.probabilities:.1f}",
            "plain rejection: trials, uniform targets": f"{uniform_trials(prior).mean():.3g}",
        },
    )
    machine()


if __name__ == "__main__":
    main()
