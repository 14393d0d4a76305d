"""Stage train of HardCoRe-NAS: the weights of the one-shot model (sections 3.3 and 4.2.2).

First the largest network is trained by itself and its channels are sorted; then all networks are trained, one per image, with a
copy of the largest one as teacher. The search's images are held out. Batch norms keep running statistics, as in the paper.

params   pipelines/hardcore_nas/params.yaml: seed, space, runtime, evaluation, images, train
reads    outputs/split/
writes   train/weights.safetensors   of the one-shot model
         train/teacher.safetensors   of the largest network by itself
         train/history.csv           training ("largest" or "multi_path"), epoch, loss (mean, nats)
         train/metrics.json          {"teacher_top1" and "largest_top1" (percent, validation split: the largest network
                                     before and after all networks are trained), "seconds"}
"""

import copy
import time

import numpy as np
import pandas as pd
import torch

from nas.data.dataset import ImageDataset, open_dataset
from nas.data.loader import EvaluationBatches
from nas.data.splits import hold_out
from nas.differentiable.hardcore_nas.one_shot import OneShot, extract, sort_channels
from nas.differentiable.hardcore_nas.training import Loss, importance, largest_loss, multi_path_loss
from nas.evaluation.evaluate import top1
from nas.runtime import seeding
from nas.runtime.checkpoint import Checkpoint, save_weights
from nas.stages import runner
from nas.stages.hardcore_nas import config
from nas.stages.hardcore_nas.config import HardcoreNasParams
from nas.stages.hardcore_nas.resumable_training import Trainer


def main() -> None:
    cfg = config.read()
    parameters = cfg.sections("seed", "space", "runtime", "evaluation", "images", "train")
    with runner.stage("train", parameters, config.PIPELINE) as stage:
        runtime, train = cfg.runtime, cfg.train
        device, data = runtime.start(), open_dataset(runner.out("split"))
        items, _ = hold_out(data.indices("train"), data.labels, cfg.images.held_out, cfg.seed)
        stage.run.dataset("outputs/split/splits.parquet", "training", images=len(items))
        val = EvaluationBatches(data, data.indices("val"), cfg.evaluation.batch, runtime.workers)
        trainer = Trainer("train", cfg, data, device, stage.checkpoint, stage.run)

        with seeding.torch_seed(cfg.seed, "weights"):
            model = OneShot(cfg.space, len(data.classes))
        loss = largest_loss(model, train.largest.label_smoothing)
        first = trainer.fit("largest", "largest", model, loss, items, train.largest)
        sorting = sort_model(model, loss, data, items, cfg, device, stage.checkpoint)
        teacher = copy.deepcopy(model)
        largest = extract(teacher, cfg.space.largest()).to(memory_format=runtime.memory_format)
        metrics = {"teacher_top1": top1(largest, runtime.to_device(val, device))}
        save_weights(config.TEACHER, largest)
        print(f"train: the largest network, trained by itself: top-1 {metrics['teacher_top1']:.2f} %", flush=True)

        loss = multi_path_loss(model, teacher, train.multi_path.label_smoothing, cfg.seed)
        second = trainer.fit("multi_path", "multi_path", model, loss, items, train.multi_path)
        largest = extract(model, cfg.space.largest()).to(memory_format=runtime.memory_format)
        metrics["largest_top1"] = top1(largest, runtime.to_device(val, device))
        save_weights(config.WEIGHTS, model)
        rows = [*first.rows(training="largest"), *second.rows(training="multi_path")]
        pd.DataFrame(rows).to_csv(stage.out / "history.csv", index=False)
        stage.finish({**metrics, "seconds": first.seconds + sorting + second.seconds})


def sort_model(
    model: OneShot,
    loss: Loss,
    data: ImageDataset,
    items: np.ndarray,
    cfg: HardcoreNasParams,
    device: torch.device,
    checkpoint: Checkpoint,
) -> float:
    """Sort the model's channels by |weight * gradient| on a share of the images; returns the seconds that this took."""
    if (state := checkpoint.load("sorted.pt")) is None:
        began = time.monotonic()
        chosen = seeding.generator(cfg.seed, "sorted on").choice(items, max(1, round(cfg.train.sorted_on * len(items))), replace=False)
        images = EvaluationBatches(data, chosen, cfg.train.largest.batch, cfg.runtime.workers)
        sort_channels(model, importance(model, loss, cfg.runtime.to_device(images, device)))
        state = {"weights": model.state_dict(), "seconds": time.monotonic() - began}
        checkpoint.save(state, "sorted.pt")
    model.load_state_dict(state["weights"])
    return state["seconds"]


if __name__ == "__main__":
    runner.execute(main)
