"""Attentive sampling: which of several candidates a training step trains.

AttentiveNAS (arXiv:2011.09011), Algorithm 1 and section 4.4. A strategy has two steps: `candidates` draws architectures and
may run ahead of training; `choose` selects the one to train by a score that only the training step has, its mini-batch
loss. With a predictor as the score, `candidates` already selects and returns a single architecture.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import numpy as np

from nas.cost.table import CostTable
from nas.evaluation.metrics import best_front, worst_front
from nas.spaces import encoding
from nas.spaces.mbconv import Arch

Propose = Callable[[int, np.random.Generator], list[Arch]]  # k architectures: Unconstrained, UnderTarget
Score = Callable[[list[Arch]], Sequence[float]]  # higher is better, e.g. minus the losses on this batch
Predict = Callable[[np.ndarray], np.ndarray]  # (n, genes) rows -> (n,) predicted accuracies

FORMS = (
    "'uniform', 'bestup-K-loss', 'worstup-K-loss', 'bestup-K-acc', 'worstup-K-acc' for K candidates (e.g. bestup-3-loss, "
    "worstup-50-acc), and 'bestup-Mm-acc', 'worstup-Mm-acc' for an offline set from M million (or 'Mk': thousand) architectures"
)


class Strategy(Protocol):
    """A sampling strategy, as the training step uses it."""

    def candidates(self, rng: np.random.Generator) -> list[Arch]:
        """The architectures to choose from; a single one if the training step's score is not needed."""

    def choose(self, candidates: list[Arch], score: Score) -> Arch:
        """The architecture to train; `score` is called only if there are several candidates."""


@dataclass(frozen=True)
class Uniform:
    """The proposed architecture, without a choice."""

    propose: Propose

    def candidates(self, rng: np.random.Generator) -> list[Arch]:
        return self.propose(1, rng)

    def choose(self, candidates: list[Arch], score: Score) -> Arch:
        return best(candidates, score)


@dataclass(frozen=True)
class BestUp:
    """The candidate with the highest score of k (Algorithm 1, line 7a)."""

    propose: Propose
    k: int
    predictor: Score | None = None  # None: the training step's score decides
    sign: ClassVar[int] = 1

    def candidates(self, rng: np.random.Generator) -> list[Arch]:
        drawn = self.propose(self.k, rng)
        return drawn if self.predictor is None else [self.choose(drawn, self.predictor)]

    def choose(self, candidates: list[Arch], score: Score) -> Arch:
        return best(candidates, lambda archs: [self.sign * s for s in score(archs)])


@dataclass(frozen=True)
class WorstUp(BestUp):
    """The candidate with the lowest score of k (Algorithm 1, line 7b)."""

    sign: ClassVar[int] = -1


@dataclass(frozen=True)
class FromSet:
    """Draws k architectures of a fixed set uniformly, with replacement: the proposal of the offline variants."""

    models: tuple[Arch, ...]

    def __call__(self, k: int, rng: np.random.Generator) -> list[Arch]:
        return [self.models[i] for i in rng.integers(len(self.models), size=k)]


def best(candidates: list[Arch], score: Score) -> Arch:
    """The candidate with the highest score, the first of equals; a single one is not scored.

    Raises:
        ValueError: for no candidates, a different number of scores, or a NaN score.
    """
    if len(candidates) == 1:
        return candidates[0]
    scores = np.asarray(score(candidates), dtype=np.float64)
    if not candidates or scores.shape != (len(candidates),) or np.isnan(scores).any():
        raise ValueError(f"{len(candidates)} candidates with the scores {scores.tolist()}: one number for each is needed")
    return candidates[int(scores.argmax())]


def pareto_set(table: CostTable, predict: Predict, front: Literal["best", "worst"], m: int, rng: np.random.Generator) -> FromSet:
    """The best or worst Pareto set of m uniformly drawn architectures under a predictor (section 4.4, BestUp-1M).

    Architectures are drawn in batches; each batch is merged into the front of the previous ones.

    Raises:
        ValueError: if m is less than 1 or a prediction is NaN.
    """
    if m < 1:
        raise ValueError(f"a Pareto set of {m} architectures: at least 1 is needed")
    select = {"best": best_front, "worst": worst_front}[front]
    rows, costs, values = np.empty((0, len(table.space.genes)), dtype=np.int64), np.empty(0), np.empty(0)
    for start in range(0, m, 50_000):
        drawn = encoding.random_genes(table.space, min(50_000, m - start), rng)
        rows = np.concatenate([rows, drawn])
        costs = np.append(costs, table.costs(drawn))
        values = np.append(values, predict(drawn))
        front_rows = select(costs, values)
        rows, costs, values = rows[front_rows], costs[front_rows], values[front_rows]
    return FromSet(tuple(encoding.from_genes(rows)))


@dataclass(frozen=True)
class StrategyName:
    """A parsed strategy name."""

    rule: Literal["uniform", "bestup", "worstup"]
    k: int  # candidates, or the number of architectures behind an offline set
    by: Literal["loss", "acc", ""]  # the training step's loss or the predictor
    offline: bool

    @property
    def needs_predictor(self) -> bool:
        return self.by == "acc"


def parse_strategy(name: str) -> StrategyName:
    """Parse a strategy's name as in params.yaml.

    Raises:
        ValueError: for an unknown name; states the forms.
    """
    if name == "uniform":
        return StrategyName("uniform", 1, "", offline=False)
    match = re.fullmatch(r"(bestup|worstup)-([1-9]\d*)(?:-(loss|acc)|([km])-(acc))", name)
    if not match:
        raise ValueError(f"params.yaml: train.strategy: unknown strategy {name!r}; the forms are {FORMS}")
    rule, number, by, unit, offline_by = match.groups()
    return StrategyName(rule, int(number) * {None: 1, "k": 1_000, "m": 1_000_000}[unit], by or offline_by, offline=unit is not None)


def strategy_by_name(
    name: str, propose: Propose, *, table: CostTable | None = None, predict: Predict | None = None, rng: np.random.Generator | None = None
) -> Strategy:
    """Build the strategy of a name.

    Args:
        name: see `parse_strategy`.
        propose: draws the candidates; unused by the offline variants.
        table: the cost, for the offline variants.
        predict: predicted accuracy, for the names that end in -acc.
        rng: draws the offline variants' architectures.

    Raises:
        ValueError: for an unknown name, or a missing table, predictor or generator that the name needs.
    """
    form = parse_strategy(name)
    if form.rule == "uniform":
        return Uniform(propose)
    if form.needs_predictor and predict is None:
        raise ValueError(f"params.yaml: train.strategy: {name!r} needs an accuracy predictor")
    if form.offline:
        if table is None or rng is None:
            raise ValueError(f"strategy {name!r} draws architectures offline and needs a cost table and a generator")
        return Uniform(pareto_set(table, predict, "best" if form.rule == "bestup" else "worst", form.k, rng))
    kind = {"bestup": BestUp, "worstup": WorstUp}[form.rule]
    return kind(propose, form.k, (lambda archs: predict(encoding.to_genes(archs))) if form.needs_predictor else None)
