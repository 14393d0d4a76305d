"""Stage search of TF-NAS: a network for each target latency, from a supernet trained on some of the classes.

TF-NAS (arXiv:2008.05314) and its supplement, section 2. The epochs of weights alone know no target, so all targets go on
from them; each then has a supernet of its own.

params   pipelines/tf_nas/params.yaml: seed, space, runtime, evaluation, search, train
reads    outputs/split/, latency/table.json
writes   search/searched.json         a target: name, target_latency_ms, operations, depths, widths, epochs
         search/history.csv           a target and epoch: `nas.differentiable.tf_nas.search.Epoch`
         search/architecture_parameters.npz         <name>_operations (epochs, layers, operations), <name>_sinks_<stage> (epochs, depth)
         search/architecture_parameters.png         the same as heat maps
         search/metrics.json          {"classes", "<name>_expected_latency_ms", "<name>_latency_ms", "<name>_same_operation"}
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from nas.cost import latency_tf_nas
from nas.cost.latency_tf_nas import TfNasLatencyTable
from nas.data import loader
from nas.data.dataset import open_dataset
from nas.differentiable.tf_nas.search import Search, sample_classes
from nas.differentiable.tf_nas.supernet import Supernet
from nas.models.blocks import RowNetwork
from nas.plots import heatmap
from nas.runtime import seeding
from nas.runtime.checkpoint import Checkpoint
from nas.runtime.progress import progress
from nas.spaces.tf_nas import Space
from nas.stages import split
from nas.stages.errors import user_errors
from nas.stages.pipelines import NAMES, divided
from nas.stages.runner import write_json
from nas.stages.scratch import Alone
from nas.stages.tf_nas import config
from nas.tracking.runs import StageRun


def main() -> None:
    s = config.read()
    parameters = s.sections("seed", "space", "runtime", "evaluation", "search", "train")
    with config.PIPELINE.stage("search", parameters) as (run, checkpoint, out):
        device, data = s.runtime.start(), open_dataset(split.OUT)
        table = latency_tf_nas.TfNasLatencyTable.load(config.TABLE, s.space, len(data.classes))
        place = f"{config.PIPELINE.parameters}: search.targets"
        targets = sorted(target.ms(*table.range_ms, place) for target in s.search.targets)
        classes = searched_classes(data, s, device, checkpoint)
        run.dataset(str(split.OUT / "splits.parquet"), "search", classes=[data.classes[i] for i in classes])
        searcher = Searcher(s, of_classes(data, classes), table, device, checkpoint, run)
        entries, rows, maps, arrays, metrics = [], [], [], {}, {"classes": len(classes)}
        for name, target_ms in zip(NAMES, targets):
            found = searcher.search(name, target_ms)
            choice = found.arch
            entries.append({"name": name, "target_latency_ms": round(target_ms, 6), **asdict(choice), "epochs": len(found.history)})
            rows += [{"name": name, **asdict(row)} for row in found.history]
            arrays[f"{name}_operations"] = np.stack(found.operations)
            arrays |= {f"{name}_sinks_{i}": np.stack(sinks) for i, sinks in enumerate(zip(*found.sinks))}
            maps.append(heat_maps(f"{name}: {target_ms:.3g} ms", s.space, found.operations, found.sinks))
            last = found.history[-1]
            metrics[f"{name}_expected_latency_ms"], metrics[f"{name}_latency_ms"] = last.expected_latency_ms, last.latency_ms
            metrics[f"{name}_same_operation"] = last.same_operation
        write_json(out / "searched.json", entries)
        pd.DataFrame(rows).to_csv(out / "history.csv", index=False)
        save_arrays(out / "architecture_parameters.npz", arrays)
        heatmap.draw(maps, "epoch", out / "architecture_parameters.png")
        run.artifact(out / "architecture_parameters.png")
        config.PIPELINE.finish(out, metrics, run)


def heat_maps(title: str, space: Space, operations: Sequence[np.ndarray], sinks: Sequence[Sequence[np.ndarray]]) -> heatmap.Panel:
    """Above the weights of each layer's operations, below those of each stage's depths.

    Args:
        operations: an epoch: (layers, operations).
        sinks: an epoch: a stage, (depth,).
    """
    names = [operation.name for operation in space.operations]
    layers = [
        heatmap.Heatmap(f"stage {place.stage + 1}, layer {place.index + 1}", names, weights)
        for place, weights in zip(space.layers, np.stack(operations).swapaxes(0, 1))
    ]
    depths = [
        heatmap.Heatmap(f"depth of stage {i + 1}", [str(1 + d) for d in range(len(stage[0]))], np.stack(stage))
        for i, stage in enumerate(zip(*sinks))
    ]
    return heatmap.Panel(title, range(1, 1 + len(operations)), [layers, depths])


def save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """As npz."""
    with open(path, "wb") as file:
        np.savez(file, **arrays)


def searched_classes(data: loader.ImageDataset, s: config.Settings, device: torch.device, checkpoint: Checkpoint) -> np.ndarray:
    """Classes to search on, ascending: one of each group of those that a trained network finds alike hard; or all."""
    if s.search.classes is None:
        return np.arange(len(data.classes))
    short = s.train.how.model_copy(update={"epochs": s.search.classes.epochs})
    training = s.train.model_copy(update={"how": short})
    alone = Alone(training, config.PIPELINE, s.seed, s.runtime, s.evaluation, device, checkpoint)
    items = data.indices("train")
    network = alone.trained("classes", RowNetwork(s.space.middle(), len(data.classes)), data, items)
    answers, labels = alone.answers(network, data, items), data.labels[items]
    accuracy = np.bincount(labels, answers == labels, len(data.classes)) / np.bincount(labels, minlength=len(data.classes))
    return sample_classes(accuracy, s.search.classes.number, seeding.generator(s.seed, "classes"))


def of_classes(data: loader.ImageDataset, classes: np.ndarray) -> loader.ImageDataset:
    """The training images of some classes, which are numbered anew."""
    number = np.full(len(data.classes), -1)
    number[classes] = np.arange(len(classes))
    return replace(data, images=Relabelled(data.images, number), classes=tuple(data.classes[i] for i in classes))


class Relabelled:
    """The same images with other labels; -1 for those that are left out."""

    def __init__(self, images, number: np.ndarray) -> None:
        self._images, self.labels = images, number[images.labels]

    def __len__(self) -> int:
        return len(self._images)

    def image(self, item: int):
        return self._images.image(item)


class Searcher:
    """Searches for one target after the other; what is done is kept in the stage's checkpoint."""

    def __init__(
        self,
        s: config.Settings,
        data: loader.ImageDataset,
        table: TfNasLatencyTable,
        device: torch.device,
        checkpoint: Checkpoint,
        run: StageRun,
    ) -> None:
        self._s, self._data, self._table, self._device, self._checkpoint, self._run = s, data, table, device, checkpoint, run
        items = data.indices("train")
        items = items[data.labels[items] >= 0]
        self._parts = divided(data, items, s.search.held_out, s.seed)

    def search(self, name: str, target_ms: float) -> Search:
        """The search for a target, at its end."""
        p, found = self._s.search.method, self._new()
        if (state := self._checkpoint.load(f"{name}.pt") or self._checkpoint.load("alone.pt")) is not None:
            found.load(state)
        left = range(len(found.history), p.epochs)
        for number in progress(left, f"search: epochs for {name}, {target_ms:.3g} ms", p.epochs, len(found.history)):
            if found.ended:
                break
            alone = number < p.weight_epochs
            row = found.epoch(None if alone else target_ms)
            self._checkpoint.save(found.state(), "alone.pt" if alone else f"{name}.pt")
            self._run.log({f"search/{name}/{key}": value for key, value in asdict(row).items() if key != "epoch"}, row.epoch)
            print(
                f"search {name}: epoch {row.epoch}: expected {row.expected_latency_ms:.3f} ms, strongest {row.latency_ms:.3f} ms",
                flush=True,
            )
        return found

    def _new(self) -> Search:
        s = self._s
        batches = [
            loader.TrainingBatches(
                self._data, part, s.search.method.batch, s.search.augmentation, s.seed, s.runtime.workers, self._device.type == "cuda"
            )
            for part in self._parts
        ]
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seeding.key(s.seed, "weights"))
            supernet = Supernet(s.space, len(self._data.classes))
        return Search(supernet, self._table, s.search.method, *batches, s.seed, s.runtime, self._device)


if __name__ == "__main__":
    user_errors(main)
