"""Stage alphanet: the supernet of the main pipeline's stage train, but for what sub-networks learn from the largest one.

AlphaNet (arXiv:2102.07954): an adaptive alpha-divergence takes the place of KL. All else, the seed among it, is as params.yaml
says, so the two trainings start from the same weights and see the same images and proposals.

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
from nas.runtime import params
from nas.runtime.checkpoint import save_weights
from nas.stages import runner as main_pipeline
from nas.stages import split
from nas.stages.errors import user_errors
from nas.training.strategy import Train, build_strategy
from nas.training.trainer import Epoch, Trainer
from studies.methods import config

OUT = config.PIPELINE.outputs / "alphanet"


def main() -> None:
    p, distillation = params.read("train", Train), config.read().alphanet.distillation
    recipe, runtime, evaluation = main_pipeline.shared()
    recipe = recipe.model_copy(update={"distillation": distillation})
    seed, space = main_pipeline.seed(), main_pipeline.search_space()
    parameters = {"seed": seed, "space": space.name, "recipe": recipe, "runtime": runtime, "evaluation": evaluation, "train": p}
    with config.PIPELINE.stage("alphanet", parameters) as (run, checkpoint, out):
        device, data = runtime.start(), open_dataset(split.OUT)
        supernet = main_pipeline.new_supernet(space, len(data.classes), seed, recipe.zero_init)
        items = data.indices("train", "predictor", *(["search"] if data.search_in_training else []))
        run.dataset(str(split.OUT / "splits.parquet"), "training", images=len(items))
        val = main_pipeline.scorer(supernet, data, "val", evaluation, runtime, device, seed)
        log = main_pipeline.curves(run, "alphanet", data, recipe)

        def on_epoch(row: Epoch) -> None:
            log(row)
            if row.epoch == p.search_epoch:
                save_weights(checkpoint.folder / "early.safetensors", supernet)

        trainer = Trainer(
            supernet,
            main_pipeline.training_batches(data, items, recipe, runtime, device, seed),
            build_strategy(p, flops.table(space, len(data.classes)), seed, main_pipeline.out("fit_predictor") / "forest.npz"),
            epochs=p.epochs,
            seed=seed,
            place="train",  # what is drawn is what stage train draws
            recipe=recipe,
            runtime=runtime,
            device=device,
        )
        trainer.fit(checkpoint, lambda: main_pipeline.ends(val), on_epoch)
        save_weights(out / "weights.safetensors", supernet)
        shutil.copyfile(checkpoint.folder / "early.safetensors", out / "early.safetensors")
        pd.DataFrame(asdict(row) for row in trainer.history).to_csv(out / "history.csv", index=False)
        config.PIPELINE.finish(out, trainer.metrics(), run)


if __name__ == "__main__":
    user_errors(main)
