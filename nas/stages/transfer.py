"""Stage transfer: models of the family fine-tuned on other data sets (AttentiveNAS, appendix G and Table 5).

On each set every model is fine-tuned with every learning rate and weight decay on 80 % of the
training images; the other 20 %, the hold-out, choose the setting and the model. That one is
fine-tuned again on all training images and then sees the test images, once.

params   params.yaml: seed, space, runtime, evaluation, transfer
reads    outputs/split/, outputs/search/family.json, outputs/search/family/
writes   outputs/transfer/results.parquet   set, model, mflops, learning_rate, weight_decay, top1_holdout, top1_test, best
         outputs/transfer/weights/          <set>.safetensors: the chosen network, calibrated
         outputs/transfer/metrics.json      {"<set>_top1"}  percent, test, the chosen model
"""

from dataclasses import replace
from itertools import product
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from pydantic import Field, field_validator
from sklearn.model_selection import train_test_split

from nas.data import loader
from nas.data.dataset import dataset_keys, open_dataset
from nas.evaluation.evaluate import calibrate, top1
from nas.models.extract import Network
from nas.runtime import params
from nas.runtime.checkpoint import Checkpoint, save_weights
from nas.runtime.progress import progress
from nas.spaces import encoding
from nas.stages import runner, search, split
from nas.stages.errors import user_errors
from nas.training.finetune import FineTuning, Try, fine_tune, new_classifier

OUT = runner.OUTPUTS / "transfer"


class Transfer(params.Section):
    """Section `transfer`."""

    models: Annotated[int, Field(ge=1)]  # of the family, spread from the cheapest to the most expensive; 1: the most expensive
    learning_rates: Annotated[tuple[float, ...], Field(min_length=1)]
    weight_decays: Annotated[tuple[float, ...], Field(min_length=1)]
    holdout: Annotated[float, Field(gt=0, lt=1)]  # of the training images, to choose on
    fine_tuning: FineTuning
    augmentation: dict[str, loader.Augmentation]  # by set, e.g. no flips for letters; `default` for those not named

    @field_validator("augmentation")
    @classmethod
    def _default_is_there(cls, found: dict[str, loader.Augmentation]) -> dict[str, loader.Augmentation]:
        if "default" not in found:
            raise ValueError("the entry `default` is missing")
        return found

    def augmentation_of(self, key: str) -> loader.Augmentation:
        return self.augmentation.get(key, self.augmentation["default"])


def main() -> None:
    p = params.read("transfer", Transfer)
    _, runtime, evaluation = runner.shared()
    seed, space = runner.seed(), runner.search_space()
    sections = {"seed": seed, "space": space.name, "runtime": runtime, "evaluation": evaluation, "transfer": p}
    with runner.stage("transfer", sections) as (run, checkpoint):
        device = runtime.start()
        main_set, *sets = dataset_keys(split.OUT)
        source = open_dataset(split.OUT, main_set)
        entries = spread(encoding.read_family(search.OUT / "family.json"), p.models)
        settings = [Try(*pair) for pair in product(p.learning_rates, p.weight_decays)]
        tuner = Tuner(p, seed, runtime, device, evaluation, checkpoint)

        jobs = [(key, entry, setting) for key in sets for entry in entries for setting in settings]
        rows, metrics = [], {}
        for key, entry, setting in progress(jobs, "transfer: fine-tunings on the hold-out", len(jobs)):
            data = like(open_dataset(split.OUT, key), source)
            fit, held_out = holdout(data, p.holdout, seed)
            network = search.load_model(entry, space, len(source.classes))
            try:
                held = tuner.top1(f"{key}/{entry['name']}/{setting}/hold-out", network, data, fit, held_out, setting)
            except FloatingPointError as error:
                print(f"{key}, {entry['name']}: {error}; counted as 0 %", flush=True)
                held = 0.0
            rows.append({"set": key, "model": entry["name"], "mflops": entry["mflops"], **vars(setting), "top1_holdout": held})
        columns = ["set", "model", "mflops", "learning_rate", "weight_decay", "top1_holdout"]
        results = pd.DataFrame(rows, columns=columns).assign(top1_test=np.nan, best=False)
        (OUT / "weights").mkdir(exist_ok=True)  # there without transfer sets, too
        for key in progress(sets, "transfer: chosen networks on all training images", len(sets)):
            best = results[results["set"] == key]["top1_holdout"].idxmax()
            chosen = results.loc[best]
            data = like(open_dataset(split.OUT, key), source)
            entry = next(e for e in entries if e["name"] == chosen["model"])
            network = search.load_model(entry, space, len(source.classes))
            setting = Try(float(chosen["learning_rate"]), float(chosen["weight_decay"]))
            tested = tuner.top1(f"{key}/chosen", network, data, data.indices("train"), data.indices("test"), setting)
            results.loc[best, ["top1_test", "best"]] = tested, True
            save_weights(OUT / "weights" / f"{key}.safetensors", network)
            metrics[f"{key}_top1"] = tested
            run.dataset("outputs/split/splits.parquet", f"transfer {key}", images=len(data.indices("train")))
        results["best"] = results["best"].astype(bool)
        results.to_parquet(OUT / "results.parquet", index=False)
        run.table(results, "results.json")
        runner.finish("transfer", metrics, run)


def spread(entries: list[dict], n: int) -> list[dict]:
    """n models from the cheapest to the most expensive, the most expensive always among them."""
    places = np.linspace(len(entries) - 1, 0, min(n, len(entries))).round().astype(int)
    return [entries[i] for i in sorted(set(places.tolist()))]


def like(data: loader.ImageDataset, source: loader.ImageDataset) -> loader.ImageDataset:
    """The data, normalised as the images that the network was trained on."""
    return replace(data, mean=source.mean, std=source.std)


def holdout(data: loader.ImageDataset, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Training images to fit to and to choose on, stratified, by seed."""
    items = data.indices("train")
    fit, held_out = train_test_split(items, test_size=fraction, random_state=seed, stratify=data.labels[items])
    return np.sort(fit), np.sort(held_out)


class Tuner:
    """Fine-tune, calibrate, count; remembers what is done in the stage's checkpoint."""

    def __init__(
        self,
        p: Transfer,
        seed: int,
        runtime: runner.Runtime,
        device: torch.device,
        evaluation: runner.Evaluation,
        checkpoint: Checkpoint,
    ) -> None:
        self.p, self.how, self.seed, self.runtime, self.device = p, p.fine_tuning, seed, runtime, device
        self.evaluation, self.checkpoint = evaluation, checkpoint
        state = checkpoint.load() or {"done": {}, "job": "", "run": None}
        self.done: dict[str, float] = state["done"]
        self._state = state

    def top1(self, job: str, network: Network, data: loader.ImageDataset, fit: np.ndarray, held_out: np.ndarray, setting: Try) -> float:
        """Top-1 (percent) on the held-out images after fine-tuning, in place; not computed twice.

        The weights of the job `<set>/chosen` are needed afterwards and so are kept with its result.
        """
        new_classifier(network, len(data.classes), self.seed)
        keeps = job.endswith("/chosen")
        if job in self.done:
            if keeps:
                network.load_state_dict(self.checkpoint.load(_file(job))["weights"])
            return self.done[job]
        batches = loader.TrainingBatches(
            data,
            fit,
            min(self.how.batch, len(fit)),
            self.p.augmentation_of(data.key),
            self.seed,
            self.runtime.workers,
            self.device.type == "cuda",
        )
        resumed = self._state["run"] if self._state["job"] == job else None

        def on_epoch(state: dict) -> None:
            self.checkpoint.save({"done": self.done, "job": job, "run": state})

        fine_tune(network, batches, setting, self.how, self.seed, self.runtime, self.device, resumed, on_epoch)
        most = self.evaluation.batch * self.evaluation.calibration_batches
        n = runner.whole_batches(min(len(fit), most), self.evaluation.batch)
        known = loader.EvaluationBatches(data, np.random.default_rng(self.seed).permutation(fit)[:n], self.evaluation.batch)
        calibrate(network, (b.images.to(self.device, memory_format=self.runtime.memory_format) for b in known))
        test = loader.EvaluationBatches(data, held_out, self.evaluation.batch)
        result = top1(
            network, ((b.images.to(self.device, memory_format=self.runtime.memory_format), b.labels.to(self.device)) for b in test)
        )
        if keeps:
            self.checkpoint.save({"weights": network.state_dict()}, _file(job))
        self.done[job] = result
        self.checkpoint.save({"done": self.done, "job": "", "run": None})
        return result


def _file(job: str) -> str:
    return job.replace("/", "-") + ".pt"


if __name__ == "__main__":
    user_errors(main)
