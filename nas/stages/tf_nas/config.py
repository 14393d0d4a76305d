"""What the stages of TF-NAS share: its parameters, and the networks that its stages write.

The pipeline is pipelines/tf_nas/dvc.yaml with its params.yaml. It uses the images of the main pipeline's stage split.
Stages run from the project's root and write below pipelines/tf_nas/outputs.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from nas.data.augmentation import Augmentation
from nas.differentiable.tf_nas.config import SearchConfig
from nas.evaluation.evaluate import Evaluation
from nas.latency.tf_nas import TfNasLatencyConfig
from nas.runtime import params
from nas.spaces.rows import Plan
from nas.spaces.tf_nas import Arch, Space, load
from nas.stages.differentiable import LatencyTargets, MethodParams, read_plans
from nas.stages.runner import Pipeline
from nas.training.recipe import Runtime
from nas.training.scratch import ScratchTraining
from nas.training.transfer import Transfer

PIPELINE = Pipeline(Path("pipelines/tf_nas"))
TABLE = PIPELINE.out("latency") / "table.json"
SEARCHED = PIPELINE.out("search") / "searched.json"
FAMILY = PIPELINE.out("derive") / "family.json"
WEIGHTS = PIPELINE.out("train") / "weights.safetensors"
LEARNING_RATE = f"{PIPELINE.parameters}: train.learning_rate"  # for messages


class Classes(params.Section):
    """Section `search.classes`: classes to search on, one of each group of equally difficult ones."""

    number: Annotated[int, Field(ge=2)]
    epochs: Annotated[int, Field(ge=1)]  # of the network that the difficulty is measured with, trained as section train says


class Search(params.Section):
    """Section `search`."""

    targets: LatencyTargets
    classes: Classes | None  # to search on; null: all
    held_out: Annotated[float, Field(gt=0, lt=1)]  # of the images, for alpha and beta
    augmentation: Augmentation
    method: SearchConfig


@dataclass(frozen=True)
class TfNasParams(MethodParams):
    """All of pipelines/tf_nas/params.yaml."""

    space: Space
    runtime: Runtime
    evaluation: Evaluation
    latency: TfNasLatencyConfig
    search: Search
    train: ScratchTraining
    transfer: Transfer


SECTIONS = {
    "runtime": Runtime,
    "evaluation": Evaluation,
    "latency": TfNasLatencyConfig,
    "search": Search,
    "train": ScratchTraining,
    "transfer": Transfer,
}


def read(file: Path = PIPELINE.parameters) -> TfNasParams:
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
    return TfNasParams(seed, load(space), **sections)


def read_arch(entry: dict) -> Arch:
    """The architecture of an entry of searched.json.

    Raises:
        DocumentError: if the entry holds none.
    """
    try:
        return Arch(*(tuple(entry[key]) for key in ("operations", "depths", "widths")))
    except (TypeError, KeyError) as error:
        raise PIPELINE.damaged(SEARCHED, error, "search") from None


def read_family(space: Space) -> list[tuple[dict[str, Any], Plan]]:
    """The entries of family.json, each with its network.

    Raises:
        DocumentError: if the file holds something else.
    """
    return read_plans(FAMILY, space.fixed, PIPELINE, "derive")
