"""Stage pretrain of the comparison: a supernet with uniform sampling on one partition of the images, and its predictor.

AttentiveNAS (arXiv:2011.09011), section 4.3 and appendix B: partition, weights and batches depend on the seed; the same
architectures are evaluated for every seed, on the images that this partition holds out.

    python -m studies.strategies.pretrain SEED

writes   pretrain/<seed>/weights.safetensors
         pretrain/<seed>/measured.parquet   a column per gene, mflops, top1 (percent), part (fit | test), predicted (percent)
         pretrain/<seed>/forest.npz         fitted to the part `fit`
         pretrain/<seed>/metrics.json       {"kendall_tau", "kendall_tau_flops"}, on the part `test`
"""

import sys

import numpy as np
import pandas as pd

from nas.cost import flops
from nas.data.dataset import open_dataset
from nas.evaluation.evaluate import build_scorer
from nas.evaluation.measure import distinct_rows, measure_top1
from nas.evaluation.metrics import kendall_tau
from nas.models.supernet import new_supernet
from nas.runtime import seeding
from nas.runtime.checkpoint import save_weights
from nas.sampling.attentive import Uniform
from nas.sampling.uniform import Unconstrained
from nas.search.predictor import Forest
from nas.stages import runner
from studies.strategies import config, training


def main(seed: int) -> None:
    cfg = config.read()
    parameters = {"seed": seed} | cfg.sections("space", "recipe", "runtime", "evaluation", "pretrain")
    names = {"key": str(seed), "title": f"pretrain, seed {seed}", "prefix": "fit_predictor"}
    with runner.stage("pretrain", parameters, config.PIPELINE, **names, shares=False) as stage:
        data = training.partition(open_dataset(runner.out("split")), seed)
        supernet = new_supernet(cfg.space, len(data.classes), seed, cfg.recipe.zero_init)
        strategy = Uniform(Unconstrained(cfg.space))
        training.train_supernet(supernet, data, data.indices("train"), strategy, cfg.pretrain.epochs, seed, "pretrain", cfg, stage)
        save_weights(stage.out / "weights.safetensors", supernet)

        rows = distinct_rows(cfg.space, cfg.pretrain.subnetworks, training.COMMON_SEED)
        score = build_scorer(supernet, data, "predictor", cfg.evaluation, cfg.runtime, cfg.runtime.start(), seed)
        measured = pd.DataFrame(rows, columns=[g.name for g in cfg.space.genes])
        measured["mflops"] = flops.table(cfg.space, len(data.classes)).costs(rows)
        measured["top1"] = measure_top1(rows, score, stage.checkpoint)
        order = seeding.generator(training.COMMON_SEED, "fit_predictor").permutation(len(rows))
        fit, test = np.split(order, [len(rows) // 2])
        forest = Forest.fit(
            rows[fit], measured["top1"].to_numpy()[fit], trees=cfg.pretrain.trees, max_depth=cfg.pretrain.max_depth, seed=seed
        )
        forest.save(stage.out / "forest.npz")
        measured["part"] = pd.Series("test", index=measured.index).where(~measured.index.isin(fit), "fit")
        measured["predicted"] = forest.predict(rows)
        measured.to_parquet(stage.out / "measured.parquet", index=False)
        tested = measured.iloc[test]
        metrics = {
            "kendall_tau": kendall_tau(tested["predicted"], tested["top1"]),
            "kendall_tau_flops": kendall_tau(tested["mflops"], tested["top1"]),
        }
        stage.finish(metrics)


if __name__ == "__main__":
    runner.execute(lambda: main(int(sys.argv[1])))
