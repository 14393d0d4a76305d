"""Section `train` of params.yaml, and the attentive sampling strategy that it describes (AttentiveNAS, Algorithm 1)."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from nas.cost.table import CostTable
from nas.runtime import seeding
from nas.runtime.params import Section
from nas.sampling import attentive
from nas.sampling.attentive import Strategy, Uniform, parse_strategy
from nas.sampling.exact import ExactSampler
from nas.sampling.factorised import FactorisedSampler
from nas.sampling.target import UnderTarget
from nas.sampling.uniform import Unconstrained
from nas.search.predictor import Forest


class Train(Section):
    """Section `train`."""

    epochs: Annotated[int, Field(ge=1)]
    search_epoch: Annotated[int, Field(ge=1)]  # whose weights are kept for search.weights: early; 30 of 360 in the paper
    strategy: str  # uniform, bestup-3-loss, worstup-50-acc, bestup-1m-acc, ...
    targets: Literal["prior", "uniform"]  # cost targets as often as the space has them (the paper), or all buckets alike
    sampler: Literal["exact", "paper"]  # how architectures under a target are drawn
    bucket_mflops: Annotated[float, Field(gt=0)]  # costs are rounded to this; 25 in the paper
    pool: Annotated[int, Field(ge=1)]  # architectures behind the paper's sampler, m; 1e6 in the paper

    @model_validator(mode="after")
    def _search_epoch_is_trained(self) -> Self:
        if self.search_epoch > self.epochs:
            raise ValueError(f"search_epoch {self.search_epoch} comes after the last of {self.epochs} epochs")
        return self


def strategy_from_params(cfg: Train, table: CostTable, seed: int, forest: Path) -> Strategy:
    """The strategy of the parameters, with its proposal and, where it needs one, its predictor.

    Args:
        table: of the cost that targets are drawn for.
        forest: the predictor's file; not read by strategies that do without.
    """
    form = parse_strategy(cfg.strategy)
    if form.rule == "uniform":
        return Uniform(Unconstrained(table.space))
    rng = seeding.generator(seed, "train", "pool")
    exact = ExactSampler(table, cfg.bucket_mflops)
    sampler = exact if cfg.sampler == "exact" else FactorisedSampler(table, cfg.bucket_mflops, cfg.pool, rng)
    prior = sampler.prior() if cfg.targets == "prior" else sampler.prior().flat()
    predict = Forest.load(forest).predict if form.needs_predictor else None
    offline = seeding.generator(seed, "train", "offline set")
    return attentive.strategy_by_name(cfg.strategy, UnderTarget(sampler, prior), table=table, predict=predict, rng=offline)
