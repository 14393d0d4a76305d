"""Parameters of the study of HardCoRe-NAS's claims, and networks trained for other numbers of epochs.

studies/hardcore_nas_claims/params.yaml has what varies; everything else is in pipelines/hardcore_nas/params.yaml. Images, latency table,
one-shot model and networks are the outputs of pipelines/hardcore_nas/dvc.yaml.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import pandas as pd
from pydantic import AfterValidator, Field
from torch import nn

from nas.data import loader
from nas.data.dataset import open_dataset
from nas.differentiable.hardcore_nas.one_shot import OneShot, extract
from nas.differentiable.hardcore_nas.training import scratch_loss, tuning_loss
from nas.evaluation.evaluate import top1
from nas.models.blocks import RowNetwork
from nas.runtime import params, seeding
from nas.runtime.checkpoint import Checkpoint, load_weights
from nas.spaces.hardcore_nas import Arch
from nas.stages import runner
from nas.stages.differentiable import TARGET_NAMES
from nas.stages.hardcore_nas import config as hardcore_nas
from nas.stages.hardcore_nas.config import TEACHER, WEIGHTS
from nas.stages.hardcore_nas.resumable_training import Trained, Trainer
from nas.stages.runner import Pipeline
from nas.tracking.runs import StageRun

PIPELINE = Pipeline(Path("studies/hardcore_nas_claims"))
TUNED, SCRATCH = "tuning", "scratch"  # trainings of a network

Epochs = Annotated[int, Field(ge=1)]
Ordered = TypeVar("Ordered", bound=Sequence)


def _ascending(values: Ordered) -> Ordered:
    if list(values) != sorted(set(values)):
        raise ValueError("they must ascend")
    return values


Ascending = AfterValidator(_ascending)


class Tuning(params.Section):
    """Section `tuning`."""

    targets: Annotated[tuple[str, ...], Field(min_length=1), Ascending]  # by name, a is the fastest
    epochs: Annotated[tuple[Epochs, ...], Field(min_length=2), Ascending]  # of fine-tuning with the largest network as teacher
    scratch: Epochs  # of training from scratch


class Starts(params.Section):
    """Section `starts`."""

    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1), Ascending]  # of images and networks drawn
    shares: Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], Field(min_length=1), Ascending]  # of other starts


@dataclass(frozen=True)
class HardcoreNasClaimsParams:
    """All of studies/hardcore_nas_claims/params.yaml, and of HardCoRe-NAS's own."""

    hardcore_nas: hardcore_nas.HardcoreNasParams
    tuning: Tuning
    starts: Starts

    def sections(self, *names: str) -> dict[str, Any]:
        """For MLflow's parameters: sections of this study, and all of HardCoRe-NAS's that decide a search or a training."""
        shared = self.hardcore_nas.sections("seed", "space", "runtime", "evaluation", "images", "search", "tune")
        return {name: getattr(self, name) for name in names} | {f"hardcore_nas.{name}": value for name, value in shared.items()}


def read(file: Path = PIPELINE.parameters, of_hardcore_nas: Path = hardcore_nas.PIPELINE.parameters) -> HardcoreNasClaimsParams:
    """The parameters of the study and of HardCoRe-NAS, all validated before the first long stage.

    Raises:
        ParamsError: for the first error; names the file and the key.
        FileNotFoundError: for a search space that is missing.
    """
    values, own = params.read_all(file), hardcore_nas.read(of_hardcore_nas)
    params.check_keys(values, {"tuning", "starts"}, file)
    tuning, starts = params.check(values, "tuning", Tuning, file), params.check(values, "starts", Starts, file)
    names = TARGET_NAMES[: len(own.search.targets)]
    if unknown := sorted(set(tuning.targets) - set(names)):
        raise params.ParamsError(
            f"{file}: tuning.targets: {unknown[0]!r} is not in {list(names)}, a letter per entry of {of_hardcore_nas}: search.targets"
        )
    if starts.shares[0] != 0 or own.search.start in starts.shares:
        raise params.ParamsError(
            f"{file}: starts.shares: 0, the fastest network, must be among them, and {own.search.start:g}, which they are compared with "
            f"({of_hardcore_nas}: search.start), must not; found {list(starts.shares)}"
        )
    return HardcoreNasClaimsParams(own, tuning, starts)


def results_file(stage: str) -> Path:
    """The table of results of a stage."""
    return PIPELINE.out(stage) / "results.csv"


def improvement(results: pd.DataFrame, start: float) -> float:
    """Equation 27, percent: relative gain in top-1 of fine-tuned networks over those from the fastest start, mean over the targets."""
    by_start = results.groupby(["start", "target"])["top1"].mean()
    return float(100 * (by_start[start] / by_start[0.0] - 1).mean())


class Networks:
    """Networks of the one-shot model, trained as in stage tune of HardCoRe-NAS; none is trained twice."""

    def __init__(self, cfg: hardcore_nas.HardcoreNasParams, checkpoint: Checkpoint, run: StageRun) -> None:
        self._cfg = cfg
        self.device, self.data = cfg.runtime.start(), open_dataset(runner.out("split"))
        run.dataset(str(runner.out("split") / "splits.parquet"), "training", images=len(self.data.indices("train")))
        self.model = OneShot(cfg.space, len(self.data.classes))
        self._teacher = RowNetwork(cfg.space.plan(cfg.space.largest()), len(self.data.classes))
        for path, network in ((WEIGHTS, self.model), (TEACHER, self._teacher)):
            load_weights(path, network)
            network.to(self.device, memory_format=cfg.runtime.memory_format).eval()
        self._test = loader.EvaluationBatches(self.data, self.data.indices("test"), cfg.evaluation.batch, cfg.runtime.workers)
        self._trainer = Trainer("tune", cfg, self.data, self.device, checkpoint, run)

    def inherited(self, arch: Arch) -> RowNetwork:
        """With the one-shot model's weights, in eval mode."""
        return extract(self.model, arch).to(self.device, memory_format=self._cfg.runtime.memory_format)

    def tuned(self, name: str, arch: Arch, epochs: int) -> tuple[RowNetwork, Trained]:
        """From the one-shot model's weights, with the largest network as teacher.

        Args:
            name: of the network.
        """
        tuning = self._cfg.tune.tuning.model_copy(update={"epochs": epochs})
        network = self.inherited(arch)
        loss = tuning_loss(network, self._teacher, tuning.label_smoothing)
        return network, self._trainer.fit(f"{name}_tuning_{epochs}", "tuning", network, loss, self.data.indices("train"), tuning)

    def from_scratch(self, name: str, arch: Arch, epochs: int) -> tuple[RowNetwork, Trained]:
        """From scratch: stage tune draws the same initial weights for a network of this name."""
        training = self._cfg.tune.scratch.model_copy(update={"epochs": epochs})
        with seeding.torch_seed(self._cfg.seed, "scratch", name):
            network = RowNetwork(self._cfg.space.plan(arch), len(self.data.classes))
        loss = scratch_loss(network, training.label_smoothing)
        return network, self._trainer.fit(f"{name}_scratch_{epochs}", "scratch", network, loss, self.data.indices("train"), training)

    def top1(self, network: nn.Module) -> float:
        """Top-1 (percent) on the test images of a network on the device, in eval mode."""
        return top1(network, self._cfg.runtime.to_device(self._test, self.device))
