"""What a stage writes to: its MLflow run, or a note in the outbox while MLflow does not answer.

Every method adds to the note and delivers it at once. If MLflow is away, the note is saved and delivered when MLflow answers
again: while the stage runs, when the next stage starts, or by `python -m nas.tracking deliver`.
"""

import math
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.tracking.delivery import DESCRIPTION, RunIds, deliver, deliver_all
from nas.tracking.outbox import Note
from nas.tracking.store import Store, TrackingError, is_away

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import torch

FRONT_METRICS = ("top1", "latency_ms", "mflops", "parameters")  # metrics of a network, the same in every method
FIRST_PAUSE, LONGEST_PAUSE = 5.0, 300.0  # seconds between two attempts to deliver; every pause is twice the one before
_EPOCH = time.time() - time.monotonic()  # within a process, times never go back, though the clock may


def now_ms() -> int:
    """Milliseconds since 1970, as MLflow counts."""
    return int(1000 * (_EPOCH + time.monotonic()))


class StageRun:
    """The MLflow run of a stage.

    Args:
        note: what MLflow lacks; empty.
        inputs: path -> md5 of the stage's dependencies.
        system_metrics: start MLflow's thread that records CPU, memory, disk, network and GPU.
    """

    def __init__(self, store: Store, note: Note, inputs: Mapping[str, str], system_metrics: bool) -> None:
        self.inputs = inputs
        self._store, self._note = store, note
        self._shares = note.spec["shares"]
        self._pause, self._next_attempt = FIRST_PAUSE, -math.inf  # seconds; by time.monotonic
        self._announced = False
        self._system_metrics, self._monitor = system_metrics, None
        self._models = 0

    @property
    def _ids(self) -> RunIds:
        return RunIds(**self._note.ids)

    @property
    def id(self) -> str:
        """The run's; "" until MLflow has answered."""
        return self._ids.run

    @property
    def parent_id(self) -> str:
        """The parent run's; "" until MLflow has answered."""
        return self._ids.parent

    @property
    def resumed(self) -> bool:
        """True: the run holds what an interrupted start wrote."""
        return self._ids.resumed

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Metrics of one step (an epoch, a number of evaluations); on the disk when this returns."""
        self._write(curves=_points(metrics, step))

    def summary(self, metrics: Mapping[str, float], stage: str) -> None:
        """Final metrics as `<stage>/<key>`, on this run and, if it shares them, on the parent, where pipelines are compared.

        A metric that this run has as a curve is not repeated.
        """
        points = _points({f"{stage}/{key}": value for key, value in metrics.items()}, 0)
        self._write(finals=points, parent_metrics=points)

    def front(self, networks: Iterable[Mapping[str, Any]]) -> None:
        """Networks as curves `front/<metric>` for FRONT_METRICS, one step per network: charts show the fronts of several runs together."""
        for step, network in enumerate(networks):
            self.log({f"front/{name}": network[name] for name in FRONT_METRICS if name in network}, step)

    def artifact(self, path: str | Path, folder: str | None = None) -> None:
        """A file, or a folder with its contents.

        Raises:
            FileNotFoundError: if there is none.
        """
        if not Path(path).exists():
            raise FileNotFoundError(f"{path} does not exist; it can't be logged as an artifact")
        self._write(artifacts=[{"path": str(path), "folder": folder}])

    def table(self, frame: "pd.DataFrame", name: str) -> None:
        """A table, shown by MLflow's UI; `name` ends in .json. A second one of that name replaces the first."""
        self._write(tables=[{"text": frame.to_json(orient="split", index=False), "name": name}])

    def dataset(self, path: str, context: str, digest: str | None = None, **facts: Any) -> None:
        """Data that the stage uses, with its md5 in DVC.

        Args:
            path: as in dvc.yaml.
            context: what for, e.g. "training".
            digest: only for data that the stage does not depend on.
            facts: tags, e.g. images=6000.

        Raises:
            ValueError: without a digest, if the stage does not depend on the path.
        """
        from mlflow.data.dataset_source_registry import resolve_dataset_source
        from mlflow.data.meta_dataset import MetaDataset

        digest = digest if digest is not None else self.inputs.get(path)
        if digest is None:
            raise ValueError(f"{path} is not among the stage's deps in dvc.yaml: {sorted(self.inputs)}")
        with warnings.catch_warnings(action="ignore"):  # "can be interpreted in multiple ways: local, local"
            source = resolve_dataset_source(str(Path(path).absolute()))
        tags = {key: str(value) for key, value in facts.items()} | {"mlflow.data.context": context}
        item = {"dataset": MetaDataset(source, name=path, digest=digest).to_dict(), "tags": tags}
        self._write(datasets=[item], parent_datasets=[item])

    def model(
        self,
        name: str,
        module: "torch.nn.Module",
        example: "np.ndarray",
        registered_name: str,
        alias: str,
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Log a network as pt2 (torch.export, no pickle) and register it.

        Args:
            name: of the logged model within the run.
            module: in eval mode; called with one tensor.
            example: (batch, channels, side, side); a batch of 1 would fix the batch size in the exported network.
            registered_name: in the registry; the model is loaded as `models:/<registered_name>@<alias>`.
            alias: moved to this version, but not in a DVC experiment (env DVC_EXP_NAME).
            metrics: linked to this model only.
            tags: put on the registered version.

        Raises:
            ValueError: for a module in training mode and for a batch of one.
        """
        import mlflow.pytorch
        import torch
        from mlflow.models import infer_signature

        if module.training:
            raise ValueError(f"model {name!r} is in training mode; call .eval() first, its batch norm would depend on the batch")
        if len(example) < 2:
            raise ValueError(f"model {name!r}: an example batch of {len(example)}; at least 2 are needed to leave the batch size free")
        with torch.no_grad():
            output = module(torch.from_numpy(example)).numpy()
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "model")
            mlflow.pytorch.save_model(
                module,
                path,
                serialization_format="pt2",
                input_example=example,
                signature=infer_signature(example, output),
                pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}"],
            )
            points = _points(metrics or {}, self._models)
            facts = {"name": name, "registered_name": registered_name, "tags": dict(tags or {}), "metrics": points}
            facts["alias"] = None if "DVC_EXP_NAME" in os.environ else alias
            self._write(models=[facts | {"path": path, "step": self._models}])
        self._models += 1

    def tag(self, **tags: str) -> None:
        self._write(tags=list(tags.items()))

    def params(self, parameters: Mapping[str, str]) -> None:
        """Those that the run has already stay: MLflow never changes one."""
        self._write(params=list(parameters.items()), parent_params=list(parameters.items()))

    def open(self) -> None:
        """Deliver what ended stages left; make the run, or resume it.

        Raises:
            TrackingError: if the store can't be used and never answered this project.
        """
        store = self._store
        try:
            if store.file is not None and not store.file.exists() and store.was_reached():
                print(f"{store.file} is missing: a new one is made", file=sys.stderr, flush=True)
            store.reach(create=True)
            deliver_all(store)
            deliver(self._note, store)
            self._watch()
        except Exception as error:  # many kinds: sqlite3, sqlalchemy, urllib, mlflow
            if not (is_away(error) and store.was_reached()):
                raise TrackingError(f"can't use the MLflow store: {store.source}: {error}") from error
            self._save(error)
        else:
            store.note_reached()

    def share(self, parameters: Mapping[str, str], metrics: Mapping[str, float], description: str) -> None:
        """What the parent holds of stages that DVC did not run."""
        tags = [(DESCRIPTION, description)]
        self._write(parent_params=list(parameters.items()), parent_metrics=_points(metrics, 0), parent_tags=tags)

    def end(self, status: str, seconds: float) -> None:
        """End the run; a last attempt to deliver what waits."""
        self._stop_watching()
        self._system_metrics = False
        try:
            self._write(end=[{"status": status, "seconds": seconds, "end_ms": now_ms()}])
        except OSError as error:  # the disk is full, and the stage's own error says more
            print(f"MLflow does not learn how {self._note.spec['name']} ended: {error}", file=sys.stderr, flush=True)
        if self._note.saved and (status != "FINISHED" or not self._attempt()):
            text = f"records for MLflow wait in {self._note.folder}: the next stage delivers them, or `python -m nas.tracking deliver`"
            print(text, file=sys.stderr, flush=True)
        self._note.close()

    def _save(self, error: Exception) -> None:
        """Save the note; say once that MLflow does not answer, then try less and less often."""
        self._note.save()
        if not self._announced:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            text = f"MLflow does not answer ({reason}); {self._note.spec['name']} goes on, its records wait in {self._note.folder}"
            print(text, file=sys.stderr, flush=True)
            self._announced = True
        self._next_attempt = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def _write(self, **items: list) -> None:
        """Add items by kind (see `delivery.WRITERS`) and deliver them, or save them while MLflow is away."""
        kinds = {kind.replace("_", " "): some for kind, some in items.items() if self._shares or not kind.startswith("parent_")}
        pending = self._note.pending
        for kind, some in kinds.items():
            pending[kind] = [*pending.get(kind, []), *some]
        if not self._note.saved:
            self._deliver()
            return
        self._note.save()
        if time.monotonic() >= self._next_attempt:
            self._attempt()

    def _deliver(self) -> bool:
        try:
            deliver(self._note, self._store)
        except Exception as error:
            if not is_away(error):
                raise
            self._save(error)
            return False
        return True

    def _attempt(self) -> bool:
        """Deliver all that waits; False if MLflow is still away."""
        if not self._deliver():
            return False
        self._note.clear()
        self._pause, self._announced = FIRST_PAUSE, False
        self._watch()
        print(f"MLflow answers again: the records of {self._note.spec['name']} are delivered", flush=True)
        return True

    def _watch(self) -> None:
        """Start MLflow's thread for system metrics; it ends by itself when MLflow does not answer."""
        if not self._system_metrics:
            return
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        self._stop_watching()
        self._monitor = SystemMetricsMonitor(self.id, resume_logging=True)
        self._monitor.start()

    def _stop_watching(self) -> None:
        if self._monitor:
            self._monitor.finish()
            self._monitor = None


class SilentRun(StageRun):
    """The run of the ranks other than 0: nothing is written."""

    id = parent_id = ""
    resumed = False

    def __init__(self) -> None:
        self.inputs = {}

    def log(self, *args, **kwargs) -> None: ...

    summary = front = artifact = table = dataset = model = tag = log


def _points(metrics: Mapping[str, float], step: int) -> list[list]:
    """Key, value, time in ms and step of every metric."""
    return [[key, float(value), now_ms(), step] for key, value in metrics.items()]
