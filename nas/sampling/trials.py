"""How many trials a sample takes under each target: AttentiveNAS (arXiv:2011.09011), Appendix C and Figure 8."""

import numpy as np
import pandas as pd

from nas.cost.table import CostTable
from nas.sampling.exact import ExactSampler, FactorisedSampler
from nas.sampling.uniform import uniform_trials


def trials_study(table: CostTable, step: float, pool: int, samples: int, rng: np.random.Generator) -> pd.DataFrame:
    """Trials a sample of plain rejection, the paper's factorised proposal and the exact sampler, one row a target.

    Args:
        table: the cost.
        step: width of a bucket, in the table's unit.
        pool: architectures behind the factorised proposal.
        samples: drawn per target by each sampler.
        rng: draws pool and samples.

    Returns:
        target (in the table's unit), uniform (1 / pi(tau), exact), paper_mean and paper_std (NaN where
        the pool never met the target or its proposal did not find it), exact (mean).
    """
    exact = ExactSampler(table, step)
    paper = FactorisedSampler(table, step, pool, rng)
    prior = exact.prior()
    found = []
    for target, uniform in zip(prior.targets, uniform_trials(prior)):
        try:
            trials = paper.draw(target, samples, rng).trials
            mean, std = trials.mean(), trials.std()
        except (ValueError, RuntimeError):  # not in the pool, or not found: the proposal has no figure there
            mean = std = np.nan
        found.append((target, uniform, mean, std, exact.draw(target, samples, rng).trials.mean()))
    return pd.DataFrame(found, columns=["target", "uniform", "paper_mean", "paper_std", "exact"]).astype(float)
