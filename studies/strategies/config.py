"""What the stages of the comparison of strategies share: its parameters, its MLflow runs, and how a supernet is measured.

The pipeline is studies/strategies/dvc.yaml, its parameters are beside it. Stages run from the
project's root and write below studies/strategies/outputs.
"""

import hashlib
import itertools
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field, create_model
from sklearn.model_selection import train_test_split

from nas.cost.table import CostTable
from nas.data.dataset import ImageDataset
from nas.data.splits import Parts
from nas.evaluation.evaluate import Scorer
from nas.evaluation.metrics import search_metrics
from nas.models.supernet import Supernet
from nas.runtime import params, processes, seeding
from nas.runtime.checkpoint import Checkpoint
from nas.runtime.progress import progress
from nas.sampling.attentive import FORMS, Strategy, StrategyName, parse_strategy
from nas.sampling.exact import ExactSampler
from nas.sampling.uniform import Unconstrained
from nas.search import evolution
from nas.search.archive import Archive
from nas.search.loop import search
from nas.search.problem import Problem, cost_objective, score_objective
from nas.spaces import encoding, mbconv
from nas.spaces.mbconv import SearchSpace
from nas.stages import runner, split
from nas.tracking import provenance, session
from nas.tracking.session import Group, StageRun
from nas.training.losses import DistillationLoss
from nas.training.recipe import Recipe, Runtime
from nas.training.trainer import Epoch, Trainer

PIPELINE = Path("studies/strategies")
FILE = PIPELINE / "params.yaml"
OUTPUTS = PIPELINE / "outputs"
FLAT = "-flat"  # a strategy's name that ends so draws its cost targets alike from all buckets
VARIED = ("strategies", "distillations", "seeds", "losses", "scratch", "report")  # others belong to the same comparison
EVALUATED = 0  # seed of what is alike for all seeds: the architectures measured, and which half the predictor is fitted to


class Pretrain(params.Section):
    """Section `pretrain`."""

    epochs: Annotated[int, Field(ge=1)]
    subnetworks: Annotated[int, Field(ge=8)]  # measured; half of them for the predictor
    trees: Annotated[int, Field(ge=1)]
    max_depth: Annotated[int, Field(ge=1)]


class Continued(params.Section):
    """Section `continued`."""

    epochs: Annotated[int, Field(ge=1)]


class Train(params.Section):
    """Section `train`."""

    epochs: Annotated[int, Field(ge=1)]
    bucket_mflops: Annotated[float, Field(gt=0)]  # costs are rounded to this


class Measure(params.Section):
    """Section `measure`: the evaluation budget of every trained supernet."""

    buckets: Annotated[int, Field(ge=2)]  # of equal width, from the cheapest architecture to the most expensive
    architectures: Annotated[int, Field(ge=4)]  # a bucket, the same for all
    mutations: Annotated[int, Field(ge=0)]  # a round
    crossovers: Annotated[int, Field(ge=0)]  # a round
    rounds: Annotated[int, Field(ge=0)]
    mutation_probability: Annotated[float, Field(gt=0, le=1)]  # a gene
    parents_mflops: Annotated[float, Field(gt=0)]  # one parent per bucket of this width


class Scratch(params.Section):
    """Section `scratch`."""

    strategy: str  # whose families are trained alone
    models: Annotated[int, Field(ge=1)]


class Report(params.Section):
    """Section `report`."""

    trial_samples: Annotated[int, Field(ge=2)]  # architectures drawn per cost target for Figure 8
    pool: Annotated[int, Field(ge=1)]  # architectures behind the paper's sampler in Figure 8


@dataclass(frozen=True)
class Settings:
    """All of studies/strategies/params.yaml."""

    strategies: tuple[str, ...]
    distillations: tuple[str, ...]  # names in losses
    seeds: tuple[int, ...]
    losses: dict[str, DistillationLoss]
    space: SearchSpace
    wide_space: SearchSpace
    runtime: Runtime
    recipe: Recipe
    evaluation: runner.Evaluation
    pretrain: Pretrain
    continued: Continued
    train: Train
    measure: Measure
    scratch: Scratch
    report: Report

    def sections(self, *names: str) -> dict[str, Any]:
        """For MLflow's parameters: the spaces by their names."""
        found = {name: getattr(self, name) for name in names}
        return {name: value.name if isinstance(value, SearchSpace) else value for name, value in found.items()}


SECTIONS = {
    "runtime": Runtime,
    "recipe": Recipe,
    "evaluation": runner.Evaluation,
    "pretrain": Pretrain,
    "continued": Continued,
    "train": Train,
    "measure": Measure,
    "scratch": Scratch,
    "report": Report,
}


def read(file: Path = FILE) -> Settings:
    """The parameters, all checked before the first long stage.

    Raises:
        ParamsError: for the first mistake; names the key.
        FileNotFoundError, ValueError: for a search space that is missing or wrong.
    """
    found = params.read_all(file)
    params.check_keys(found, {"strategies", "distillations", "seeds", "losses", "space", "wide_space", *SECTIONS}, file)
    strategies, seeds = found["strategies"], found["seeds"]
    if not isinstance(strategies, list) or len(set(map(str, strategies))) != len(strategies) or not strategies:
        raise params.ParamsError(f"{file}: strategies: a list of different names is needed; found {strategies!r}")
    for name in strategies:
        form(name, file)
    if strategies[0] != "uniform":
        raise params.ParamsError(f"{file}: strategies: the first is what the others are compared with, uniform; found {strategies[0]!r}")
    if not isinstance(seeds, list) or not seeds or any(type(s) is not int or s < 0 for s in seeds) or len(set(seeds)) != len(seeds):
        raise params.ParamsError(f"{file}: seeds: different whole numbers from 0 on are needed; found {seeds!r}")
    sections = {name: params.check(found, name, model, file) for name, model in SECTIONS.items()}
    if sections["scratch"].strategy not in strategies:
        raise params.ParamsError(f"{file}: scratch.strategy: {sections['scratch'].strategy!r} is none of strategies, {strategies}")
    losses, distillations = _losses(found, file)
    return Settings(
        tuple(strategies),
        distillations,
        tuple(seeds),
        losses,
        mbconv.load(str(found["space"])),
        mbconv.load(str(found["wide_space"])),
        **sections,
    )


def _losses(found: dict, file: Path) -> tuple[dict[str, DistillationLoss], tuple[str, ...]]:
    """The sections `losses` and `distillations`, checked."""
    names, told = found["losses"], f"{file}: losses: a distillation loss for each of some names is needed"
    if not isinstance(names, dict) or not names:
        raise params.ParamsError(f"{told}; found {names!r}")
    model = create_model("Losses", __base__=params.Section, **{str(name): (DistillationLoss, ...) for name in names})
    checked = params.check(found, "losses", model, file)
    losses = {str(name): getattr(checked, str(name)) for name in names}
    listed = found["distillations"]
    if not isinstance(listed, list) or len(set(map(str, listed))) != len(listed) or not listed:
        raise params.ParamsError(f"{file}: distillations: a list of different names is needed; found {listed!r}")
    for name in listed:
        if name not in losses:
            raise params.ParamsError(f"{file}: distillations: {name!r} is none of losses, {list(losses)}")
    for name in listed[1:]:
        if len(different := differences(losses[listed[0]], losses[name])) != 1:
            raise params.ParamsError(
                f"{file}: losses.{name}: it has to differ from losses.{listed[0]}, the first of distillations, in one key, or nothing "
                f"could be said of any; it differs in {sorted(different) or 'none'}"
            )
    return losses, tuple(listed)


def differences(a: DistillationLoss, b: DistillationLoss) -> dict[str, Any]:
    """Key -> value of b where it is another than that of a, or a has no such key."""
    first, second = a.model_dump(), b.model_dump()
    return {key: second.get(key) for key in {**first, **second} if first.get(key) != second.get(key)}


def form(name: str, file: Path = FILE) -> tuple[StrategyName, str, bool]:
    """What a strategy's name says, the name without its ending, and whether its cost targets are uniform over the buckets.

    Raises:
        ParamsError: for a name that is none.
    """
    base = str(name).removesuffix(FLAT)
    flat = base != name
    try:
        found = parse_strategy(base)
    except ValueError:
        raise params.ParamsError(
            f"{file}: strategies: there is no strategy {name!r}; the forms are {FORMS}; those with K candidates also with the ending {FLAT}"
        ) from None
    if flat and (found.rule == "uniform" or found.offline):
        raise params.ParamsError(f"{file}: strategies: {name!r}: {base} draws no cost targets, so there are none to be flat; take {base!r}")
    return found, base, flat


@contextmanager
def stage(
    name: str, key: str, parameters: dict[str, Any], title: str, strategy: str | None = None, shares: bool = False
) -> Iterator[tuple[StageRun, Checkpoint, Path]]:
    """An MLflow run under the comparison's, a locked checkpoint folder, and the output folder.

    Args:
        name: the stage in studies/strategies/dvc.yaml.
        key: which of its matrix, e.g. "bestup-3-loss-0"; empty for a stage that is no matrix.
        parameters: for MLflow.
        title: the run's name.
        strategy: tag to compare by.
        shares: its parameters and final figures are put on the comparison's run too.
    """
    out = OUTPUTS / name / key
    out.mkdir(parents=True, exist_ok=True)
    address = f"{PIPELINE}/dvc.yaml:{name}" + (f"@{key}" if key else "")
    alike = {key: value for key, value in params.read_all(FILE).items() if key not in VARIED}
    text = json.dumps([alike, os.environ.get("DVC_EXP_NAME")], sort_keys=True)
    group = Group("strategies", hashlib.sha256(text.encode()).hexdigest()[:16])
    with (
        session.stage_run(address, parameters, strategy, title=title, group=group, shares=shares) as run,
        Checkpoint(processes.project_root(), f"strategies-{name}-{key}", provenance.fingerprint(address)) as checkpoint,
    ):
        yield run, checkpoint, out


def finish(out: Path, metrics: dict[str, float], run: StageRun, prefix: str) -> None:
    """Write the folder's metrics.json and log the same figures to MLflow as `<prefix>/<key>`."""
    rounded = {key: value if isinstance(value, int) else round(float(value), 6) for key, value in metrics.items()}
    runner.write_json(out / "metrics.json", rounded)
    run.summary(rounded, prefix)
    print(f"{out.relative_to(OUTPUTS)}: " + ", ".join(f"{key} {value:g}" for key, value in rounded.items()), flush=True)


def partition(data: ImageDataset, seed: int) -> ImageDataset:
    """The images to train on and those that sub-networks are measured on divided anew by the seed, in the same numbers.

    AttentiveNAS (arXiv:2011.09011), section 4.3 and appendix B: 90 % and 10 %, different partitions by different seeds.
    """
    items, measured = data.indices("train", "predictor"), len(data.indices("predictor"))
    kept, held_out = train_test_split(items, test_size=measured, random_state=seed, stratify=data.labels[items])
    parts = data.parts.parts.copy()
    parts[kept], parts[held_out] = "train", "predictor"
    return replace(data, parts=Parts(parts))


def training(
    supernet: Supernet,
    data: ImageDataset,
    items: np.ndarray,
    strategy: Strategy,
    epochs: int,
    seed: int,
    place: str,
    s: Settings,
    run: StageRun,
    checkpoint: Checkpoint,
) -> list[Epoch]:
    """A `Trainer` with the comparison's settings; curves go to MLflow as `<place>/...`."""
    device = s.runtime.start()
    run.dataset(str(split.OUT / "splits.parquet"), "training", images=len(items))
    batches = runner.training_batches(data, items, s.recipe, s.runtime, device, seed)
    val = runner.scorer(supernet, data, "val", s.evaluation, s.runtime, device, seed)
    trainer = Trainer(supernet, batches, strategy, epochs=epochs, seed=seed, place=place, recipe=s.recipe, runtime=s.runtime, device=device)
    return trainer.fit(checkpoint, lambda: runner.ends(val), runner.curves(run, place, data, s.recipe))


def edges(table: CostTable, buckets: int) -> np.ndarray:
    """(buckets + 1,) costs that bound buckets of equal width from the cheapest architecture to the most expensive."""
    return np.linspace(table.smallest, table.largest, buckets + 1)


def architectures(table: CostTable, m: Measure) -> np.ndarray:
    """(n, genes): the smallest and the largest, then distinct ones uniform within each bucket of cost; alike for every supernet.

    Raises:
        ValueError: if a bucket has fewer architectures than asked for.
    """
    sampler = ExactSampler(table, (table.largest - table.smallest) / m.buckets)
    found = dict.fromkeys(map(tuple, encoding.to_genes([table.space.smallest(), table.space.largest()]).tolist()))
    bounds = edges(table, m.buckets)
    for number, (low, high) in enumerate(itertools.pairwise(bounds)):
        rng, wanted = seeding.generator(EVALUATED, "measured architectures", number), len(found) + m.architectures
        for _ in range(100):
            drawn = sampler.draw_between(low, high, m.architectures, rng).rows
            for row in map(tuple, drawn.tolist()):
                if len(found) < wanted:
                    found[row] = None
        if len(found) < wanted:
            raise ValueError(
                f"{FILE}: measure.architectures: {m.architectures} different ones asked for, but space {table.space.name!r} has fewer "
                f"between {low:.4g} and {high:.4g} MFLOPs; lower it or measure.buckets"
            )
    return np.array(list(found), dtype=np.int64)


def measure(table: CostTable, score: Scorer, m: Measure, seed: int, run: StageRun, checkpoint: Checkpoint) -> Archive:
    """The same architectures for all (round 0), then evolution from them; goes on from the last whole round.

    AttentiveNAS (arXiv:2011.09011), section 4.2: as many architectures are evaluated for each strategy.
    """
    rows = architectures(table, m)
    settings = evolution.EvolutionConfig(
        population=len(rows),
        mutations=m.mutations,
        crossovers=m.crossovers,
        rounds=m.rounds,
        mutation_probability=m.mutation_probability,
        bucket=m.parents_mflops,
    )

    def scores(archs: list[mbconv.Arch]) -> list[float]:
        return list(progress(score.top1_all(archs), "measure: sub-networks", len(archs)))

    def save(evaluated: Archive, number: int) -> None:
        found = search_metrics(evaluated.cost, evaluated.score, (table.smallest, table.largest), 100 / score.supernet.classes)
        run.log({f"search/{key}": value for key, value in found.items()}, number)
        arrays = {key: torch.from_numpy(np.ascontiguousarray(a)) for key, a in evaluated.to_arrays().items()}
        checkpoint.save(arrays, "evaluated.pt")

    if state := checkpoint.load("evaluated.pt"):
        evaluated = Archive(**{key: tensor.numpy() for key, tensor in state.items()})
    else:
        top1 = np.array(scores(encoding.from_genes(rows)))
        evaluated = Archive(rows, table.costs(rows), top1, np.zeros(len(rows), dtype=np.int64))
        save(evaluated, 0)
    method = evolution.Evolution(settings, Unconstrained(table.space))  # the draw is of no use: the population is there already
    problem = Problem(table.space, (cost_objective("mflops", table), score_objective()))
    return search(method, problem, score=scores, seed=seed, archive=evaluated, on_round=save)
