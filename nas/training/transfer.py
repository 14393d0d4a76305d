"""Networks fine-tuned on other data sets (AttentiveNAS, appendix G and Table 5).

On each data set every network is fine-tuned with every learning rate and weight decay on a share of the training images; the
hold-out, the other images, chooses setting and network. That one is fine-tuned again on all training images and then sees the
test images, once.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from pydantic import Field, field_validator

from nas.data.augmentation import Augmentation
from nas.data.dataset import ImageDataset
from nas.data.loader import EvaluationBatches, TrainingBatches
from nas.data.splits import hold_out
from nas.evaluation.evaluate import Evaluation, calibrate, top1, whole_batches
from nas.models.extract import Network
from nas.runtime.checkpoint import Checkpoint
from nas.runtime.params import Section
from nas.runtime.progress import progress
from nas.training.finetune import FineTuningConfig, Hyperparameters, fine_tune, replace_classifier
from nas.training.recipe import Runtime

COLUMNS = ("mflops", "learning_rate", "weight_decay", "top1_holdout")


class Transfer(Section):
    """Section `transfer`."""

    models: Annotated[int, Field(ge=1)]  # from the cheapest to the most expensive; 1: the most expensive
    learning_rates: Annotated[tuple[float, ...], Field(min_length=1)]
    weight_decays: Annotated[tuple[float, ...], Field(min_length=1)]
    holdout: Annotated[float, Field(gt=0, lt=1)]  # of the training images, to choose on
    fine_tuning: FineTuningConfig
    augmentation: dict[str, Augmentation]  # by data set, e.g. no flips for letters; `default` for those not named

    @field_validator("augmentation")
    @classmethod
    def _has_a_default(cls, augmentation: dict[str, Augmentation]) -> dict[str, Augmentation]:
        if "default" not in augmentation:
            raise ValueError("the entry `default` is missing")
        return augmentation

    def augmentation_of(self, key: str) -> Augmentation:
        """The augmentation of a data set."""
        return self.augmentation.get(key, self.augmentation["default"])


def evenly_by_cost(entries: Sequence[dict], n: int) -> list[dict]:
    """n entries from the cheapest to the most expensive; the most expensive is always included.

    Args:
        entries: from the cheapest to the most expensive.
    """
    indices = np.linspace(len(entries) - 1, 0, min(n, len(entries))).round().astype(int)
    return [entries[i] for i in sorted(set(indices.tolist()))]


def normalised_as(data: ImageDataset, source: ImageDataset) -> ImageDataset:
    """The data set, normalised with the statistics of the one that the network was trained on."""
    return replace(data, mean=source.mean, std=source.std)


def transfer(
    cfg: Transfer,
    keys: Sequence[str],
    read: Callable[[str], ImageDataset],
    entries: Sequence[dict],
    load: Callable[[dict], Network],
    tuner: "Tuner",
    column: str,
) -> tuple[pd.DataFrame, dict[str, Network]]:
    """Fine-tune every entry on every data set with every setting, then the best one of each data set on all training images.

    A setting whose fine-tuning diverges counts as 0 %.

    Args:
        keys: of the data sources.
        read: a data set by its key, normalised as for the networks.
        entries: with name and mflops.
        load: a new copy of an entry's network.
        column: of the results that holds the entry's name.

    Returns:
        A row for each fine-tuning on the hold-out: set, `column`, mflops, learning_rate, weight_decay, top1_holdout, top1_test (percent;
        NaN but for the best of each data set), best. And the best network of each data set, calibrated.
    """
    settings = [Hyperparameters(*pair) for pair in product(cfg.learning_rates, cfg.weight_decays)]
    jobs = [(key, entry, setting) for key in keys for entry in entries for setting in settings]
    rows, networks = [], {}
    for key, entry, setting in progress(jobs, "transfer: fine-tunings on the hold-out", len(jobs)):
        data = read(key)
        fit, held_out = (np.sort(items) for items in hold_out(data.indices("train"), data.labels, cfg.holdout, tuner.seed))
        try:
            reached = tuner.top1(f"{key}/{entry['name']}/{setting}/hold-out", load(entry), data, fit, held_out, setting)
        except FloatingPointError as error:
            print(f"{key}, {entry['name']}: {error}; counted as 0 %", flush=True)
            reached = 0.0
        rows.append({"set": key, column: entry["name"], "mflops": entry["mflops"], **vars(setting), "top1_holdout": reached})
    results = pd.DataFrame(rows, columns=["set", column, *COLUMNS]).assign(top1_test=np.nan, best=False)
    for key in progress(keys, "transfer: chosen networks on all training images", len(keys)):
        index = results[results["set"] == key]["top1_holdout"].idxmax()
        best, data = results.loc[index], read(key)
        networks[key] = load(next(e for e in entries if e["name"] == best[column]))
        setting = Hyperparameters(float(best["learning_rate"]), float(best["weight_decay"]))
        tested = tuner.top1(f"{key}/chosen", networks[key], data, data.indices("train"), data.indices("test"), setting)
        results.loc[index, ["top1_test", "best"]] = tested, True
    return results.assign(best=results["best"].astype(bool)), networks


class Tuner:
    """Fine-tunes, calibrates and evaluates; the stage's checkpoint remembers finished jobs."""

    def __init__(
        self, cfg: Transfer, seed: int, runtime: Runtime, device: torch.device, evaluation: Evaluation, checkpoint: Checkpoint
    ) -> None:
        self.seed = seed
        self._cfg, self._runtime, self._device, self._evaluation, self._checkpoint = cfg, runtime, device, evaluation, checkpoint
        self._state = checkpoint.load() or {"done": {}, "job": "", "run": None}
        self._done: dict[str, float] = self._state["done"]

    def top1(
        self, job: str, network: Network, data: ImageDataset, fit: np.ndarray, held_out: np.ndarray, setting: Hyperparameters
    ) -> float:
        """Top-1 (percent) on the held-out images after fine-tuning, in place; a finished job is not computed twice.

        The weights of a job `<set>/chosen` are stored with its result, since they are needed afterwards.
        """
        replace_classifier(network, len(data.classes), self.seed)
        chosen = job.endswith("/chosen")
        if job in self._done:
            if chosen:
                network.load_state_dict(self._checkpoint.load(_file(job))["weights"])
            return self._done[job]
        self._fine_tune(job, network, data, fit, setting)
        calibrate(network, (images for images, _ in self._runtime.to_device(self._calibration(data, fit), self._device)))
        batches = EvaluationBatches(data, held_out, self._evaluation.batch)
        result = top1(network, self._runtime.to_device(batches, self._device))
        if chosen:
            self._checkpoint.save({"weights": network.state_dict()}, _file(job))
        self._done[job] = result
        self._checkpoint.save({"done": self._done, "job": "", "run": None})
        return result

    def _fine_tune(self, job: str, network: Network, data: ImageDataset, fit: np.ndarray, setting: Hyperparameters) -> None:
        cfg, cuda = self._cfg.fine_tuning, self._device.type == "cuda"
        augmentation = self._cfg.augmentation_of(data.key)
        batches = TrainingBatches(data, fit, min(cfg.batch, len(fit)), augmentation, self.seed, self._runtime.workers, cuda)
        resumed = self._state["run"] if self._state["job"] == job else None

        def on_epoch(state: dict) -> None:
            self._checkpoint.save({"done": self._done, "job": job, "run": state})

        fine_tune(network, batches, setting, cfg, self.seed, self._runtime, self._device, resumed, on_epoch)

    def _calibration(self, data: ImageDataset, fit: np.ndarray) -> EvaluationBatches:
        batch = self._evaluation.batch
        n = whole_batches(min(len(fit), batch * self._evaluation.calibration_batches), batch)
        return EvaluationBatches(data, np.random.default_rng(self.seed).permutation(fit)[:n], batch)


def _file(job: str) -> str:
    return job.replace("/", "-") + ".pt"
