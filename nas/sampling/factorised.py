"""The paper's sampler under a cost target: a factorised proposal with rejection, and its trials beside other samplers'.

AttentiveNAS (arXiv:2011.09011), section 4.2, Appendix C and Figure 8.
"""

import numpy as np
import pandas as pd

from nas.cost.table import CostTable
from nas.sampling.exact import ExactSampler
from nas.sampling.target import MAX_BATCH, Buckets, Drawn, Prior, reject
from nas.sampling.uniform import uniform_trials

POOL_BATCH = 50_000  # architectures of the pool counted together


class FactorisedSampler:
    """Draws every choice independently by its frequency in the target's bucket, then rejects on the exact cost.

        pi^(alpha | tau) ~ prod_i #(o_i, tau) / #(tau)

    over a pool of m uniformly drawn architectures (section 4.2). Not uniform in the bucket.

    Args:
        table: the cost.
        step: width of a bucket, in the table's unit; 25 MFLOPs in the paper.
        pool: m; at least 1e6 in the paper.
        rng: draws the pool.
        limit: maximum number of trials per sample.
    """

    def __init__(self, table: CostTable, step: float, pool: int, rng: np.random.Generator, limit: int = 10_000) -> None:
        if pool < 1:
            raise ValueError(f"a pool of {pool} architectures: at least 1 is needed")
        self.table, self.buckets, self._limit = table, Buckets(step), limit
        sizes = [len(g.choices) for g in table.space.genes]
        first, last = self.buckets.of([table.smallest, table.largest])
        counts = [np.zeros((last - first + 1, size), dtype=np.int64) for size in sizes]
        for start in range(0, pool, POOL_BATCH):
            indices = rng.integers(sizes, size=(min(POOL_BATCH, pool - start), len(sizes)))
            bucket = self.buckets.of(table.costs_at(indices)) - first
            for count, size, index in zip(counts, sizes, indices.T):
                count += np.bincount(bucket * size + index, minlength=count.size).reshape(count.shape)
        in_bucket = counts[0].sum(axis=1)
        self._nonempty = np.flatnonzero(in_bucket)
        self._numbers = self._nonempty + first
        self._frequencies = in_bucket[self._nonempty] / pool
        self._cumulative = [np.cumsum(c[self._nonempty] / in_bucket[self._nonempty, None], axis=1) for c in counts]

    def prior(self) -> Prior:
        """The pool's estimate of pi(tau): its share in each non-empty bucket."""
        return Prior(self._numbers * self.buckets.step, self._frequencies)

    def draw(self, target: float, n: int, rng: np.random.Generator) -> Drawn:
        """n architectures in the target's bucket, from the factorised proposal.

        Raises:
            ValueError: if the pool has no architecture in the bucket, or the target is not a multiple of the step.
            RuntimeError: if `limit` trials per sample are used up.
        """
        number = self.buckets.number(target)
        at = np.searchsorted(self._numbers, number)
        if at == len(self._numbers) or self._numbers[at] != number:
            targets = self._numbers * self.buckets.step
            raise ValueError(
                f"the pool has no architecture for the target {target:g} {self.table.unit}; it covers {len(targets)} targets "
                f"from {targets[0]:g} to {targets[-1]:g}; a larger pool, or the exact sampler, covers more"
            )
        genes = self.table.space.genes
        cumulative = [c[at] for c in self._cumulative]
        choices = [np.asarray(g.choices) for g in genes]

        def propose(m: int) -> np.ndarray:
            uniform = rng.random((len(genes), m))
            columns = zip(choices, cumulative, uniform)
            return np.stack([choice[np.searchsorted(sums[:-1], u, side="right")] for choice, sums, u in columns], axis=1)

        def accept(rows: np.ndarray) -> np.ndarray:
            return self.buckets.of(self.table.costs(rows)) == number

        what = f"target {target:g} {self.table.unit} from the factorised proposal"
        return reject(propose, accept, n, batch=min(MAX_BATCH, 16 * n), limit=self._limit, what=what)


def trials_study(table: CostTable, step: float, pool: int, samples: int, rng: np.random.Generator) -> pd.DataFrame:
    """Trials per sample of plain rejection, the factorised proposal and the exact sampler, one row per target.

    AttentiveNAS, Appendix C and Figure 8.

    Args:
        table: the cost.
        step: width of a bucket, in the table's unit.
        pool: architectures behind the factorised proposal.
        samples: per target and sampler.
        rng: draws pool and samples.

    Returns:
        target (in the table's unit), uniform (1 / pi(tau), exact), paper_mean and paper_std (NaN where the pool has no
        architecture for the target or the trials ran out), exact (mean).
    """
    exact = ExactSampler(table, step)
    paper = FactorisedSampler(table, step, pool, rng)
    prior = exact.prior()
    rows = []
    for target, uniform in zip(prior.targets, uniform_trials(prior)):
        try:
            trials = paper.draw(target, samples, rng).trials
            mean, std = trials.mean(), trials.std()
        except (ValueError, RuntimeError):
            mean = std = np.nan
        rows.append((target, uniform, mean, std, exact.draw(target, samples, rng).trials.mean()))
    return pd.DataFrame(rows, columns=["target", "uniform", "paper_mean", "paper_std", "exact"]).astype(float)
