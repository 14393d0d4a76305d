"""What the stages of HardCoRe-NAS share: its parameters, and the networks that its stages write.

The pipeline is pipelines/hardcore_nas/dvc.yaml with its params.yaml. It uses the images of the main pipeline's stage split.
Stages run from the project's root and write below pipelines/hardcore_nas/outputs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from nas.data.augmentation import Augmentation
from nas.differentiable.hardcore_nas.training import TrainingConfig
from nas.latency.rows import RowLatencyConfig
from nas.runtime import params
from nas.runtime.io import read_json
from nas.spaces.hardcore_nas import Arch, Space, load
from nas.stages.differentiable import LatencyTargets, MethodParams
from nas.stages.runner import Pipeline
from nas.training.recipe import Fraction, Runtime

PIPELINE = Pipeline(Path("pipelines/hardcore_nas"))
TABLE = PIPELINE.out("latency") / "table.json"
WEIGHTS = PIPELINE.out("train") / "weights.safetensors"  # of the one-shot model
TEACHER = PIPELINE.out("train") / "teacher.safetensors"  # of the largest network, trained by itself
SEARCHED = PIPELINE.out("search") / "searched.json"
SEARCHED_KEYS = ("name", "target_latency_ms", "max_violation_ms", "arch")  # copied to family.json
FAMILY = PIPELINE.out("derive") / "family.json"
FAMILY_KEYS = (*SEARCHED_KEYS, "table_latency_ms", "measured_latency_ms", "noise_floor", "mflops", "parameters")
TUNED = PIPELINE.out("tune") / "weights.safetensors"

Part = Annotated[float, Field(gt=0, lt=1)]


class Evaluation(params.Section):
    """Section `evaluation`."""

    batch: Annotated[int, Field(ge=1)]  # images at once


class Images(params.Section):
    """Section `images`: the training images."""

    held_out: Part  # of them, for the search; the one-shot model is not trained on them
    augmentation: Augmentation


class Training(TrainingConfig):
    """How a network is trained."""

    batch: Annotated[int, Field(ge=2)]


class Train(params.Section):
    """Section `train`: the weights of the one-shot model."""

    largest: Training  # the largest network by itself
    sorted_on: Part  # share of the images that the channels' importance is measured on
    multi_path: Training  # all networks, one for each image


class Search(params.Section):
    """Section `search`."""

    targets: LatencyTargets
    start: Annotated[float, Field(ge=0, le=1)]  # of the way from the fastest network to the target
    steps: Annotated[int, Field(ge=1)]
    record_every: Annotated[int, Field(ge=1)]  # steps between two records; the search resumes from the last one
    batch: Annotated[int, Field(ge=1)]  # images per step, a network sampled for each
    rate: Annotated[float, Field(gt=0, le=1)]  # of the way to the best vertex, each step
    momentum: Fraction  # of the gradients


class Tune(params.Section):
    """Section `tune`: the searched networks."""

    tuning: Training  # from the one-shot model's weights, with the largest network as teacher
    scratch: Training  # from scratch, to compare


@dataclass(frozen=True)
class HardcoreNasParams(MethodParams):
    """All of pipelines/hardcore_nas/params.yaml."""

    seed: int
    space: Space
    runtime: Runtime
    evaluation: Evaluation
    latency: RowLatencyConfig
    images: Images
    train: Train
    search: Search
    tune: Tune


SECTIONS = {
    "runtime": Runtime,
    "evaluation": Evaluation,
    "latency": RowLatencyConfig,
    "images": Images,
    "train": Train,
    "search": Search,
    "tune": Tune,
}


def read(file: Path = PIPELINE.parameters) -> HardcoreNasParams:
    """The parameters, all checked before the first long stage.

    Raises:
        ParamsError: for the first mistake; names the key.
        FileNotFoundError: for a search space that is missing.
    """
    seed, space, sections = PIPELINE.sections(SECTIONS, file)
    search = sections["search"]
    if search.steps % search.record_every:
        raise params.ParamsError(f"{file}: search.record_every: {search.steps} steps cannot be divided into parts of {search.record_every}")
    return HardcoreNasParams(seed, load(Path(space)), **sections)


def read_networks(path: Path, space: Space, stage: str, keys: Sequence[str]) -> list[tuple[dict[str, Any], Arch]]:
    """The given keys of every entry of a file of networks with `arch`, each with its architecture.

    Args:
        stage: that writes the file.

    Raises:
        DocumentError: if the file holds something else.
    """
    entries = read_json(path)
    try:
        return [({key: entry[key] for key in keys}, space.check(Arch(map(tuple, entry["arch"])))) for entry in entries]
    except (TypeError, KeyError, ValueError) as error:
        raise PIPELINE.damaged(path, error, stage) from None
