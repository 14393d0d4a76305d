"""Stage wide of the comparison: uniform sampling on a space of wider, shallower networks (AttentiveNAS, appendix D, Figure 9).

Training and evaluation are those of stage train, whose runs of the strategy `uniform` are the counterpart.

    python -m studies.strategies.wide SEED

writes   wide/<seed>/weights.safetensors, history.csv, evaluated.parquet, metrics.json: as train/<strategy>-<seed>/
"""

import sys

from nas.stages import runner
from studies.strategies import config, training


def main(seed: int) -> None:
    cfg = config.read()
    parameters = {"seed": seed} | cfg.sections("wide_space", "recipe", "runtime", "evaluation", "train", "measure")
    names = {"key": str(seed), "title": f"uniform on {cfg.wide_space.name}, seed {seed}", "prefix": "search"}
    with runner.stage("wide", parameters, config.PIPELINE, **names, shares=False) as stage:
        stage.finish(training.train_and_measure("uniform", seed, cfg.wide_space, cfg, stage))


if __name__ == "__main__":
    runner.execute(lambda: main(int(sys.argv[1])))
