"""How TF-NAS searches: section `search.method` of its params.yaml (arXiv:2008.05314, supplement, section 2)."""

from typing import Annotated

from pydantic import Field

from nas.runtime import params
from nas.training.recipe import Fraction

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]


class Weights(params.Section):
    """How the weights are trained: SGD, cosine to 0."""

    learning_rate: Positive
    momentum: Fraction
    weight_decay: NotNegative
    clip_norm: Positive  # of all gradients together


class StrengthsTraining(params.Section):
    """How alpha and beta are trained: Adam."""

    learning_rate: Positive
    betas: tuple[Fraction, Fraction]  # of the moving means
    weight_decay: NotNegative
    every: Annotated[int, Field(ge=1)]  # steps of the weights a step


class Temperature(params.Section):
    """Of the Gumbel softmax."""

    start: Positive
    factor: Annotated[float, Field(gt=0, le=1)]  # an epoch, after the first ones of weights alone


class EarlyStopping(params.Section):
    """The search ends when operations have kept their order (supplement, section 5)."""

    layers: Annotated[float, Field(gt=0, le=1)]  # share of them
    epochs: Annotated[int, Field(ge=1)]  # in a row


class Method(params.Section):
    """How a network is searched."""

    epochs: Annotated[int, Field(ge=1)]
    weight_epochs: Annotated[int, Field(ge=0)]  # the first ones, of weights alone
    batch: Annotated[int, Field(ge=2)]
    weights: Weights
    strengths: StrengthsTraining
    temperature: Temperature
    trade_off: NotNegative  # lambda: weight of the distance from the target
    bi_sampling: bool  # a second path a step
    elasticity_scaling: bool  # widths that follow the target
    early_stopping: EarlyStopping | None
