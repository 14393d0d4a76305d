"""params.yaml of the main pipeline: every section, and the check of all of them before a stage starts.

A section whose code is in the library is declared beside that code. A class here has no default and computes nothing: it declares
keys and refuses wrong values, so an edit of this module changes no result and no stage depends on it.
"""

from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field

from nas.data.splits import Split
from nas.evaluation.evaluate import Evaluation
from nas.latency.profiler import LatencyConfig as Latency
from nas.runtime import distributed, params
from nas.sampling.attentive import parse_strategy
from nas.search.setup import Search
from nas.spaces import mbconv
from nas.spaces.mbconv import SearchSpace
from nas.tracking.store import TrackingConfig
from nas.training.recipe import Recipe, Runtime
from nas.training.strategy import Train
from nas.training.transfer import Transfer


class Pretrain(params.Section):
    """Section `pretrain`."""

    epochs: Annotated[int, Field(ge=1)]
    subnetworks: Annotated[int, Field(ge=8)]  # measured for the predictor


class FitPredictor(params.Section):
    """Section `fit_predictor`."""

    trees: Annotated[int, Field(ge=1)]
    max_depth: Annotated[int, Field(ge=1)]


class Export(params.Section):
    """Section `export`."""

    calibration_images: Annotated[int, Field(ge=1)]  # of part `train`, for the ranges of the 8-bit networks
    checked_images: Annotated[int, Field(ge=1)] | None  # of part `val`, for parity and accuracy; null: all
    licence: str | None  # of the images, for the model card; null: the known one of a named data set
    register_models: bool  # the family in MLflow's model registry


class Report(params.Section):
    """Section `report`."""

    trial_samples: Annotated[int, Field(ge=2)]  # architectures drawn per cost target for the sampling figure


class ReportedSearch(params.Section):
    """The keys of section `search` that stage report reads."""

    model_config = ConfigDict(extra="ignore")
    costs: tuple[str, ...]
    latency_table: str


SECTIONS = {
    "split": Split,
    "runtime": Runtime,
    "launcher": distributed.Launcher,
    "recipe": Recipe,
    "evaluation": Evaluation,
    "pretrain": Pretrain,
    "fit_predictor": FitPredictor,
    "train": Train,
    "latency": Latency,
    "search": Search,
    "export": Export,
    "transfer": Transfer,
    "report": Report,
    "tracking": TrackingConfig,
}


def search_space() -> SearchSpace:
    """The search space that params.yaml names."""
    return mbconv.load(str(params.value("space")))


def shared() -> tuple[Recipe, Runtime, Evaluation]:
    """The sections `recipe`, `runtime` and `evaluation`."""
    return params.read("recipe", Recipe), params.read("runtime", Runtime), params.read("evaluation", Evaluation)


def check_all() -> None:
    """Read every section as its stage will: a wrong key of a later stage shows before the first one runs for days.

    Raises:
        ParamsError, SpaceError, FileNotFoundError: for the first mistake; names the key.
    """
    document = params.read_all()
    params.check_keys(document, {"seed", "space", *SECTIONS})
    params.check_seed(document)
    space = search_space()
    sections = {name: params.check(document, name, model) for name, model in SECTIONS.items()}
    distributed.images_per_process(sections["recipe"].batch, sections["launcher"].processes * sections["launcher"].nodes)
    try:
        parse_strategy(sections["train"].strategy)
    except ValueError as error:
        raise params.ParamsError(str(error)) from None
    split, subnetworks = sections["split"], sections["pretrain"].subnetworks
    keys = [source.key(Path(split.transfer_root)) for source in split.transfer]
    if unknown := sorted(set(sections["transfer"].augmentation) - {"default", *keys}):
        raise params.ParamsError(
            f"{params.FILE}: transfer.augmentation.{unknown[0]} is not a data set of the transfer; split.transfer lists {keys}"
        )
    if subnetworks > space.size:
        raise params.ParamsError(
            f"{params.FILE}: pretrain.subnetworks: {subnetworks} different ones are needed, space {space.name!r} has {space.size}"
        )
