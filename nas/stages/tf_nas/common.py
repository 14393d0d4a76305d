"""What the stages of TF-NAS share: its parameters and its MLflow runs.

The pipeline is pipelines/tf_nas/dvc.yaml, its parameters are beside it. It reuses the pictures that the main pipeline's
stage split divided. Stages run from the project's root and write below pipelines/tf_nas/outputs.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from string import ascii_lowercase
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from nas import params, provenance, tracking
from nas.checkpoint import Checkpoint
from nas.data.loader import Augmentation
from nas.differentiable.tf_nas.latency import LatencyTable
from nas.differentiable.tf_nas.method import Method
from nas.differentiable.tf_nas.space import Space, load
from nas.differentiable.tf_nas.survey import Latency
from nas.stages import common
from nas.stages.transfer import Transfer
from nas.tracking import Group, StageRun
from nas.training.recipe import Runtime
from nas.transfer import FineTuning

PIPELINE = Path("pipelines/tf_nas")
FILE = PIPELINE / "params.yaml"
OUTPUTS = PIPELINE / "outputs"
NAMES = ascii_lowercase  # of the targets, from the fastest
TABLE = OUTPUTS / "latency" / "table.json"


class Target(params.Section):
    """A latency that a network is to have: in ms, or as a share of the way from the cheapest network to the dearest."""

    latency_ms: Annotated[float, Field(gt=0)] | None = None
    share: Annotated[float, Field(ge=0, le=1)] | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.latency_ms is None) == (self.share is None):
            raise ValueError("one of latency_ms and share is needed")
        return self

    def ms(self, table: LatencyTable) -> float:
        """The latency, for a whole batch.

        Raises:
            ParamsError: if no network of the space has it.
        """
        cheapest, dearest = table.range_ms()
        if self.share is not None:
            return cheapest + self.share * (dearest - cheapest)
        if not cheapest <= self.latency_ms <= dearest:
            raise params.ParamsError(
                f"{FILE}: search.targets: no network of space {table.space.name!r} takes {self.latency_ms:g} ms on this device; "
                f"the achievable range is {cheapest:.4g} to {dearest:.4g} ms"
            )
        return self.latency_ms


class Training(params.Section):
    """Section `train`: a network from fresh weights."""

    learning_rate: Annotated[float, Field(gt=0)]
    weight_decay: Annotated[float, Field(ge=0)]
    how: FineTuning
    augmentation: Augmentation


class Classes(params.Section):
    """Section `search.classes`: one class of each group of those that a trained network finds alike hard."""

    number: Annotated[int, Field(ge=2)]
    epochs: Annotated[int, Field(ge=1)]  # that the network is trained for, as section train says


class Search(params.Section):
    """Section `search`."""

    targets: Annotated[tuple[Target, ...], Field(min_length=1, max_length=len(NAMES))]
    classes: Classes | None  # to search on; null: all
    held_out: Annotated[float, Field(gt=0, lt=1)]  # of the pictures, for alpha and beta
    augmentation: Augmentation
    method: Method


@dataclass(frozen=True)
class Settings:
    """All of pipelines/tf_nas/params.yaml."""

    seed: int
    space: Space
    runtime: Runtime
    evaluation: common.Evaluation
    latency: Latency
    search: Search
    train: Training
    transfer: Transfer

    def sections(self, *names: str) -> dict[str, Any]:
        """For MLflow's parameters: the space by its name."""
        return {name: self.space.name if name == "space" else getattr(self, name) for name in names}


SECTIONS = {
    "runtime": Runtime,
    "evaluation": common.Evaluation,
    "latency": Latency,
    "search": Search,
    "train": Training,
    "transfer": Transfer,
}


def read(file: Path = FILE) -> Settings:
    """The parameters, all checked before the first long stage.

    Raises:
        ParamsError: for the first mistake; names the key.
        FileNotFoundError: for a search space that is missing.
    """
    found = params.read_all(file)
    known = {"seed", "space", *SECTIONS}
    if wrong := sorted(known ^ set(found)):
        raise params.ParamsError(f"{file}: {wrong[0]!r} is {'missing' if wrong[0] in known else 'not known'}; its keys are {sorted(known)}")
    if type(found["seed"]) is not int or found["seed"] < 0:
        raise params.ParamsError(f"{file}: seed: a whole number from 0 on is needed; found {found['seed']!r}")
    sections = {name: params.check(found, name, model, file) for name, model in SECTIONS.items()}
    method = sections["search"].method
    if method.weight_epochs >= method.epochs:
        raise params.ParamsError(
            f"{file}: search.method.weight_epochs: {method.weight_epochs} of {method.epochs} epochs leave none for alpha and beta"
        )
    return Settings(found["seed"], load(str(found["space"])), **sections)


@contextmanager
def stage(name: str, parameters: dict[str, Any]) -> Iterator[tuple[StageRun, Checkpoint, Path]]:
    """An MLflow run under the pipeline's, a locked checkpoint folder, and the output folder."""
    out = OUTPUTS / name
    out.mkdir(parents=True, exist_ok=True)
    address = f"{PIPELINE}/dvc.yaml:{name}"
    text = json.dumps([params.read_all(FILE), os.environ.get("DVC_EXP_NAME")], sort_keys=True)
    group = Group("tf_nas", hashlib.sha256(text.encode()).hexdigest()[:16])
    with (
        tracking.stage_run(address, parameters, title=f"tf_nas {name}", group=group, shares=True) as run,
        Checkpoint(provenance.project_root(), f"tf_nas-{name}", provenance.fingerprint(address)) as checkpoint,
    ):
        yield run, checkpoint, out


def finish(out: Path, metrics: dict[str, float], run: StageRun) -> None:
    """Write the stage's metrics.json and log the same figures to MLflow as `<stage>/<key>`."""
    rounded = {key: value if isinstance(value, int) else round(float(value), 6) for key, value in metrics.items()}
    common.write_json(out / "metrics.json", rounded)
    run.summary(rounded, out.name)
    print(f"tf_nas {out.name}: " + ", ".join(f"{key} {value:g}" for key, value in rounded.items()), flush=True)
