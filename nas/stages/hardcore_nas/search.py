"""Stage search of HardCoRe-NAS: a network for each target latency, all from one one-shot model.

HardCoRe-NAS (arXiv:2102.11646), Algorithm 1 and Appendix E: an even start within the target, Frank-Wolfe steps by the loss of
drawn networks on images that the model has not seen, the way back to a network. The latency is within the target all along.

params   pipelines/hardcore_nas/params.yaml: seed, space, runtime, images, search
reads    outputs/split/, latency/table.json, train/weights.safetensors, train/metrics.json (seconds)
writes   search/searched.json      a target: name, target_latency_ms, arch (a stage: its blocks' configurations), latency_ms (of that,
                                   by the table), expected_latency_ms (of what the search ended with), max_violation_ms (the most
                                   that any step or the network is above the target, by the table)
         search/history.csv        a target, every so many steps: name, step, latency_ms (expected), target_latency_ms, loss (of the
                                   networks drawn since, mean, nats; none at the start)
         search/architecture_parameters.npz      <name>_alpha (times, stages, blocks, configurations), <name>_beta (times, stages, depths)
         search/architecture_parameters.png      the same as heat maps
         search/metrics.json       {"<name>_expected_latency_ms", "<name>_latency_ms", "<name>_max_violation_ms", "<name>_seconds",
                                   "seconds_a_target" (what one more takes), "seconds_shared" (what the one-shot model took)}
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from nas.cost import latency_hardcore_nas
from nas.cost.latency_hardcore_nas import ExpectedLatency
from nas.data import loader
from nas.data.dataset import open_dataset
from nas.differentiable.hardcore_nas import frank_wolfe
from nas.differentiable.hardcore_nas.frank_wolfe import State
from nas.differentiable.hardcore_nas.gradients import DrawnGradients
from nas.differentiable.hardcore_nas.one_shot import OneShot
from nas.differentiable.hardcore_nas.relaxed import Point
from nas.differentiable.hardcore_nas.start import balanced
from nas.plots import heatmap
from nas.runtime import seeding
from nas.runtime.checkpoint import Checkpoint, load_weights
from nas.runtime.io import read_json
from nas.runtime.progress import progress
from nas.spaces.hardcore_nas import Space
from nas.stages import split
from nas.stages.errors import user_errors
from nas.stages.hardcore_nas import config
from nas.stages.hardcore_nas.train import WEIGHTS
from nas.stages.pipelines import NAMES, divided, placed
from nas.stages.runner import write_json
from nas.tracking.runs import StageRun

SHARED = config.PIPELINE.outputs / "train" / "metrics.json"


def main() -> None:
    s = config.read()
    with config.PIPELINE.stage("search", s.sections("seed", "space", "runtime", "images", "search")) as (run, checkpoint, out):
        device, data = s.runtime.start(), open_dataset(split.OUT)
        latency = latency_hardcore_nas.HardcoreNasLatencyTable.load(config.TABLE, s.space, len(data.classes)).expected
        place = f"{config.PIPELINE.parameters}: search.targets"
        targets = sorted(target.ms(*latency.range_ms, place) for target in s.search.targets)
        shared = seconds(read_json(SHARED))
        model = OneShot(s.space, len(data.classes))
        load_weights(WEIGHTS, model)
        model.to(device, memory_format=s.runtime.memory_format)
        _, items = divided(data, data.indices("train"), s.images.held_out, s.seed)
        run.dataset(str(split.OUT / "splits.parquet"), "search", images=len(items))
        searcher = Searcher(s, model, latency, data, items, device, checkpoint, run)
        entries, rows, maps, arrays, metrics = [], [], [], {}, {}
        for name, target_ms in zip(NAMES, targets):
            found = searcher.search(name, target_ms)
            end = outcome(found, latency, target_ms)
            entries.append({"name": name, "target_latency_ms": round(target_ms, 6), **end})
            rows += [{"name": name, "target_latency_ms": round(target_ms, 6), **row} for row in found.rows]
            arrays |= {f"{name}_alpha": found.alpha, f"{name}_beta": found.beta}
            maps.append(heat_maps(f"{name}: {target_ms:.3g} ms", s.space, latency, found))
            metrics |= {f"{name}_{key}": end[key] for key in ("expected_latency_ms", "latency_ms", "max_violation_ms")}
            metrics[f"{name}_seconds"] = found.seconds
        write_json(out / "searched.json", entries)
        pd.DataFrame(rows).to_csv(out / "history.csv", index=False)
        np.savez(out / "architecture_parameters.npz", **arrays)
        heatmap.draw(maps, "step", out / "architecture_parameters.png")
        run.artifact(out / "architecture_parameters.png")
        metrics["seconds_a_target"] = float(np.mean([metrics[f"{entry['name']}_seconds"] for entry in entries]))
        config.PIPELINE.finish(out, {**metrics, "seconds_shared": shared}, run)


@dataclass(frozen=True, eq=False)
class Search:
    """How far the search for a target is."""

    state: State
    rows: tuple[dict[str, Any], ...]  # of history.csv
    alpha: np.ndarray  # (rows, stages, blocks, configurations)
    beta: np.ndarray  # (rows, stages, blocks): of depths 1, 2, ...
    violation_ms: float  # the most that a step was above the target
    seconds: float

    def kept(self) -> dict[str, Any]:
        """For a checkpoint."""
        mean = {"mean_alpha": self.state.mean.alpha, "mean_beta": self.state.mean.beta}
        arrays = {name: torch.from_numpy(array) for name, array in {"alpha": self.alpha, "beta": self.beta, **mean}.items()}
        return {**arrays, "rows": list(self.rows), "violation_ms": self.violation_ms, "seconds": self.seconds}

    @classmethod
    def of(cls, kept: dict[str, Any]) -> "Search":
        """What `kept` gave."""
        alpha, beta, *mean = (kept[name].numpy() for name in ("alpha", "beta", "mean_alpha", "mean_beta"))
        rows = tuple(kept["rows"])
        state = State(rows[-1]["step"], Point(alpha[-1], beta[-1]), Point(*mean))
        return cls(state, rows, alpha, beta, kept["violation_ms"], kept["seconds"])

    @classmethod
    def begin(cls, point: Point, latency: ExpectedLatency, target_ms: float) -> "Search":
        """Before the first step."""
        ms = latency(point)
        rows = ({"step": 0, "latency_ms": ms, "loss": None},)
        return cls(frank_wolfe.begin(point), rows, point.alpha[None], point.beta[None], max(0.0, ms - target_ms), 0.0)


class Searcher:
    """Searches for one target after the other; what is done is kept in the stage's checkpoint."""

    def __init__(
        self,
        s: config.Settings,
        model: OneShot,
        latency: ExpectedLatency,
        data: loader.ImageDataset,
        items: np.ndarray,
        device: torch.device,
        checkpoint: Checkpoint,
        run: StageRun,
    ) -> None:
        """
        Args:
            items: images that the model was not trained on.
        """
        self._s, self._model, self._latency, self._data, self._items = s, model, latency, data, items
        self._device, self._checkpoint, self._run = device, checkpoint, run

    def search(self, name: str, target_ms: float) -> Search:
        """The search for a target, at its end."""
        p, kept = self._s.search, self._checkpoint.load(f"{name}.pt")
        start = balanced(self._latency, target_ms, p.start)
        found = Search.of(kept) if kept else Search.begin(start, self._latency, target_ms)
        parts = range(found.state.step, p.steps, p.every)
        done = found.state.step // p.every
        for _ in progress(parts, f"search: times {p.every} steps for {name}, {target_ms:.3g} ms", p.steps // p.every, done):
            found = self._part(found, target_ms)
            self._checkpoint.save(found.kept(), f"{name}.pt")
            row = found.rows[-1]
            figures = {"latency_ms": row["latency_ms"], "target_latency_ms": target_ms, "loss": row["loss"]}
            self._run.log({f"search/{name}/{key}": value for key, value in figures.items()}, row["step"])
        return found

    def _part(self, found: Search, target_ms: float) -> Search:
        """The next steps, up to the next record."""
        began, p, seed, losses = time.monotonic(), self._s.search, self._s.seed, []
        images = self._images(found.state.step)
        drawn = DrawnGradients(self._model, lambda step: next(images), partial(seeding.generator, seed, "drawn"))

        def gradients(point: Point, step: int) -> Point:
            gradient, loss = drawn.with_loss(point, step)
            losses.append(loss)
            return gradient

        settings, last = frank_wolfe.Settings(p.rate, p.momentum), found.state.step + p.every
        choose = partial(seeding.generator, seed, "alpha or beta")
        violation_ms = found.violation_ms
        for state in frank_wolfe.search(found.state, self._latency, target_ms, settings, last, gradients, choose):
            violation_ms = max(violation_ms, self._latency(state.point) - target_ms)
        row = {"step": state.step, "latency_ms": self._latency(state.point), "loss": float(np.mean(losses))}
        alpha, beta = (np.concatenate([a, b[None]]) for a, b in ((found.alpha, state.point.alpha), (found.beta, state.point.beta)))
        return Search(state, (*found.rows, row), alpha, beta, violation_ms, found.seconds + time.monotonic() - began)

    def _images(self, step: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches for the steps up to the next record, by the number of the first."""
        p, n = self._s.search, self._s.search.every * self._s.search.batch
        chosen = seeding.generator(self._s.seed, "pictures", step).choice(self._items, n, replace=n > len(self._items))
        batches = config.batches(self._data, chosen, p.batch, "search.batch", self._s, self._device)
        return placed(batches.epoch(step), self._s.runtime, self._device)


def outcome(found: Search, latency: ExpectedLatency, target_ms: float) -> dict[str, Any]:
    """The network that a search comes to, and how near to the target it and the search are."""
    arch = frank_wolfe.project(found.state.point, latency, target_ms)
    ms = latency.of(arch)
    return {
        "arch": arch,
        "latency_ms": round(ms, 6),
        "expected_latency_ms": round(found.rows[-1]["latency_ms"], 6),
        "max_violation_ms": max(found.violation_ms, ms - target_ms),
    }


def seconds(found: object) -> float:
    """Of the metrics of stage train.

    Raises:
        DocumentError: if there are none.
    """
    try:
        return float(found["seconds"])
    except (TypeError, KeyError, ValueError) as error:
        raise config.PIPELINE.damaged(SHARED, error, "train") from None


def heat_maps(title: str, space: Space, latency: ExpectedLatency, found: Search) -> heatmap.Panel:
    """Above the weights of each stage's depths, below those of each block's configurations, from the fastest (Figure 7)."""
    order = latency.blocks_ms.sum((0, 1)).argsort()
    names = [f"{c.expansion} {c.kernel}x{c.kernel}{' se' if c.se else ''}" for c in (space.configurations[i] for i in order)]
    depths = [
        heatmap.Heatmap(f"depth of {stage.name}", [str(d) for d in stage.depths], found.beta[:, s][:, np.array(stage.depths) - 1])
        for s, stage in enumerate(space.stages)
    ]
    blocks = [
        heatmap.Heatmap(f"{stage.name}, block {1 + b}", names, found.alpha[:, s, b][:, order])
        for s, stage in enumerate(space.stages)
        for b in range(stage.depths[-1])
    ]
    return heatmap.Panel(title, [row["step"] for row in found.rows], [depths, blocks])


if __name__ == "__main__":
    user_errors(main)
