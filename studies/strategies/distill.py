"""Stage distill of the comparison: uniform sampling with another distillation loss (AlphaNet's supplement, figures 9 and 10).

Trained and measured as `train` does it; its runs of the strategy `uniform`, with the loss of `recipe`, stand beside these.

    python -m studies.strategies.distill NAME SEED

writes   distill/<name>-<seed>/weights.safetensors, history.csv, evaluated.parquet, metrics.json: as train/<strategy>-<seed>/
"""

import sys
from dataclasses import replace

from nas.stages.errors import user_errors
from studies.strategies import config
from studies.strategies.train import train_and_measure


def main(name: str, seed: int) -> None:
    s = config.read()
    recipe = s.recipe.model_copy(update={"distillation": s.losses[name]})
    s = replace(s, recipe=recipe)
    parameters = {"distillation": name, "seed": seed} | s.sections("space", "recipe", "runtime", "evaluation", "train", "measure")
    with config.stage("distill", f"{name}-{seed}", parameters, f"uniform, {name}, seed {seed}", strategy=f"uniform, {name}") as opened:
        train_and_measure("uniform", seed, s.space, s, *opened)


if __name__ == "__main__":
    user_errors(lambda: main(sys.argv[1], int(sys.argv[2])))
