"""Parameters of TF-NAS's search: section `search.method` of its params.yaml (arXiv:2008.05314, supplement, section 2)."""

from typing import Annotated

from pydantic import Field

from nas.runtime import params
from nas.training.recipe import Fraction

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]


class WeightConfig(params.Section):
    """Training of the weights: SGD, cosine to 0."""

    learning_rate: Positive
    momentum: Fraction
    weight_decay: NotNegative
    clip_norm: Positive  # of all gradients together


class ArchitectureConfig(params.Section):
    """Training of the architecture parameters alpha and beta: Adam."""

    learning_rate: Positive
    betas: tuple[Fraction, Fraction]  # of the moving means
    weight_decay: NotNegative
    every: Annotated[int, Field(ge=1)]  # weight steps per step


class Temperature(params.Section):
    """Temperature of the Gumbel softmax."""

    start: Positive
    factor: Annotated[float, Field(gt=0, le=1)]  # per epoch after the weights-only epochs


class EarlyStopping(params.Section):
    """Ends the search when the order of operations is stable (supplement, section 5)."""

    layers: Annotated[float, Field(gt=0, le=1)]  # share of layers whose order is stable
    epochs: Annotated[int, Field(ge=1)]  # in a row


class SearchConfig(params.Section):
    """A search for one target."""

    epochs: Annotated[int, Field(ge=1)]
    weight_epochs: Annotated[int, Field(ge=0)]  # weights-only epochs at the start
    batch: Annotated[int, Field(ge=2)]
    weights: WeightConfig
    architecture_parameters: ArchitectureConfig
    temperature: Temperature
    trade_off: NotNegative  # lambda: weight of the relative distance from the target latency
    bi_sampling: bool  # a second path per weight step
    elasticity_scaling: bool  # hidden widths follow the target
    early_stopping: EarlyStopping | None
