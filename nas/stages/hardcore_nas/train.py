"""Stage train of HardCoRe-NAS: the weights of the one-shot model (sections 3.3 and 4.2.2).

The largest network by itself; its channels sorted; then all networks, one for each image, with the largest one as it was
before as their teacher. The images that the search goes by are not seen. Batch norms keep running statistics, as the paper's.

params   pipelines/hardcore_nas/params.yaml: seed, space, runtime, evaluation, images, train
reads    outputs/split/
writes   train/weights.safetensors   of the one-shot model
         train/teacher.safetensors   of the largest network by itself
         train/history.csv           training ("largest" or "multi_path"), epoch, loss (mean, nats)
         train/metrics.json          {"largest_alone_top1" and "largest_top1" (percent, images of the part val: before and
                                     after training all networks), "seconds"}
"""

import copy
import time

import numpy as np
import pandas as pd
import torch

from nas.data import loader
from nas.data.dataset import open_dataset
from nas.differentiable.hardcore_nas.one_shot import OneShot, extract, sort_channels
from nas.differentiable.hardcore_nas.training import Loss, importance, largest_loss, multi_path_loss
from nas.evaluation.evaluate import top1
from nas.runtime import seeding
from nas.runtime.checkpoint import Checkpoint, save_weights
from nas.stages import split
from nas.stages.errors import user_errors
from nas.stages.hardcore_nas import config
from nas.stages.pipelines import divided, placed

WEIGHTS = config.PIPELINE.outputs / "train" / "weights.safetensors"
TEACHER = config.PIPELINE.outputs / "train" / "teacher.safetensors"


def main() -> None:
    s = config.read()
    p = s.train
    parameters = s.sections("seed", "space", "runtime", "evaluation", "images", "train")
    with config.PIPELINE.stage("train", parameters) as (run, checkpoint, out):
        device, data = s.runtime.start(), open_dataset(split.OUT)
        items, _ = divided(data, data.indices("train"), s.images.held_out, s.seed)
        run.dataset(str(split.OUT / "splits.parquet"), "training", images=len(items))
        watched = loader.EvaluationBatches(data, data.indices("val"), s.evaluation.batch, s.runtime.workers)
        trainer = config.Trainer("train", s, data, device, checkpoint, run)

        with config.drawn(s.seed, "weights"):
            model = OneShot(s.space, len(data.classes))
        loss = largest_loss(model, p.largest.label_smoothing)
        alone = trainer.fit("largest", "largest", model, loss, items, p.largest)
        sorting = sort(model, loss, data, items, s, device, checkpoint)
        teacher = copy.deepcopy(model)
        largest = extract(teacher, s.space.largest()).to(memory_format=s.runtime.memory_format)
        metrics = {"largest_alone_top1": top1(largest, placed(watched, s.runtime, device))}
        save_weights(TEACHER, largest)
        print(f"train: the largest network alone: top-1 {metrics['largest_alone_top1']:.2f} %", flush=True)

        loss = multi_path_loss(model, teacher, p.multi_path.label_smoothing, s.seed)
        together = trainer.fit("multi_path", "multi_path", model, loss, items, p.multi_path)
        shared = extract(model, s.space.largest()).to(memory_format=s.runtime.memory_format)
        metrics["largest_top1"] = top1(shared, placed(watched, s.runtime, device))
        save_weights(WEIGHTS, model)
        rows = [*alone.rows(training="largest"), *together.rows(training="multi_path")]
        pd.DataFrame(rows).to_csv(out / "history.csv", index=False)
        metrics["seconds"] = alone.seconds + sorting + together.seconds
        config.PIPELINE.finish(out, metrics, run)


def sort(
    model: OneShot,
    loss: Loss,
    data: loader.ImageDataset,
    items: np.ndarray,
    s: config.Settings,
    device: torch.device,
    checkpoint: Checkpoint,
) -> float:
    """Sort the model's channels by |weight * gradient| on a share of the images; returns the seconds that it took."""
    if (state := checkpoint.load("sorted.pt")) is None:
        began = time.monotonic()
        some = seeding.generator(s.seed, "sorted on").choice(items, max(1, round(s.train.sorted_on * len(items))), replace=False)
        images = loader.EvaluationBatches(data, some, s.train.largest.batch, s.runtime.workers)
        sort_channels(model, importance(model, loss, placed(images, s.runtime, device)))
        state = {"weights": model.state_dict(), "seconds": time.monotonic() - began}
        checkpoint.save(state, "sorted.pt")
    model.load_state_dict(state["weights"])
    return state["seconds"]


if __name__ == "__main__":
    user_errors(main)
