"""What the stages that put the methods side by side share: their parameters and their MLflow runs.

The pipeline is studies/methods/dvc.yaml, its parameters are beside it; how a method trains and searches is what the
parameters of its own pipeline say. Stages run from the project's root and write below studies/methods/outputs.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from nas.latency.backends.config import Torch
from nas.runtime import params
from nas.stages.pipelines import Pipeline
from nas.training.losses import DistillationLoss
from studies.methods.baseline import Choice
from studies.methods.evolution import EvolutionConfig

PIPELINE = Pipeline("methods", Path("studies"))


class AlphaNet(params.Section):
    """Section `alphanet`."""

    distillation: DistillationLoss


class Baselines(params.Section):
    """Section `baselines`."""

    networks: Annotated[tuple[Choice, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _different(self) -> Self:
        names = [choice.name for choice in self.networks]
        if again := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"{again[0]} is named twice")
        return self


class OneShot(params.Section):
    """Section `oneshot`."""

    targets: Annotated[tuple[str, ...], Field(min_length=1)] | None  # names of HardCoRe-NAS's; null: all
    images: Annotated[int, Field(ge=1)]  # that networks are scored on
    evolution: EvolutionConfig


class Report(params.Section):
    """Section `report`: how latency is measured."""

    backend: Torch
    batch: Annotated[int, Field(ge=1)]  # images a call
    repetitions: Annotated[int, Field(ge=4)]  # rounds over all networks; fewer when time is up
    limit_s: Annotated[float, Field(gt=0)]  # seconds


@dataclass(frozen=True)
class Settings:
    """All of studies/methods/params.yaml."""

    alphanet: AlphaNet
    baselines: Baselines
    oneshot: OneShot
    report: Report


SECTIONS = {"alphanet": AlphaNet, "baselines": Baselines, "oneshot": OneShot, "report": Report}


def read(file: Path = PIPELINE.parameters) -> Settings:
    """The parameters, all checked before the first long stage.

    Raises:
        ParamsError: for the first mistake; names the key.
    """
    found = params.read_all(file)
    params.check_keys(found, SECTIONS, file)
    return Settings(**{name: params.check(found, name, model, file) for name, model in SECTIONS.items()})
