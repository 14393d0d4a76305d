"""Stage pretrain: constraint-free supernet training with uniform sampling, then the accuracy of random sub-networks.

AttentiveNAS (arXiv:2011.09011), section 4.3: 30 epochs on 90 % of the training images; 1024
sub-networks measured on the other 10 %.

params   params.yaml: seed, space, recipe, runtime, evaluation, pretrain
reads    outputs/split/
writes   outputs/pretrain/weights.safetensors, history.csv
         outputs/pretrain/measured.parquet   one column a gene, mflops, top1 (percent, part `predictor`)
         outputs/pretrain/metrics.json       {"top1_smallest", "top1_largest"}  percent, part `val`
"""

from dataclasses import asdict
from typing import Annotated

import numpy as np
import pandas as pd
from pydantic import Field

from nas.cost import flops
from nas.data.dataset import open_dataset
from nas.evaluation.evaluate import Scorer
from nas.runtime import distributed, params, seeding
from nas.runtime.checkpoint import Checkpoint, need_space, save_weights
from nas.runtime.distributed import RankZeroCheckpoint
from nas.runtime.progress import progress
from nas.sampling.attentive import Uniform
from nas.sampling.uniform import Unconstrained
from nas.spaces import encoding
from nas.spaces.mbconv import SearchSpace
from nas.stages import runner, split
from nas.stages.check import check_all
from nas.stages.errors import user_errors
from nas.training.trainer import Trainer

OUT = runner.OUTPUTS / "pretrain"
SAVE_EVERY = 16  # sub-networks measured between two checkpoints


class Pretrain(params.Section):
    """Section `pretrain`."""

    epochs: Annotated[int, Field(ge=1)]
    subnetworks: Annotated[int, Field(ge=8)]  # measured for the predictor


def main() -> None:
    p = params.read("pretrain", Pretrain)
    recipe, runtime, evaluation = runner.shared()
    seed, space = runner.seed(), runner.search_space()
    sections = {"seed": seed, "space": space.name, "recipe": recipe, "runtime": runtime, "evaluation": evaluation, "pretrain": p}
    with runner.stage("pretrain", sections) as (run, checkpoint):
        device = runtime.start()
        data = open_dataset(split.OUT)
        supernet = runner.new_supernet(space, len(data.classes), seed, recipe.zero_init)
        need_space(OUT, 8 * sum(t.nbytes for t in supernet.parameters()), "stage pretrain")
        run.dataset("outputs/split/splits.parquet", "training", images=len(data.indices("train")))
        parts = ("train", "search") if data.search_in_training else ("train",)
        batches = runner.training_batches(data, data.indices(*parts), recipe, runtime, device, seed)
        val = runner.scorer(supernet, data, "val", evaluation, runtime, device, seed)
        trainer = Trainer(
            supernet,
            batches,
            Uniform(Unconstrained(space)),
            epochs=p.epochs,
            seed=seed,
            place="pretrain",
            recipe=recipe,
            runtime=runtime,
            device=device,
        )
        trainer.fit(checkpoint, lambda: runner.ends(val), runner.curves(run, "pretrain", data, recipe))
        rows = distinct_rows(space, p.subnetworks, seed)
        top1 = measure(rows, runner.scorer(supernet, data, "predictor", evaluation, runtime, device, seed), checkpoint)
        if distributed.is_first():
            save_weights(OUT / "weights.safetensors", supernet)
            pd.DataFrame(asdict(row) for row in trainer.history).to_csv(OUT / "history.csv", index=False)
            measured = pd.DataFrame(rows, columns=[g.name for g in space.genes])
            measured["mflops"] = flops.table(space, len(data.classes)).costs(rows)
            measured["top1"] = top1
            measured.to_parquet(OUT / "measured.parquet", index=False)
            run.table(measured, "measured.json")
            runner.finish("pretrain", trainer.metrics() | data.broken.metrics(), run)


def distinct_rows(space: SearchSpace, n: int, seed: int) -> np.ndarray:
    """n different architectures, uniform over the space: (n, genes).

    Raises:
        ValueError: if the space has fewer.
    """
    if n > space.size:
        raise ValueError(f"params.yaml: pretrain.subnetworks: {n} different ones asked for, space {space.name!r} has {space.size}")
    rng, found = seeding.generator(seed, "pretrain", "measured"), {}
    while len(found) < n:
        found |= dict.fromkeys(map(tuple, encoding.random_genes(space, n, rng).tolist()))
    return np.array(list(found)[:n], dtype=np.int64)


def measure(rows: np.ndarray, score: Scorer, checkpoint: Checkpoint | RankZeroCheckpoint) -> list[float]:
    """Top-1 (percent) of each architecture, going on where a stopped run was."""
    done = (checkpoint.load("measured.pt") or {"top1": []})["top1"]
    rest = score.top1_all(encoding.from_genes(rows[len(done) :]))
    for top1 in progress(rest, "pretrain: sub-networks measured", len(rows), len(done)):
        done.append(top1)
        if len(done) % SAVE_EVERY == 0:
            checkpoint.save({"top1": done}, "measured.pt")
    return done


if __name__ == "__main__":
    user_errors(lambda: distributed.launch(main, check_all))
