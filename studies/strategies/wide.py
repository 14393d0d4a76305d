"""Stage wide of the comparison: uniform sampling on a space of wider, shallower networks (AttentiveNAS, appendix D, Figure 9).

Trained and measured as `train` does it, beside whose runs of the strategy `uniform` it stands.

    python -m studies.strategies.wide SEED

writes   wide/<seed>/weights.safetensors, history.csv, evaluated.parquet, metrics.json: as train/<strategy>-<seed>/
"""

import sys

from nas.stages.errors import user_errors
from studies.strategies import config
from studies.strategies.train import train_and_measure


def main(seed: int) -> None:
    s = config.read()
    parameters = {"seed": seed} | s.sections("wide_space", "recipe", "runtime", "evaluation", "train", "measure")
    with config.stage("wide", str(seed), parameters, f"uniform on {s.wide_space.name}, seed {seed}") as (run, checkpoint, out):
        train_and_measure("uniform", seed, s.wide_space, s, run, checkpoint, out)


if __name__ == "__main__":
    user_errors(lambda: main(int(sys.argv[1])))
