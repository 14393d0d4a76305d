"""HardCoRe-NAS's searches with one one-shot model, one target after the other, each resumable."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nas.cost.latency_hardcore_nas import ExpectedLatency
from nas.data.dataset import ImageDataset
from nas.differentiable.hardcore_nas import frank_wolfe
from nas.differentiable.hardcore_nas.frank_wolfe import SampledGradients, State
from nas.differentiable.hardcore_nas.one_shot import OneShot
from nas.differentiable.hardcore_nas.relaxed import RelaxedArch, max_entropy_start
from nas.runtime import seeding
from nas.runtime.checkpoint import Checkpoint
from nas.runtime.progress import progress
from nas.stages.hardcore_nas.config import HardcoreNasParams
from nas.stages.hardcore_nas.resumable_training import training_batches
from nas.tracking.runs import StageRun


@dataclass(frozen=True, eq=False)
class Search:
    """The state of the search for a target, and its history."""

    state: State
    rows: tuple[dict[str, Any], ...]  # of history.csv
    alpha: np.ndarray  # (rows, stages, blocks, configurations)
    beta: np.ndarray  # (rows, stages, blocks): of depths 1, 2, ...
    violation_ms: float  # the most that a step was above the target
    seconds: float

    def state_dict(self) -> dict[str, Any]:
        """The checkpoint's content."""
        mean = {"mean_alpha": self.state.mean.alpha, "mean_beta": self.state.mean.beta}
        arrays = {name: torch.from_numpy(array) for name, array in {"alpha": self.alpha, "beta": self.beta, **mean}.items()}
        return {**arrays, "rows": list(self.rows), "violation_ms": self.violation_ms, "seconds": self.seconds}

    @classmethod
    def from_state_dict(cls, state_dict: dict[str, Any]) -> "Search":
        """The search that `state_dict` was taken of."""
        alpha, beta, *mean = (state_dict[name].numpy() for name in ("alpha", "beta", "mean_alpha", "mean_beta"))
        rows = tuple(state_dict["rows"])
        state = State(rows[-1]["step"], RelaxedArch(alpha[-1], beta[-1]), RelaxedArch(*mean))
        return cls(state, rows, alpha, beta, state_dict["violation_ms"], state_dict["seconds"])

    @classmethod
    def begin(cls, relaxed: RelaxedArch, latency: ExpectedLatency, target_ms: float) -> "Search":
        """Before the first step."""
        ms = latency(relaxed)
        rows = ({"step": 0, "latency_ms": ms, "loss": None},)
        return cls(frank_wolfe.begin(relaxed), rows, relaxed.alpha[None], relaxed.beta[None], max(0.0, ms - target_ms), 0.0)


class Searcher:
    """Searches for one target after the other; the stage's checkpoint holds their states."""

    def __init__(
        self,
        cfg: HardcoreNasParams,
        model: OneShot,
        latency: ExpectedLatency,
        data: ImageDataset,
        items: np.ndarray,
        device: torch.device,
        checkpoint: Checkpoint,
        run: StageRun,
    ) -> None:
        """
        Args:
            items: images that the model was not trained on.
        """
        self._cfg, self._model, self._latency, self._data, self._items = cfg, model, latency, data, items
        self._device, self._checkpoint, self._run = device, checkpoint, run

    def search(self, name: str, target_ms: float) -> Search:
        """The finished search for a target."""
        cfg, state = self._cfg.search, self._checkpoint.load(f"{name}.pt")
        start = max_entropy_start(self._latency, target_ms, cfg.start)
        search = Search.from_state_dict(state) if state else Search.begin(start, self._latency, target_ms)
        steps, every = range(search.state.step, cfg.steps, cfg.record_every), cfg.record_every
        title = f"search: times {every} steps for {name}, {target_ms:.3g} ms"
        for _ in progress(steps, title, cfg.steps // every, search.state.step // every):
            search = self._advance(search, target_ms)
            self._checkpoint.save(search.state_dict(), f"{name}.pt")
            row = search.rows[-1]
            metrics = {"latency_ms": row["latency_ms"], "target_latency_ms": target_ms, "loss": row["loss"]}
            self._run.log({f"search/{name}/{key}": value for key, value in metrics.items()}, row["step"])
        return search

    def _advance(self, search: Search, target_ms: float) -> Search:
        """The search after the steps up to the next record."""
        began, cfg, seed, losses = time.monotonic(), self._cfg.search, self._cfg.seed, []
        batches = self._batches(search.state.step)
        sampled = SampledGradients(self._model, lambda step: next(batches), partial(seeding.generator, seed, "drawn"))

        def gradients(relaxed: RelaxedArch, step: int) -> RelaxedArch:
            gradient, loss = sampled.with_loss(relaxed, step)
            losses.append(loss)
            return gradient

        settings, last = frank_wolfe.FrankWolfeConfig(cfg.rate, cfg.momentum), search.state.step + cfg.record_every
        choose = partial(seeding.generator, seed, "alpha or beta")
        violation_ms = search.violation_ms
        for state in frank_wolfe.search(search.state, self._latency, target_ms, settings, last, gradients, choose):
            violation_ms = max(violation_ms, self._latency(state.relaxed) - target_ms)
        row = {"step": state.step, "latency_ms": self._latency(state.relaxed), "loss": float(np.mean(losses))}
        alpha, beta = (np.concatenate([a, b[None]]) for a, b in ((search.alpha, state.relaxed.alpha), (search.beta, state.relaxed.beta)))
        return Search(state, (*search.rows, row), alpha, beta, violation_ms, search.seconds + time.monotonic() - began)

    def _batches(self, step: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches for the steps from this one to the next record."""
        cfg = self._cfg.search
        n = cfg.record_every * cfg.batch
        chosen = seeding.generator(self._cfg.seed, "pictures", step).choice(self._items, n, replace=n > len(self._items))
        batches = training_batches(self._data, chosen, cfg.batch, "search.batch", self._cfg, self._device)
        return self._cfg.runtime.to_device(batches.epoch(step), self._device)


def outcome(search: Search, latency: ExpectedLatency, target_ms: float) -> dict[str, Any]:
    """The network that a search ends with, and how close to the target it and the search are."""
    arch = frank_wolfe.project(search.state.relaxed, latency, target_ms)
    ms = latency.of(arch)
    return {
        "arch": arch,
        "latency_ms": round(ms, 6),
        "expected_latency_ms": round(search.rows[-1]["latency_ms"], 6),
        "max_violation_ms": max(search.violation_ms, ms - target_ms),
    }
