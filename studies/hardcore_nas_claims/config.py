"""What the stages that test HardCoRe-NAS's claims share: what is varied, and networks tuned for other numbers of epochs.

The pipeline is studies/hardcore_nas_claims/dvc.yaml, what it varies is beside it. All else is as
pipelines/hardcore_nas/params.yaml says; images, latency table, one-shot model and networks are those that
pipelines/hardcore_nas/dvc.yaml left.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, Field
from torch import nn

from nas.data import loader
from nas.data.dataset import open_dataset
from nas.differentiable.hardcore_nas.one_shot import OneShot, extract
from nas.differentiable.hardcore_nas.training import scratch_loss, tuning_loss
from nas.evaluation.evaluate import top1
from nas.models.blocks import RowNetwork
from nas.runtime import params
from nas.runtime.checkpoint import Checkpoint, load_weights
from nas.spaces.hardcore_nas import Arch
from nas.stages import split
from nas.stages.hardcore_nas import config as hardcore_nas
from nas.stages.hardcore_nas.config import Trained
from nas.stages.hardcore_nas.train import TEACHER, WEIGHTS
from nas.stages.pipelines import NAMES, Pipeline, placed
from nas.tracking.session import StageRun

PIPELINE = Pipeline("hardcore_nas_claims", Path("studies"))

Epochs = Annotated[int, Field(ge=1)]
Ordered = TypeVar("Ordered", bound=Sequence)


def _ascending(values: Ordered) -> Ordered:
    if list(values) != sorted(set(values)):
        raise ValueError("they have to ascend")
    return values


Ascending = AfterValidator(_ascending)


class Tuning(params.Section):
    """Section `tuning`."""

    targets: Annotated[tuple[str, ...], Field(min_length=1), Ascending]  # by name, a is the fastest
    epochs: Annotated[tuple[Epochs, ...], Field(min_length=2), Ascending]  # of fine-tuning with the largest network's answers
    scratch: Epochs  # of training from fresh weights


class Starts(params.Section):
    """Section `starts`."""

    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1), Ascending]  # of images and networks drawn
    shares: Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], Field(min_length=1), Ascending]  # of other starts


@dataclass(frozen=True)
class Settings:
    """All of studies/hardcore_nas_claims/params.yaml, and of HardCoRe-NAS's own."""

    hardcore_nas: hardcore_nas.Settings
    tuning: Tuning
    starts: Starts

    def sections(self, *names: str) -> dict[str, Any]:
        """For MLflow's parameters: sections of this pipeline, and all of HardCoRe-NAS's that decide a search or a training."""
        shared = self.hardcore_nas.sections("seed", "space", "runtime", "evaluation", "images", "search", "tune")
        return {name: getattr(self, name) for name in names} | {f"hardcore_nas.{name}": value for name, value in shared.items()}


def read(file: Path = PIPELINE.parameters, of_hardcore_nas: Path = hardcore_nas.PIPELINE.parameters) -> Settings:
    """The parameters of both pipelines, all checked before the first long stage.

    Raises:
        ParamsError: for the first mistake; names the file and the key.
        FileNotFoundError: for a search space that is missing.
    """
    found, s = params.read_all(file), hardcore_nas.read(of_hardcore_nas)
    params.check_keys(found, {"tuning", "starts"}, file)
    tuning, starts = params.check(found, "tuning", Tuning, file), params.check(found, "starts", Starts, file)
    known = NAMES[: len(s.search.targets)]
    if unknown := sorted(set(tuning.targets) - set(known)):
        raise params.ParamsError(
            f"{file}: tuning.targets: {unknown[0]!r} is none of {list(known)}, a letter for each of {of_hardcore_nas}: search.targets"
        )
    if starts.shares[0] != 0 or s.search.start in starts.shares:
        raise params.ParamsError(
            f"{file}: starts.shares: 0, the fastest network, has to be among them, and {s.search.start:g}, which they are compared with "
            f"({of_hardcore_nas}: search.start), has not; found {list(starts.shares)}"
        )
    return Settings(s, tuning, starts)


class Networks:
    """Networks of the one-shot model, trained as stage tune of HardCoRe-NAS trains them; none is trained twice."""

    def __init__(self, s: hardcore_nas.Settings, checkpoint: Checkpoint, run: StageRun) -> None:
        self._s = s
        self.device, self.data = s.runtime.start(), open_dataset(split.OUT)
        run.dataset(str(split.OUT / "splits.parquet"), "training", images=len(self.data.indices("train")))
        self.model = OneShot(s.space, len(self.data.classes))
        self._teacher = RowNetwork(s.space.plan(s.space.largest()), len(self.data.classes))
        for path, network in ((WEIGHTS, self.model), (TEACHER, self._teacher)):
            load_weights(path, network)
            network.to(self.device, memory_format=s.runtime.memory_format).eval()
        self._test = loader.EvaluationBatches(self.data, self.data.indices("test"), s.evaluation.batch, s.runtime.workers)
        self._trainer = hardcore_nas.Trainer("tune", s, self.data, self.device, checkpoint, run)

    def inherited(self, arch: Arch) -> RowNetwork:
        """With the one-shot model's weights, in eval mode."""
        return extract(self.model, arch).to(self.device, memory_format=self._s.runtime.memory_format)

    def tuned(self, name: str, arch: Arch, epochs: int) -> tuple[RowNetwork, Trained]:
        """From the one-shot model's weights, with the largest network's answers.

        Args:
            name: of the network.
        """
        how = self._s.tune.tuning.model_copy(update={"epochs": epochs})
        network = self.inherited(arch)
        loss = tuning_loss(network, self._teacher, how.label_smoothing)
        return network, self._trainer.fit(f"{name}_tuning_{epochs}", "tuning", network, loss, self.data.indices("train"), how)

    def fresh(self, name: str, arch: Arch, epochs: int) -> tuple[RowNetwork, Trained]:
        """From fresh weights: stage tune draws the same for a network of the name."""
        how = self._s.tune.scratch.model_copy(update={"epochs": epochs})
        with hardcore_nas.drawn(self._s.seed, "scratch", name):
            network = RowNetwork(self._s.space.plan(arch), len(self.data.classes))
        loss = scratch_loss(network, how.label_smoothing)
        return network, self._trainer.fit(f"{name}_scratch_{epochs}", "scratch", network, loss, self.data.indices("train"), how)

    def top1(self, network: nn.Module) -> float:
        """Percent of the test images that a network on the device, in eval mode, names rightly."""
        return top1(network, placed(self._test, self._s.runtime, self.device))
