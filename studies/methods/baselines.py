"""Stage baselines: torchvision's networks trained from scratch, as TF-NAS's networks are.

params   studies/methods/params.yaml: baselines; pipelines/tf_nas/params.yaml: seed, runtime, evaluation, train
reads    outputs/split/
writes   baselines/weights.safetensors   of all networks, calibrated, as <number>.<parameter>
         baselines/metrics.json          {"<number>_top1"}, percent, images of the part `val`; in the order of the parameters
"""

import numpy as np
from torch import nn

from nas.data.dataset import open_dataset
from nas.runtime.checkpoint import save_weights
from nas.stages import runner
from nas.stages.tf_nas import config as tf_nas
from nas.training.scratch import ScratchTrainer
from studies.methods import config
from studies.methods.torchvision_networks import build


def main() -> None:
    choices, tf_cfg = config.read().baselines.networks, tf_nas.read()
    parameters = tf_cfg.sections("seed", "runtime", "evaluation", "train") | {"baselines": {"networks": [c.name for c in choices]}}
    with runner.stage("baselines", parameters, config.PIPELINE) as stage:
        device, data = tf_cfg.runtime.start(), open_dataset(runner.out("split"))
        trainer = ScratchTrainer(
            tf_cfg.train, tf_nas.LEARNING_RATE, tf_cfg.seed, tf_cfg.runtime, tf_cfg.evaluation, device, stage.checkpoint
        )
        items, val = data.indices("train"), data.indices("val")
        stage.run.dataset(str(runner.out("split") / "splits.parquet"), "training", images=len(items))
        networks, metrics = nn.ModuleList(), {}
        for number, choice in enumerate(choices):
            networks.append(trainer.train(choice.name, build(choice, len(data.classes)), data, items))
            correct = trainer.predict(networks[-1], data, val) == data.labels[val]
            metrics[f"{number}_top1"] = 100 * float(np.mean(correct))
            print(f"baselines {choice.name}: top-1 {metrics[f'{number}_top1']:.2f} %", flush=True)
        save_weights(stage.out / "weights.safetensors", networks)
        stage.finish(metrics)


if __name__ == "__main__":
    runner.execute(main)
