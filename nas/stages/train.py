"""Stage train: attentive training of the supernet (AttentiveNAS, Algorithm 1).

params   params.yaml: seed, space, recipe, runtime, evaluation, train
reads    outputs/split/, outputs/fit_predictor/forest.npz (strategies that end in -acc)
writes   outputs/train/weights.safetensors
         outputs/train/early.safetensors   the weights after epoch `search_epoch`
         outputs/train/history.csv
         outputs/train/metrics.json        {"top1_smallest", "top1_largest"}  percent, part `val`
"""

import shutil
from dataclasses import asdict

import pandas as pd

from nas.cost import flops
from nas.data.dataset import open_dataset
from nas.evaluation.evaluate import build_scorer
from nas.models.supernet import new_supernet
from nas.runtime import distributed, params
from nas.runtime.checkpoint import need_space, save_weights
from nas.stages import config, runner
from nas.training.curves import log_epochs
from nas.training.recipe import training_batches
from nas.training.strategy import Train, strategy_from_params
from nas.training.trainer import Epoch, Trainer


def main() -> None:
    cfg = params.read("train", Train)
    recipe, runtime, evaluation = config.shared()
    seed, space = params.seed(), config.search_space()
    sections = {"seed": seed, "space": space.name, "recipe": recipe, "runtime": runtime, "evaluation": evaluation, "train": cfg}
    with runner.stage("train", sections, strategy=cfg.strategy) as stage:
        device = runtime.start()
        data = open_dataset(runner.out("split"))
        supernet = new_supernet(space, len(data.classes), seed, recipe.zero_init)
        need_space(stage.out, 10 * sum(t.nbytes for t in supernet.parameters()), "stage train")
        parts = ("train", "predictor", "search") if data.search_in_training else ("train", "predictor")
        items = data.indices(*parts)
        stage.run.dataset("outputs/split/splits.parquet", "training", images=len(items))
        batches = training_batches(data, items, recipe, runtime, device, seed)
        val = build_scorer(supernet, data, "val", evaluation, runtime, device, seed)
        log = log_epochs(stage.run, "train", data, recipe)

        def on_epoch(row: Epoch) -> None:
            log(row)
            if row.epoch == cfg.search_epoch and distributed.is_first():
                save_weights(stage.checkpoint.folder / "early.safetensors", supernet)

        trainer = Trainer(
            supernet,
            batches,
            strategy_from_params(cfg, flops.table(space, len(data.classes)), seed, runner.out("fit_predictor") / "forest.npz"),
            epochs=cfg.epochs,
            seed=seed,
            place="train",
            recipe=recipe,
            runtime=runtime,
            device=device,
        )
        trainer.fit(stage.checkpoint, val.top1_ends, on_epoch)
        if distributed.is_first():
            save_weights(stage.out / "weights.safetensors", supernet)
            shutil.copyfile(stage.checkpoint.folder / "early.safetensors", stage.out / "early.safetensors")
            pd.DataFrame(asdict(row) for row in trainer.history).to_csv(stage.out / "history.csv", index=False)
            stage.finish(trainer.metrics() | data.broken.metrics())


if __name__ == "__main__":
    runner.execute(main, config.check_all)
