"""Stage baselines: torchvision's networks trained from fresh weights, as TF-NAS's networks are.

params   studies/methods/params.yaml: baselines; pipelines/tf_nas/params.yaml: seed, runtime, evaluation, train
reads    outputs/split/
writes   baselines/weights.safetensors   of all networks, calibrated, as <number>.<parameter>
         baselines/metrics.json          {"<number>_top1"}, percent, images of the part `val`; in the order of the parameters
"""

import numpy as np
from torch import nn

from nas.data.dataset import open_dataset
from nas.runtime.checkpoint import save_weights
from nas.stages import split
from nas.stages.errors import user_errors
from nas.stages.tf_nas import config as tf_nas
from nas.training.scratch import ScratchTrainer
from studies.methods import config
from studies.methods.baseline import build

WEIGHTS = config.PIPELINE.outputs / "baselines" / "weights.safetensors"


def main() -> None:
    choices, s = config.read().baselines.networks, tf_nas.read()
    parameters = s.sections("seed", "runtime", "evaluation", "train") | {"baselines": {"networks": [c.name for c in choices]}}
    with config.PIPELINE.stage("baselines", parameters) as (run, checkpoint, out):
        device, data = s.runtime.start(), open_dataset(split.OUT)
        alone = ScratchTrainer(s.train, tf_nas.LEARNING_RATE, s.seed, s.runtime, s.evaluation, device, checkpoint)
        items, watched = data.indices("train"), data.indices("val")
        run.dataset(str(split.OUT / "splits.parquet"), "training", images=len(items))
        networks, metrics = nn.ModuleList(), {}
        for number, choice in enumerate(choices):
            networks.append(alone.train(choice.name, build(choice, len(data.classes)), data, items))
            right = alone.predict(networks[-1], data, watched) == data.labels[watched]
            metrics[f"{number}_top1"] = 100 * float(np.mean(right))
            print(f"baselines {choice.name}: top-1 {metrics[f'{number}_top1']:.2f} %", flush=True)
        save_weights(WEIGHTS, networks)
        config.PIPELINE.finish(out, metrics, run)


if __name__ == "__main__":
    user_errors(main)
