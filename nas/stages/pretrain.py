"""Stage pretrain: constraint-free supernet training with uniform sampling, then the accuracy of random sub-networks.

AttentiveNAS (arXiv:2011.09011), section 4.3: 30 epochs on 90 % of the training images; 1024
sub-networks measured on the other 10 %.

params   params.yaml: seed, space, recipe, runtime, evaluation, pretrain
reads    outputs/split/
writes   outputs/pretrain/weights.safetensors, history.csv
         outputs/pretrain/measured.parquet   one column per gene, mflops, top1 (percent, part `predictor`)
         outputs/pretrain/metrics.json       {"top1_smallest", "top1_largest"}  percent, part `val`
"""

from dataclasses import asdict

import pandas as pd

from nas.cost import flops
from nas.data.dataset import open_dataset
from nas.evaluation.evaluate import build_scorer
from nas.evaluation.measure import distinct_rows, measure_top1
from nas.models.supernet import new_supernet
from nas.runtime import distributed, params
from nas.runtime.checkpoint import need_space, save_weights
from nas.sampling.attentive import Uniform
from nas.sampling.uniform import Unconstrained
from nas.stages import config, runner
from nas.training.curves import log_epochs
from nas.training.recipe import training_batches
from nas.training.trainer import Trainer


def main() -> None:
    cfg = params.read("pretrain", config.Pretrain)
    recipe, runtime, evaluation = config.shared()
    seed, space = params.seed(), config.search_space()
    sections = {"seed": seed, "space": space.name, "recipe": recipe, "runtime": runtime, "evaluation": evaluation, "pretrain": cfg}
    with runner.stage("pretrain", sections) as stage:
        device = runtime.start()
        data = open_dataset(runner.out("split"))
        supernet = new_supernet(space, len(data.classes), seed, recipe.zero_init)
        need_space(stage.out, 8 * sum(t.nbytes for t in supernet.parameters()), "stage pretrain")
        stage.run.dataset("outputs/split/splits.parquet", "training", images=len(data.indices("train")))
        parts = ("train", "search") if data.search_in_training else ("train",)
        batches = training_batches(data, data.indices(*parts), recipe, runtime, device, seed)
        val = build_scorer(supernet, data, "val", evaluation, runtime, device, seed)
        trainer = Trainer(
            supernet,
            batches,
            Uniform(Unconstrained(space)),
            epochs=cfg.epochs,
            seed=seed,
            place="pretrain",
            recipe=recipe,
            runtime=runtime,
            device=device,
        )
        trainer.fit(stage.checkpoint, val.top1_ends, log_epochs(stage.run, "pretrain", data, recipe))
        rows = distinct_rows(space, cfg.subnetworks, seed)
        top1 = measure_top1(rows, build_scorer(supernet, data, "predictor", evaluation, runtime, device, seed), stage.checkpoint)
        if distributed.is_first():
            save_weights(stage.out / "weights.safetensors", supernet)
            pd.DataFrame(asdict(row) for row in trainer.history).to_csv(stage.out / "history.csv", index=False)
            measured = pd.DataFrame(rows, columns=[g.name for g in space.genes])
            measured["mflops"] = flops.table(space, len(data.classes)).costs(rows)
            measured["top1"] = top1
            measured.to_parquet(stage.out / "measured.parquet", index=False)
            stage.run.table(measured, "measured.json")
            stage.finish(trainer.metrics() | data.broken.metrics())


if __name__ == "__main__":
    runner.execute(main, config.check_all)
