"""Parameters of the study of TF-NAS's claims, and searches that differ from TF-NAS's own in one or two settings.

studies/tf_nas_claims/params.yaml has what varies; everything else is in pipelines/tf_nas/params.yaml. Images, latency table and
networks are the outputs of pipelines/tf_nas/dvc.yaml.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
import pandas as pd
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
from nas.stages import runner
from nas.stages.runner import Pipeline
from nas.stages.tf_nas import config as tf_nas
from nas.stages.tf_nas.target_searches import Searcher, of_classes
from nas.stages.tf_nas.target_searches import select_classes as searched_classes
from nas.tracking.runs import StageRun

PIPELINE = Pipeline(Path("studies/tf_nas_claims"))
ALL_CLASSES, CHOSEN_CLASSES, STOPPED_EARLY = "all classes", "chosen classes", "stopped early"  # searches of stage stopping

Seed = Annotated[int, Field(ge=0)]


class Seeded(params.Section):
    """A section whose experiment runs once per seed: of weights, batches, paths, classes and held-out images."""

    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _different(self) -> Self:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: one is listed twice")
        return self


class TradeOff(Seeded):
    """Section `trade_off`."""

    values: Annotated[tuple[NotNegative, ...], Field(min_length=2)]  # of lambda, ascending

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if list(self.values) != sorted(set(self.values)):
            raise ValueError("values must ascend")
        return self


class Devices(params.Section):
    """Section `devices`."""

    threads: Annotated[int, Field(ge=1)]  # per operator on the second device


class Stopping(Seeded):
    """Section `stopping`."""

    early_stopping: EarlyStopping


@dataclass(frozen=True)
class TfNasClaimsParams:
    """All of studies/tf_nas_claims/params.yaml, and of TF-NAS's own."""

    tf_nas: tf_nas.TfNasParams
    trade_off: TradeOff
    collapse: Seeded
    devices: Devices
    stopping: Stopping

    def sections(self, *names: str) -> dict[str, Any]:
        """For MLflow's parameters: sections of this study, and all of TF-NAS's that decide a search."""
        shared = self.tf_nas.sections("seed", "space", "runtime", "evaluation", "search", "train")
        return {name: getattr(self, name) for name in names} | {f"tf_nas.{name}": value for name, value in shared.items()}


SECTIONS = {"trade_off": TradeOff, "collapse": Seeded, "devices": Devices, "stopping": Stopping}


def read(file: Path = PIPELINE.parameters, of_tf_nas: Path = tf_nas.PIPELINE.parameters) -> TfNasClaimsParams:
    """The parameters of the study and of TF-NAS, all validated before the first long stage.

    Raises:
        ParamsError: for the first error; names the file and the key.
        FileNotFoundError: for a search space that is missing.
    """
    values = params.read_all(file)
    params.check_keys(values, SECTIONS, file)
    own = tf_nas.read(of_tf_nas)
    sections = {name: params.check(values, name, model, file) for name, model in SECTIONS.items()}
    if sections["devices"].threads == own.latency.backend.threads:
        raise params.ParamsError(
            f"{file}: devices.threads: {own.latency.backend.threads} is the number of the first device ({of_tf_nas}: "
            "latency.backend.threads); choose another one"
        )
    return TfNasClaimsParams(own, **sections)


def varied(cfg: tf_nas.TfNasParams, seed: int, **changes: Any) -> tf_nas.TfNasParams:
    """TF-NAS's parameters with another seed, bi-sampling and scaling on, no early stopping, then the changes of `search.method`."""
    defaults = {"bi_sampling": True, "elasticity_scaling": True, "early_stopping": None}
    method = cfg.search.method.model_copy(update=defaults | changes)
    return replace(cfg, seed=seed, search=cfg.search.model_copy(update={"method": method}))


def median_target(cfg: tf_nas.TfNasParams, table: TfNasLatencyTable) -> float:
    """The median of TF-NAS's targets on a device, ms; of two the larger."""
    place = f"{tf_nas.PIPELINE.parameters}: search.targets"
    targets = sorted(target.ms(*table.range_ms, place) for target in cfg.search.targets)
    return targets[len(targets) // 2]


class TimedCheckpoint:
    """A stage's checkpoint with a prefix to its names, which counts the CPU seconds of the saved work, also across a kill."""

    def __init__(self, checkpoint: Checkpoint, prefix: str) -> None:
        self._checkpoint, self._prefix = checkpoint, prefix
        self._earlier_s, self._began = 0.0, time.process_time()
        self.cpu_seconds = 0.0  # of all threads, up to the last load or save

    def load(self, name: str) -> dict[str, Any] | None:
        """As `Checkpoint.load`."""
        state = self._checkpoint.load(self._prefix + name)
        if state is not None:
            self._earlier_s, self._began = state.pop("cpu_seconds"), time.process_time()
            self.cpu_seconds = self._earlier_s
        return state

    def save(self, state: dict[str, Any], name: str) -> None:
        """As `Checkpoint.save`."""
        self.cpu_seconds = self._earlier_s + time.process_time() - self._began
        self._checkpoint.save(state | {"cpu_seconds": self.cpu_seconds}, self._prefix + name)


@dataclass(frozen=True, eq=False)
class FinishedSearch:
    """A search after its last epoch."""

    search: Search
    cpu_seconds: float  # of the search and of the choice of its classes


class Searches:
    """Searches with varied parameters; each resumes from its last epoch, and none runs twice.

    The weights-only epochs depend on the seed and the classes only: searches that share both continue from the same state.
    """

    def __init__(self, cfg: tf_nas.TfNasParams, checkpoint: Checkpoint, run: StageRun) -> None:
        self._checkpoint, self._run = checkpoint, run
        self._history: list[dict[str, Any]] = []
        self.device, self.data = cfg.runtime.start(), open_dataset(runner.out("split"))
        self.table = latency_tf_nas.TfNasLatencyTable.load(tf_nas.TABLE, cfg.space, len(self.data.classes))  # of the first device
        self.target_ms = median_target(cfg, self.table)

    def search(self, name: str, cfg: tf_nas.TfNasParams) -> FinishedSearch:
        """For the median target, by TF-NAS's own table.

        Args:
            name: of the search, unique within the stage.
        """
        return self.search_on(name, cfg, self.table, self.target_ms)

    def search_on(self, name: str, cfg: tf_nas.TfNasParams, table: TfNasLatencyTable, target_ms: float) -> FinishedSearch:
        """For a target on any device; the searches of a seed within a stage share a table."""
        group = f"{cfg.seed}-{'all' if cfg.search.classes is None else 'chosen'}-"
        classes, choosing_s = self._classes(cfg, group)
        timed = TimedCheckpoint(self._checkpoint, group)
        search = Searcher(cfg, of_classes(self.data, classes), table, self.device, timed, self._run).search(name, target_ms)
        self._history += [{"name": name, **asdict(epoch)} for epoch in search.history]
        return FinishedSearch(search, choosing_s + timed.cpu_seconds)

    def write_history(self, out: Path) -> None:
        """history.csv of all searches, as TF-NAS's stage search writes it."""
        pd.DataFrame(self._history).to_csv(out / "history.csv", index=False, float_format="%.6g")

    def _classes(self, cfg: tf_nas.TfNasParams, group: str) -> tuple[np.ndarray, float]:
        """The classes to search on, and the CPU seconds of choosing them."""
        timed = TimedCheckpoint(self._checkpoint, group)
        if (state := timed.load("classes-chosen.pt")) is None:
            state = {"classes": torch.from_numpy(searched_classes(self.data, cfg, self.device, timed))}
            timed.save(state, "classes-chosen.pt")
        return state["classes"].numpy(), timed.cpu_seconds


def results_file(stage: str) -> Path:
    """The table of results of a stage."""
    return PIPELINE.out(stage) / "results.csv"


def reached(table: TfNasLatencyTable, choice: Arch, target_ms: float) -> dict[str, Any]:
    """Columns of a table of results: latency of a network by the table."""
    return {
        "target_latency_ms": target_ms,
        "table_latency_ms": table.latency_ms(choice),
        "step_latency_ms": next_step_ms(table, choice),
        "bounds_reached": bound(table, choice, target_ms) or "",
    }


def next_step_ms(table: TfNasLatencyTable, choice: Arch) -> float:
    """Latency that one more round of elasticity scaling adds: to the fewest last stages that can still grow; 0 if none can."""
    stages = range(len(table.space.stages))
    for first in reversed(stages):
        if (wider := step(table, choice, stages[first:], +1)) != choice:
            return table.latency_ms(wider) - table.latency_ms(choice)
    return 0.0


def agreement(a: Arch, b: Arch) -> tuple[float, float]:
    """Shares of the layers with the same operation, and of the stages with the same depth."""
    return _share_equal(a.operations, b.operations), _share_equal(a.depths, b.depths)


def _share_equal(a: Sequence[int], b: Sequence[int]) -> float:
    return float(np.mean([x == y for x, y in zip(a, b, strict=True)]))
