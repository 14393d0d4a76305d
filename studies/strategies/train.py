"""Stage train of the comparison: a supernet trained by one strategy with one seed, then evaluated like all others.

    python -m studies.strategies.train STRATEGY SEED

reads    pretrain/<seed>/forest.npz (strategies that end in -acc)
writes   train/<strategy>-<seed>/weights.safetensors, history.csv
         train/<strategy>-<seed>/evaluated.parquet   a column per gene, mflops, top1 (percent), round (0: common to all)
         train/<strategy>-<seed>/metrics.json        {"hypervolume", "top1_low", "top1_best", "evaluations"}
"""

import sys

from nas.stages import runner
from studies.strategies import config, training


def main(name: str, seed: int) -> None:
    cfg = config.read()
    parameters = {"strategy": name, "seed": seed} | cfg.sections("space", "recipe", "runtime", "evaluation", "train", "measure")
    names = {"key": f"{name}-{seed}", "title": f"{name}, seed {seed}", "prefix": "search", "strategy": name}
    with runner.stage("train", parameters, config.PIPELINE, **names, shares=False) as stage:
        stage.finish(training.train_and_measure(name, seed, cfg.space, cfg, stage))


if __name__ == "__main__":
    runner.execute(lambda: main(sys.argv[1], int(sys.argv[2])))
