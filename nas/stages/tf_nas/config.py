"""What the stages of TF-NAS share: its parameters and its MLflow runs.

The pipeline is pipelines/tf_nas/dvc.yaml, its parameters are beside it. It reuses the images that the main pipeline's
stage split divided. Stages run from the project's root and write below pipelines/tf_nas/outputs.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from nas.data.loader import Augmentation
from nas.differentiable.tf_nas.config import SearchConfig
from nas.latency.tf_nas import TfNasLatencyConfig
from nas.runtime import params
from nas.spaces.tf_nas import Space, load
from nas.stages import pipelines, runner
from nas.stages.pipelines import Pipeline, Targets, Training
from nas.training.recipe import Runtime
from nas.training.transfer import Transfer

PIPELINE = Pipeline("tf_nas")
TABLE = PIPELINE.outputs / "latency" / "table.json"


class Classes(params.Section):
    """Section `search.classes`: one class of each group of those that a trained network finds alike hard."""

    number: Annotated[int, Field(ge=2)]
    epochs: Annotated[int, Field(ge=1)]  # that the network is trained for, as section train says


class Search(params.Section):
    """Section `search`."""

    targets: Targets
    classes: Classes | None  # to search on; null: all
    held_out: Annotated[float, Field(gt=0, lt=1)]  # of the images, for alpha and beta
    augmentation: Augmentation
    method: SearchConfig


@dataclass(frozen=True)
class Settings(pipelines.Settings):
    """All of pipelines/tf_nas/params.yaml."""

    space: Space
    runtime: Runtime
    evaluation: runner.Evaluation
    latency: TfNasLatencyConfig
    search: Search
    train: Training
    transfer: Transfer


SECTIONS = {
    "runtime": Runtime,
    "evaluation": runner.Evaluation,
    "latency": TfNasLatencyConfig,
    "search": Search,
    "train": Training,
    "transfer": Transfer,
}


def read(file: Path = PIPELINE.parameters) -> Settings:
    """The parameters, all checked before the first long stage.

    Raises:
        ParamsError: for the first mistake; names the key.
        FileNotFoundError: for a search space that is missing.
    """
    seed, space, sections = PIPELINE.sections(SECTIONS, file)
    method = sections["search"].method
    if method.weight_epochs >= method.epochs:
        raise params.ParamsError(
            f"{file}: search.method.weight_epochs: {method.weight_epochs} of {method.epochs} epochs leave none for alpha and beta"
        )
    return Settings(seed, load(space), **sections)
