"""Stage alphanet: the supernet of the main pipeline's stage train with another distillation loss.

AlphaNet (arXiv:2102.07954): an adaptive alpha-divergence replaces KL. Everything else, the seed included, follows params.yaml, so the
two trainings start from the same weights and use the same images and proposals.

params   params.yaml: seed, space, recipe, runtime, evaluation, train; studies/methods/params.yaml: alphanet
reads    outputs/split/, outputs/fit_predictor/forest.npz (strategies that end in -acc)
writes   alphanet/weights.safetensors
         alphanet/early.safetensors   the weights after epoch `search_epoch`
         alphanet/history.csv         as outputs/train/history.csv
         alphanet/metrics.json        {"top1_smallest", "top1_largest"}  percent, part `val`
"""

import shutil
from dataclasses import asdict

import pandas as pd

from nas.cost import flops
from nas.data.dataset import open_dataset
from nas.evaluation.evaluate import build_scorer
from nas.models.supernet import new_supernet
from nas.runtime import params
from nas.runtime.checkpoint import save_weights
from nas.stages import config as main_config
from nas.stages import runner
from nas.training.curves import log_epochs
from nas.training.recipe import training_batches
from nas.training.strategy import Train, strategy_from_params
from nas.training.trainer import Epoch, Trainer
from studies.methods import config


def main() -> None:
    cfg, distillation = params.read("train", Train), config.read().alphanet.distillation
    recipe, runtime, evaluation = main_config.shared()
    recipe = recipe.model_copy(update={"distillation": distillation})
    seed, space = params.seed(), main_config.search_space()
    parameters = {"seed": seed, "space": space.name, "recipe": recipe, "runtime": runtime, "evaluation": evaluation, "train": cfg}
    with runner.stage("alphanet", parameters, config.PIPELINE) as stage:
        device, data = runtime.start(), open_dataset(runner.out("split"))
        supernet = new_supernet(space, len(data.classes), seed, recipe.zero_init)
        items = data.indices("train", "predictor", *(["search"] if data.search_in_training else []))
        stage.run.dataset(str(runner.out("split") / "splits.parquet"), "training", images=len(items))
        val = build_scorer(supernet, data, "val", evaluation, runtime, device, seed)
        log = log_epochs(stage.run, "alphanet", data, recipe)

        def on_epoch(row: Epoch) -> None:
            log(row)
            if row.epoch == cfg.search_epoch:
                save_weights(stage.checkpoint.folder / "early.safetensors", supernet)

        trainer = Trainer(
            supernet,
            training_batches(data, items, recipe, runtime, device, seed),
            strategy_from_params(cfg, flops.table(space, len(data.classes)), seed, runner.out("fit_predictor") / "forest.npz"),
            epochs=cfg.epochs,
            seed=seed,
            place="train",  # the draws of stage train
            recipe=recipe,
            runtime=runtime,
            device=device,
        )
        trainer.fit(stage.checkpoint, val.top1_ends, on_epoch)
        save_weights(stage.out / "weights.safetensors", supernet)
        shutil.copyfile(stage.checkpoint.folder / "early.safetensors", stage.out / "early.safetensors")
        pd.DataFrame(asdict(row) for row in trainer.history).to_csv(stage.out / "history.csv", index=False)
        stage.finish(trainer.metrics())


if __name__ == "__main__":
    runner.execute(main)
