"""Parameters of the comparison of all methods: studies/methods/params.yaml.

The training and search of each method follow the parameters of its own pipeline.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from nas.latency.backends.config import Torch
from nas.runtime import params
from nas.stages.runner import Pipeline
from nas.training.losses import DistillationLoss
from studies.methods.evolution import EvolutionConfig
from studies.methods.torchvision_networks import TorchvisionNetwork

PIPELINE = Pipeline(Path("studies/methods"))


class AlphaNet(params.Section):
    """Section `alphanet`."""

    distillation: DistillationLoss


class Baselines(params.Section):
    """Section `baselines`."""

    networks: Annotated[tuple[TorchvisionNetwork, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _different(self) -> Self:
        names = [network.name for network in self.networks]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"{repeated[0]} is listed twice")
        return self


class OneShot(params.Section):
    """Section `oneshot`."""

    targets: Annotated[tuple[str, ...], Field(min_length=1)] | None  # names of HardCoRe-NAS's; null: all
    images: Annotated[int, Field(ge=1)]  # on which networks are scored
    evolution: EvolutionConfig


class Report(params.Section):
    """Section `report`: the latency measurement."""

    backend: Torch
    batch: Annotated[int, Field(ge=1)]  # images per call
    repetitions: Annotated[int, Field(ge=4)]  # rounds over all networks; fewer if the time limit is reached
    limit_s: Annotated[float, Field(gt=0)]  # seconds


@dataclass(frozen=True)
class MethodsParams:
    """All of studies/methods/params.yaml."""

    alphanet: AlphaNet
    baselines: Baselines
    oneshot: OneShot
    report: Report


SECTIONS = {"alphanet": AlphaNet, "baselines": Baselines, "oneshot": OneShot, "report": Report}


def read(file: Path = PIPELINE.parameters) -> MethodsParams:
    """The parameters, all validated before the first long stage.

    Raises:
        ParamsError: for the first error; names the key.
    """
    values = params.read_all(file)
    params.check_keys(values, SECTIONS, file)
    return MethodsParams(**{name: params.check(values, name, model, file) for name, model in SECTIONS.items()})
