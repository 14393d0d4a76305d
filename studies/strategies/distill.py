"""Stage distill of the comparison: uniform sampling with another distillation loss (AlphaNet's supplement, figures 9 and 10).

Training and evaluation are those of stage train, whose runs of the strategy `uniform` have the loss of `recipe`.

    python -m studies.strategies.distill NAME SEED

writes   distill/<name>-<seed>/weights.safetensors, history.csv, evaluated.parquet, metrics.json: as train/<strategy>-<seed>/
"""

import sys
from dataclasses import replace

from nas.stages import runner
from studies.strategies import config, training


def main(name: str, seed: int) -> None:
    cfg = config.read()
    recipe = cfg.recipe.model_copy(update={"distillation": cfg.losses[name]})
    cfg = replace(cfg, recipe=recipe)
    parameters = {"distillation": name, "seed": seed} | cfg.sections("space", "recipe", "runtime", "evaluation", "train", "measure")
    strategy = f"uniform, {name}"
    names = {"key": f"{name}-{seed}", "title": f"{strategy}, seed {seed}", "prefix": "search", "strategy": strategy}
    with runner.stage("distill", parameters, config.PIPELINE, **names, shares=False) as stage:
        stage.finish(training.train_and_measure("uniform", seed, cfg.space, cfg, stage))


if __name__ == "__main__":
    runner.execute(lambda: main(sys.argv[1], int(sys.argv[2])))
