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
from typing import Annotated, Literal, Self

import pandas as pd
from pydantic import Field, model_validator

from nas.cost import flops
from nas.cost.table import CostTable
from nas.data.dataset import open_dataset
from nas.runtime import distributed, params, seeding
from nas.runtime.checkpoint import need_space, save_weights
from nas.sampling.attentive import Strategy, Uniform, build_strategy, parse_strategy
from nas.sampling.exact import ExactSampler
from nas.sampling.factorised import FactorisedSampler
from nas.sampling.target import UnderTarget
from nas.sampling.uniform import Unconstrained
from nas.search.predictor import Forest
from nas.stages import runner, split
from nas.stages.check import check_all
from nas.stages.errors import user_errors
from nas.training.trainer import Epoch, Trainer

OUT = runner.OUTPUTS / "train"
FOREST = runner.OUTPUTS / "fit_predictor" / "forest.npz"


class Train(params.Section):
    """Section `train`."""

    epochs: Annotated[int, Field(ge=1)]
    search_epoch: Annotated[int, Field(ge=1)]  # whose weights are kept for search.weights: early; 30 of 360 in the paper
    strategy: str  # uniform, bestup-3-loss, worstup-50-acc, bestup-1m-acc, ...
    targets: Literal["prior", "uniform"]  # cost targets as often as the space has them (the paper), or all buckets alike
    sampler: Literal["exact", "paper"]  # how architectures under a target are drawn
    bucket_mflops: Annotated[float, Field(gt=0)]  # costs are rounded to this; 25 in the paper
    pool: Annotated[int, Field(ge=1)]  # architectures behind the paper's sampler, m; 1e6 in the paper

    @model_validator(mode="after")
    def _search_epoch_is_trained(self) -> Self:
        if self.search_epoch > self.epochs:
            raise ValueError(f"search_epoch {self.search_epoch} comes after the last of {self.epochs} epochs")
        return self


def main() -> None:
    p = params.read("train", Train)
    recipe, runtime, evaluation = runner.shared()
    seed, space = runner.seed(), runner.search_space()
    sections = {"seed": seed, "space": space.name, "recipe": recipe, "runtime": runtime, "evaluation": evaluation, "train": p}
    with runner.stage("train", sections, p.strategy) as (run, checkpoint):
        device = runtime.start()
        data = open_dataset(split.OUT)
        supernet = runner.new_supernet(space, len(data.classes), seed, recipe.zero_init)
        need_space(OUT, 10 * sum(t.nbytes for t in supernet.parameters()), "stage train")
        parts = ("train", "predictor", "search") if data.search_in_training else ("train", "predictor")
        items = data.indices(*parts)
        run.dataset("outputs/split/splits.parquet", "training", images=len(items))
        batches = runner.training_batches(data, items, recipe, runtime, device, seed)
        val = runner.scorer(supernet, data, "val", evaluation, runtime, device, seed)
        log = runner.curves(run, "train", data, recipe)

        def on_epoch(row: Epoch) -> None:
            log(row)
            if row.epoch == p.search_epoch and distributed.is_first():
                save_weights(checkpoint.folder / "early.safetensors", supernet)

        trainer = Trainer(
            supernet,
            batches,
            sampling(p, flops.table(space, len(data.classes)), seed),
            epochs=p.epochs,
            seed=seed,
            place="train",
            recipe=recipe,
            runtime=runtime,
            device=device,
        )
        trainer.fit(checkpoint, lambda: runner.ends(val), on_epoch)
        if distributed.is_first():
            save_weights(OUT / "weights.safetensors", supernet)
            shutil.copyfile(checkpoint.folder / "early.safetensors", OUT / "early.safetensors")
            pd.DataFrame(asdict(row) for row in trainer.history).to_csv(OUT / "history.csv", index=False)
            runner.finish("train", trainer.metrics() | data.broken.metrics(), run)


def sampling(p: Train, table: CostTable, seed: int) -> Strategy:
    """The strategy of the parameters, with its proposal and, where it needs one, its predictor."""
    form = parse_strategy(p.strategy)
    if form.rule == "uniform":
        return Uniform(Unconstrained(table.space))
    rng = seeding.generator(seed, "train", "pool")
    exact = ExactSampler(table, p.bucket_mflops)
    sampler = exact if p.sampler == "exact" else FactorisedSampler(table, p.bucket_mflops, p.pool, rng)
    prior = sampler.prior() if p.targets == "prior" else sampler.prior().flat()
    predict = Forest.load(FOREST).predict if form.needs_predictor else None
    offline = seeding.generator(seed, "train", "offline set")
    return build_strategy(p.strategy, UnderTarget(sampler, prior), table=table, predict=predict, rng=offline)


if __name__ == "__main__":
    user_errors(lambda: distributed.launch(main, check_all))
