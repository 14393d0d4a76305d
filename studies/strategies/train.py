"""Stage train of the comparison: one strategy, one seed; a supernet trained, then measured like all others.

AttentiveNAS (arXiv:2011.09011), sections 4.2 and 4.4. Equal steps, the same architectures measured, an equal budget
of evolution from there, on the part `search`.

    python -m studies.strategies.train STRATEGY SEED

reads    pretrain/<seed>/forest.npz (strategies that end in -acc)
writes   train/<strategy>-<seed>/weights.safetensors, history.csv
         train/<strategy>-<seed>/evaluated.parquet   one column a gene, mflops, top1 (percent), round (0: alike for all)
         train/<strategy>-<seed>/metrics.json        {"hypervolume", "top1_low", "top1_best", "evaluations"}
"""

import sys
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from nas.cost import flops
from nas.cost.table import CostTable
from nas.data.dataset import open_dataset
from nas.evaluation.metrics import search_metrics
from nas.runtime import seeding
from nas.runtime.checkpoint import Checkpoint, save_weights
from nas.sampling import attentive
from nas.sampling.exact import ExactSampler
from nas.sampling.target import UnderTarget
from nas.sampling.uniform import Unconstrained
from nas.search.predictor import Forest
from nas.spaces.mbconv import SearchSpace
from nas.stages import runner as main_pipeline
from nas.stages import split
from nas.stages.errors import user_errors
from nas.tracking.session import StageRun
from studies.strategies import config


def main(name: str, seed: int) -> None:
    s = config.read()
    parameters = {"strategy": name, "seed": seed} | s.sections("space", "recipe", "runtime", "evaluation", "train", "measure")
    with config.stage("train", f"{name}-{seed}", parameters, f"{name}, seed {seed}", strategy=name) as (run, checkpoint, out):
        train_and_measure(name, seed, s.space, s, run, checkpoint, out)


def train_and_measure(
    name: str, seed: int, space: SearchSpace, s: config.Settings, run: StageRun, checkpoint: Checkpoint, out: Path
) -> None:
    """Everything between an open stage and its outputs, on any space."""
    data = open_dataset(split.OUT)
    table = flops.table(space, len(data.classes))
    config.architectures(table, s.measure)  # asks for too many: said before training
    supernet = main_pipeline.new_supernet(space, len(data.classes), seed, s.recipe.zero_init)
    items = data.indices("train", "predictor")
    strategy = sampling(name, table, s.train, seed)
    history = config.training(supernet, data, items, strategy, s.train.epochs, seed, "train", s, run, checkpoint)
    save_weights(out / "weights.safetensors", supernet)
    pd.DataFrame(asdict(row) for row in history).to_csv(out / "history.csv", index=False)

    score = main_pipeline.scorer(supernet, data, "search", s.evaluation, s.runtime, s.runtime.start(), seed)
    evaluated = config.measure(table, score, s.measure, seed, run, checkpoint)
    frame = evaluated.to_frame(space)
    frame.to_parquet(out / "evaluated.parquet", index=False)
    run.table(frame, "evaluated.json")
    found = search_metrics(evaluated.cost, evaluated.score, (table.smallest, table.largest), 100 / len(data.classes))
    config.finish(out, found | {"evaluations": len(evaluated)}, run, "search")


def sampling(name: str, table: CostTable, p: config.Train, seed: int) -> attentive.Strategy:
    """The strategy of that name, with its proposal and, where it needs one, its seed's predictor."""
    form, base, flat = config.form(name)
    if form.rule == "uniform":
        return attentive.Uniform(Unconstrained(table.space))
    sampler = ExactSampler(table, p.bucket_mflops)
    prior = sampler.prior().flat() if flat else sampler.prior()
    predict = Forest.load(config.OUTPUTS / "pretrain" / str(seed) / "forest.npz").predict if form.needs_predictor else None
    offline = seeding.generator(seed, "train", "offline set")
    return attentive.build_strategy(base, UnderTarget(sampler, prior), table=table, predict=predict, rng=offline)


if __name__ == "__main__":
    user_errors(lambda: main(sys.argv[1], int(sys.argv[2])))
