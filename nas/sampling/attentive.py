"""Attentive sampling: which of several candidates a training step trains.

AttentiveNAS (arXiv:2011.09011), Algorithm 1 and section 4.4. A strategy does two things apart:
`candidates` draws architectures and may run ahead of training; `choose` picks the one to train
with a score that only the training step has, its mini-batch loss. With a predictor as the score
the choice is made among the candidates already, and one is left.
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
    """What the training step needs."""

    def candidates(self, rng: np.random.Generator) -> list[Arch]:
        """The architectures to choose from; one, where no score of the training step is needed."""

    def choose(self, candidates: list[Arch], score: Score) -> Arch:
        """The architecture to train; `score` is called only if there are several candidates."""


@dataclass(frozen=True)
class Uniform:
    """One architecture as proposed."""

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
    """k models of a fixed set, uniformly, with replacement: what the offline variants propose."""

    models: tuple[Arch, ...]

    def __call__(self, k: int, rng: np.random.Generator) -> list[Arch]:
        return [self.models[i] for i in rng.integers(len(self.models), size=k)]


def best(candidates: list[Arch], score: Score) -> Arch:
    """The candidate with the highest score, the first of equals; a single one is not scored.

    Raises:
        ValueError: for no candidates, a number of scores that differs, or a score that is not a number.
    """
    if len(candidates) == 1:
        return candidates[0]
    scores = np.asarray(score(candidates), dtype=np.float64)
    if not candidates or scores.shape != (len(candidates),) or np.isnan(scores).any():
        raise ValueError(f"{len(candidates)} candidates with the scores {scores.tolist()}: one number for each is needed")
    return candidates[int(scores.argmax())]


def pareto_set(table: CostTable, predict: Predict, front: Literal["best", "worst"], m: int, rng: np.random.Generator) -> FromSet:
    """The best or worst Pareto set of m uniformly drawn architectures under a predictor (section 4.4, BestUp-1M).

    Drawn in parts: the front of a part and the front so far is the front of all so far.

    Raises:
        ValueError: if m is less than 1 or a prediction is not a number.
    """
    if m < 1:
        raise ValueError(f"a Pareto set of {m} architectures: at least 1 is needed")
    pick = {"best": best_front, "worst": worst_front}[front]
    rows, costs, values = np.empty((0, len(table.space.genes)), dtype=np.int64), np.empty(0), np.empty(0)
    for start in range(0, m, 50_000):
        drawn = encoding.random_genes(table.space, min(50_000, m - start), rng)
        rows = np.concatenate([rows, drawn])
        costs = np.append(costs, table.costs(drawn))
        values = np.append(values, predict(drawn))
        kept = pick(costs, values)
        rows, costs, values = rows[kept], costs[kept], values[kept]
    return FromSet(tuple(encoding.from_genes(rows)))


@dataclass(frozen=True)
class Name:
    """What a strategy's name says."""

    rule: Literal["uniform", "bestup", "worstup"]
    k: int  # candidates, or the number of architectures behind an offline set
    by: Literal["loss", "acc", ""]  # the training step's loss or the predictor
    offline: bool

    @property
    def needs_predictor(self) -> bool:
        return self.by == "acc"


def parse(name: str) -> Name:
    """Read a strategy's name as in params.yaml.

    Raises:
        ValueError: for a name that is none; states the forms.
    """
    if name == "uniform":
        return Name("uniform", 1, "", offline=False)
    found = re.fullmatch(r"(bestup|worstup)-([1-9]\d*)(?:-(loss|acc)|([km])-(acc))", name)
    if not found:
        raise ValueError(f"params.yaml: train.strategy: there is no strategy {name!r}; the forms are {FORMS}")
    rule, number, by, unit, offline_by = found.groups()
    return Name(rule, int(number) * {None: 1, "k": 1_000, "m": 1_000_000}[unit], by or offline_by, offline=unit is not None)


def strategy(
    name: str, propose: Propose, *, table: CostTable | None = None, predict: Predict | None = None, rng: np.random.Generator | None = None
) -> Strategy:
    """The strategy of that name.

    Args:
        name: see `parse`.
        propose: draws the candidates; the offline variants do not use it.
        table: the cost, for the offline variants.
        predict: predicted accuracy, for the names that end in -acc.
        rng: draws the offline variants' architectures.

    Raises:
        ValueError: for an unknown name, or if what the name needs was not given.
    """
    form = parse(name)
    if form.rule == "uniform":
        return Uniform(propose)
    if form.needs_predictor and predict is None:
        raise ValueError(f"params.yaml: train.strategy: {name!r} needs an accuracy predictor and none was given")
    if form.offline:
        if table is None or rng is None:
            raise ValueError(f"strategy {name!r} draws architectures offline and needs a cost table and a generator")
        return Uniform(pareto_set(table, predict, "best" if form.rule == "bestup" else "worst", form.k, rng))
    kind = {"bestup": BestUp, "worstup": WorstUp}[form.rule]
    return kind(propose, form.k, (lambda archs: predict(encoding.to_genes(archs))) if form.needs_predictor else None)
