"""What the stages that test TF-NAS's claims share: what is varied, and searches that differ from TF-NAS's own in a setting or two.

The pipeline is studies/tf_nas_claims/dvc.yaml, what it varies is beside it. All else is as pipelines/tf_nas/params.yaml
says; images, latency table and networks are those that pipelines/tf_nas/dvc.yaml left.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
import torch
from pydantic import Field, model_validator

from nas.cost import latency_tf_nas
from nas.cost.latency_tf_nas import TfNasLatencyTable
from nas.data.dataset import open_dataset
from nas.differentiable.tf_nas.config import EarlyStopping, NotNegative
from nas.differentiable.tf_nas.scaling import bound, step
from nas.differentiable.tf_nas.search import Search
from nas.runtime import params
from nas.runtime.checkpoint import Checkpoint
from nas.spaces.tf_nas import Arch
from nas.stages import split
from nas.stages.pipelines import Pipeline
from nas.stages.tf_nas import config as tf_nas
from nas.stages.tf_nas.search import Searcher, of_classes, searched_classes
from nas.tracking.session import StageRun

PIPELINE = Pipeline("tf_nas_claims", Path("studies"))

Seed = Annotated[int, Field(ge=0)]


class Seeded(params.Section):
    """A section whose experiment is done once a seed: of weights, batches, paths, classes and held-out images."""

    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _different(self) -> Self:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: the same one stands twice")
        return self


class TradeOff(Seeded):
    """Section `trade_off`."""

    values: Annotated[tuple[NotNegative, ...], Field(min_length=2)]  # of lambda, ascending

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if list(self.values) != sorted(set(self.values)):
            raise ValueError("values have to ascend")
        return self


class Devices(params.Section):
    """Section `devices`."""

    threads: Annotated[int, Field(ge=1)]  # of an operator on the second device


class Stopping(Seeded):
    """Section `stopping`."""

    early_stopping: EarlyStopping


@dataclass(frozen=True)
class Settings:
    """All of studies/tf_nas_claims/params.yaml, and of TF-NAS's own."""

    tf_nas: tf_nas.Settings
    trade_off: TradeOff
    collapse: Seeded
    devices: Devices
    stopping: Stopping

    def sections(self, *names: str) -> dict[str, Any]:
        """For MLflow's parameters: sections of this pipeline, and all of TF-NAS's that decide a search."""
        shared = self.tf_nas.sections("seed", "space", "runtime", "evaluation", "search", "train")
        return {name: getattr(self, name) for name in names} | {f"tf_nas.{name}": value for name, value in shared.items()}


SECTIONS = {"trade_off": TradeOff, "collapse": Seeded, "devices": Devices, "stopping": Stopping}


def read(file: Path = PIPELINE.parameters, of_tf_nas: Path = tf_nas.PIPELINE.parameters) -> Settings:
    """The parameters of both pipelines, all checked before the first long stage.

    Raises:
        ParamsError: for the first mistake; names the file and the key.
        FileNotFoundError: for a search space that is missing.
    """
    found = params.read_all(file)
    params.check_keys(found, SECTIONS, file)
    s = tf_nas.read(of_tf_nas)
    checked = {name: params.check(found, name, model, file) for name, model in SECTIONS.items()}
    if checked["devices"].threads == s.latency.backend.threads:
        raise params.ParamsError(
            f"{file}: devices.threads: {s.latency.backend.threads} is what the first device has ({of_tf_nas}: latency.backend.threads)"
        )
    return Settings(s, **checked)


def varied(s: tf_nas.Settings, seed: int, **changes: Any) -> tf_nas.Settings:
    """TF-NAS's settings with another seed, both freedoms on and no early stopping, then the changes of `search.method`."""
    usual = {"bi_sampling": True, "elasticity_scaling": True, "early_stopping": None}
    method = s.search.method.model_copy(update=usual | changes)
    return replace(s, seed=seed, search=s.search.model_copy(update={"method": method}))


def middle_target(s: tf_nas.Settings, table: TfNasLatencyTable) -> float:
    """The middle one of TF-NAS's targets on a device, ms; of two the slower."""
    place = f"{tf_nas.PIPELINE.parameters}: search.targets"
    targets = sorted(target.ms(*table.range_ms, place) for target in s.search.targets)
    return targets[len(targets) // 2]


class Kept:
    """A stage's checkpoint under names of its own, which counts the CPU seconds of what it keeps, those before a kill too."""

    def __init__(self, checkpoint: Checkpoint, prefix: str) -> None:
        self._checkpoint, self._prefix = checkpoint, prefix
        self._before, self._began = 0.0, time.process_time()
        self.cpu_seconds = 0.0  # of all threads, up to what was last loaded or saved

    def load(self, name: str) -> dict[str, Any] | None:
        """As `Checkpoint.load`."""
        state = self._checkpoint.load(self._prefix + name)
        if state is not None:
            self._before, self._began = state.pop("cpu_seconds"), time.process_time()
            self.cpu_seconds = self._before
        return state

    def save(self, state: dict[str, Any], name: str) -> None:
        """As `Checkpoint.save`."""
        self.cpu_seconds = self._before + time.process_time() - self._began
        self._checkpoint.save(state | {"cpu_seconds": self.cpu_seconds}, self._prefix + name)


@dataclass(frozen=True, eq=False)
class Found:
    """A search at its end."""

    search: Search
    cpu_seconds: float  # of the search, and of the network that chose its classes


class Searches:
    """Searches with settings that are varied; each goes on from its last epoch, and none is done twice.

    The epochs of weights alone depend on the seed and the classes only: searches that share those go on from the same state.
    """

    def __init__(self, s: tf_nas.Settings, checkpoint: Checkpoint, run: StageRun) -> None:
        self._checkpoint, self._run = checkpoint, run
        self.device, self.data = s.runtime.start(), open_dataset(split.OUT)
        self.table = latency_tf_nas.TfNasLatencyTable.load(tf_nas.TABLE, s.space, len(self.data.classes))  # TF-NAS's own
        self.target_ms = middle_target(s, self.table)

    def search(self, name: str, s: tf_nas.Settings) -> Found:
        """For the middle target, by TF-NAS's own table.

        Args:
            name: of the search, another one for each.
        """
        return self.search_on(name, s, self.table, self.target_ms)

    def search_on(self, name: str, s: tf_nas.Settings, table: TfNasLatencyTable, target_ms: float) -> Found:
        """For a target on any device; searches of a seed within a stage have the same table."""
        group = f"{s.seed}-{'all' if s.search.classes is None else 'chosen'}-"
        classes, choosing_s = self._classes(s, group)
        kept = Kept(self._checkpoint, group)
        found = Searcher(s, of_classes(self.data, classes), table, self.device, kept, self._run).search(name, target_ms)
        return Found(found, choosing_s + kept.cpu_seconds)

    def _classes(self, s: tf_nas.Settings, group: str) -> tuple[np.ndarray, float]:
        """The classes to search on, and the CPU seconds that choosing them took."""
        kept = Kept(self._checkpoint, group)
        if (state := kept.load("classes-chosen.pt")) is None:
            state = {"classes": torch.from_numpy(searched_classes(self.data, s, self.device, kept))}
            kept.save(state, "classes-chosen.pt")
        return state["classes"].numpy(), kept.cpu_seconds


def reached(table: TfNasLatencyTable, choice: Arch, target_ms: float) -> dict[str, Any]:
    """A row of a table of results: where a network is by the latency table."""
    return {
        "target_latency_ms": target_ms,
        "table_latency_ms": table.latency_ms(choice),
        "step_latency_ms": next_step_ms(table, choice),
        "bounds_reached": bound(table, choice, target_ms) or "",
    }


def next_step_ms(table: TfNasLatencyTable, choice: Arch) -> float:
    """What one more round of elasticity scaling would add: of the fewest last stages that can still grow; 0 where none can."""
    stages = range(len(table.space.stages))
    for first in reversed(stages):
        if (wider := step(table, choice, stages[first:], +1)) != choice:
            return table.latency_ms(wider) - table.latency_ms(choice)
    return 0.0


def agreement(a: Arch, b: Arch) -> tuple[float, float]:
    """Shares of the layers with the same operation, and of the stages with the same depth."""
    return _same(a.operations, b.operations), _same(a.depths, b.depths)


def _same(a: Sequence[int], b: Sequence[int]) -> float:
    return float(np.mean([x == y for x, y in zip(a, b, strict=True)]))
