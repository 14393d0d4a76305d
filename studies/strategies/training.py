"""Training and evaluation of a supernet, alike for all strategies, losses and spaces.

AttentiveNAS (arXiv:2011.09011), sections 4.2 and 4.4: equal steps, the same architectures evaluated, an equal budget of evolution from
there, on the part `search`.
"""

import itertools
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import torch
from sklearn.model_selection import train_test_split

from nas.cost import flops
from nas.cost.table import CostTable
from nas.data.dataset import ImageDataset, open_dataset
from nas.data.splits import Parts
from nas.evaluation.evaluate import Scorer, build_scorer
from nas.evaluation.metrics import search_metrics
from nas.models.supernet import Supernet, new_supernet
from nas.runtime import seeding
from nas.runtime.checkpoint import Checkpoint, save_weights
from nas.runtime.progress import progress
from nas.sampling import attentive
from nas.sampling.attentive import Strategy
from nas.sampling.exact import ExactSampler
from nas.sampling.target import UnderTarget
from nas.sampling.uniform import Unconstrained
from nas.search import evolution
from nas.search.archive import Archive
from nas.search.loop import search
from nas.search.predictor import Forest
from nas.search.problem import Problem, cost_objective, score_objective
from nas.spaces import encoding, mbconv
from nas.spaces.mbconv import SearchSpace
from nas.stages import runner
from nas.stages.runner import Stage
from nas.tracking.runs import StageRun
from nas.training.curves import log_epochs
from nas.training.recipe import training_batches
from nas.training.trainer import Epoch, Trainer
from studies.strategies import config
from studies.strategies.comparisons import bucket_edges
from studies.strategies.config import StrategiesParams

COMMON_SEED = 0  # of what is equal for all seeds: the evaluated architectures, and the half that the predictor is fitted to


def partition(data: ImageDataset, seed: int) -> ImageDataset:
    """Training images and those that sub-networks are evaluated on, divided again by the seed into parts of the same sizes.

    AttentiveNAS, section 4.3 and appendix B: 90 % and 10 %, different partitions by different seeds.
    """
    items, held_out_images = data.indices("train", "predictor"), len(data.indices("predictor"))
    training, held_out = train_test_split(items, test_size=held_out_images, random_state=seed, stratify=data.labels[items])
    parts = data.parts.parts.copy()
    parts[training], parts[held_out] = "train", "predictor"
    return replace(data, parts=Parts(parts))


def train_supernet(
    supernet: Supernet,
    data: ImageDataset,
    items: np.ndarray,
    strategy: Strategy,
    epochs: int,
    seed: int,
    place: str,
    cfg: StrategiesParams,
    stage: Stage,
) -> list[Epoch]:
    """Train on the images `items` and return the metrics per epoch, which also go to MLflow as `<place>/...`."""
    device = cfg.runtime.start()
    stage.run.dataset(str(runner.out("split") / "splits.parquet"), "training", images=len(items))
    batches = training_batches(data, items, cfg.recipe, cfg.runtime, device, seed)
    val = build_scorer(supernet, data, "val", cfg.evaluation, cfg.runtime, device, seed)
    trainer = Trainer(
        supernet, batches, strategy, epochs=epochs, seed=seed, place=place, recipe=cfg.recipe, runtime=cfg.runtime, device=device
    )
    return trainer.fit(stage.checkpoint, val.top1_ends, log_epochs(stage.run, place, data, cfg.recipe))


def train_and_measure(name: str, seed: int, space: SearchSpace, cfg: StrategiesParams, stage: Stage) -> dict[str, float]:
    """Train by the strategy of this name on any space, evaluate, write the outputs of stage train, and return its metrics."""
    data = open_dataset(runner.out("split"))
    table = flops.table(space, len(data.classes))
    common_architectures(table, cfg.measure)  # raises before training if a bucket has too few
    supernet = new_supernet(space, len(data.classes), seed, cfg.recipe.zero_init)
    items = data.indices("train", "predictor")
    strategy = sampling(name, table, cfg.train, seed)
    history = train_supernet(supernet, data, items, strategy, cfg.train.epochs, seed, "train", cfg, stage)
    save_weights(stage.out / "weights.safetensors", supernet)
    pd.DataFrame(asdict(row) for row in history).to_csv(stage.out / "history.csv", index=False)

    score = build_scorer(supernet, data, "search", cfg.evaluation, cfg.runtime, cfg.runtime.start(), seed)
    archive = measure(table, score, cfg.measure, seed, stage.run, stage.checkpoint)
    frame = archive.to_frame(space)
    frame.to_parquet(stage.out / "evaluated.parquet", index=False)
    stage.run.table(frame, "evaluated.json")
    metrics = search_metrics(archive.cost, archive.score, (table.smallest, table.largest), 100 / len(data.classes))
    return metrics | {"evaluations": len(archive)}


def sampling(name: str, table: CostTable, cfg: config.Train, seed: int) -> Strategy:
    """The strategy of that name, with its proposal and, where it needs one, its seed's predictor."""
    form, base, flat = config.form(name)
    if form.rule == "uniform":
        return attentive.Uniform(Unconstrained(table.space))
    sampler = ExactSampler(table, cfg.bucket_mflops)
    prior = sampler.prior().flat() if flat else sampler.prior()
    predict = Forest.load(config.PIPELINE.out("pretrain", str(seed)) / "forest.npz").predict if form.needs_predictor else None
    offline = seeding.generator(seed, "train", "offline set")
    return attentive.strategy_by_name(base, UnderTarget(sampler, prior), table=table, predict=predict, rng=offline)


def common_architectures(table: CostTable, cfg: config.Measure) -> np.ndarray:
    """(n, genes): the smallest and the largest, then distinct ones uniform within each bucket of cost; equal for every supernet.

    Raises:
        ValueError: if a bucket has fewer architectures than `measure.architectures`.
    """
    sampler = ExactSampler(table, (table.largest - table.smallest) / cfg.buckets)
    chosen = dict.fromkeys(map(tuple, encoding.to_genes([table.space.smallest(), table.space.largest()]).tolist()))
    for bucket, (low, high) in enumerate(itertools.pairwise(bucket_edges(table, cfg.buckets))):
        rng, total = seeding.generator(COMMON_SEED, "measured architectures", bucket), len(chosen) + cfg.architectures
        for _ in range(100):
            drawn = sampler.draw_between(low, high, cfg.architectures, rng).rows
            for row in map(tuple, drawn.tolist()):
                if len(chosen) < total:
                    chosen[row] = None
        if len(chosen) < total:
            raise ValueError(
                f"{config.FILE}: measure.architectures: {cfg.architectures} different ones are needed, but space {table.space.name!r} "
                f"has fewer between {low:.4g} and {high:.4g} MFLOPs; lower it or measure.buckets"
            )
    return np.array(list(chosen), dtype=np.int64)


def measure(table: CostTable, score: Scorer, cfg: config.Measure, seed: int, run: StageRun, checkpoint: Checkpoint) -> Archive:
    """The common architectures (round 0), then evolution from them; resumes from the last complete round.

    AttentiveNAS, section 4.2: as many architectures are evaluated for each strategy.
    """
    rows = common_architectures(table, cfg)

    def scores(archs: list[mbconv.Arch]) -> list[float]:
        return list(progress(score.top1_all(archs), "measure: sub-networks", len(archs)))

    def save(archive: Archive, number: int) -> None:
        metrics = search_metrics(archive.cost, archive.score, (table.smallest, table.largest), 100 / score.supernet.classes)
        run.log({f"search/{key}": value for key, value in metrics.items()}, len(archive))
        arrays = {key: torch.from_numpy(np.ascontiguousarray(a)) for key, a in archive.to_arrays().items()}
        checkpoint.save(arrays, "evaluated.pt")

    if state := checkpoint.load("evaluated.pt"):
        archive = Archive(**{key: tensor.numpy() for key, tensor in state.items()})
    else:
        top1 = np.array(scores(encoding.from_genes(rows)))
        archive = Archive(rows, table.costs(rows), top1, np.zeros(len(rows), dtype=np.int64))
        save(archive, 0)
    method = evolution.Evolution(_evolution(cfg, len(rows)), Unconstrained(table.space))  # its draw is unused: the population exists
    problem = Problem(table.space, (cost_objective("mflops", table), score_objective()))
    return search(method, problem, score=scores, seed=seed, archive=archive, on_round=save)


def _evolution(cfg: config.Measure, population: int) -> evolution.EvolutionConfig:
    return evolution.EvolutionConfig(
        population=population,
        mutations=cfg.mutations,
        crossovers=cfg.crossovers,
        rounds=cfg.rounds,
        mutation_probability=cfg.mutation_probability,
        bucket=cfg.parents_mflops,
    )
