"""What the stages share: opening a run, the sections that several of them read, and building the supernet."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from scipy.stats import binom

from nas.data.dataset import ImageDataset
from nas.data.loader import EvaluationBatches, TrainingBatches
from nas.evaluation.evaluate import Scorer
from nas.models.supernet import Supernet
from nas.runtime import distributed, params, processes, seeding
from nas.runtime.checkpoint import Checkpoint
from nas.runtime.distributed import RankZeroCheckpoint
from nas.spaces import mbconv
from nas.spaces.mbconv import SearchSpace
from nas.stages.check import check_all
from nas.tracking import provenance, session
from nas.tracking.session import StageRun
from nas.training.recipe import Recipe, Runtime
from nas.training.recovery import ADVICE
from nas.training.trainer import Epoch

OUTPUTS = Path("outputs")


class Evaluation(params.Section):
    """Section `evaluation`: how sub-networks are measured."""

    batch: Annotated[int, Field(ge=2)]  # images at once
    calibration_batches: Annotated[int, Field(ge=1)]  # training batches for the batch-norm statistics; 64 in the paper


def seed() -> int:
    """The top-level `seed` of params.yaml.

    Raises:
        ParamsError: if it is no whole number from 0 on.
    """
    return params.check_seed(params.read_all())


def search_space() -> SearchSpace:
    """The search space that params.yaml names."""
    return mbconv.load(str(params.value("space")))


def shared() -> tuple[Recipe, Runtime, Evaluation]:
    """The sections `recipe`, `runtime` and `evaluation`."""
    return params.read("recipe", Recipe), params.read("runtime", Runtime), params.read("evaluation", Evaluation)


@contextmanager
def stage(name: str, parameters: dict[str, Any], strategy: str | None = None) -> Iterator[tuple[StageRun, Checkpoint | RankZeroCheckpoint]]:
    """An MLflow run and a locked checkpoint folder for the stage; makes its output folder. Of several processes the first has both.

    Raises:
        ParamsError: for a mistake anywhere in params.yaml, so that none is found after long work only.
    """
    check_all()
    out = OUTPUTS / name
    out.mkdir(parents=True, exist_ok=True)
    with session.stage_run(name, parameters, strategy) as run:
        if not distributed.is_first():
            yield run, RankZeroCheckpoint(None)
            return
        with Checkpoint(processes.project_root(), name, provenance.fingerprint(name)) as checkpoint:
            yield run, checkpoint if distributed.world_size() == 1 else RankZeroCheckpoint(checkpoint)


def new_supernet(searched: SearchSpace, classes: int, number: int, zero_init: bool = True) -> Supernet:
    """A supernet with weights drawn from the seed; torch's global random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seeding.key(number, "weights"))
        return Supernet(searched, classes, zero_init)


def calibration(data: ImageDataset, evaluation: Evaluation, number: int, part: str, workers: int) -> EvaluationBatches:
    """Batches of training images, without augmentation, for batch-norm statistics; fewer if there are not so many."""
    items = data.indices(part)
    n = whole_batches(min(len(items), evaluation.batch * evaluation.calibration_batches), evaluation.batch)
    chosen = seeding.generator(number, "calibration").choice(items, n, replace=False)
    return EvaluationBatches(data, chosen, evaluation.batch, workers)


def whole_batches(images: int, batch: int) -> int:
    """So many images that no smaller batch is left over: each batch counts alike in the batch-norm statistics."""
    return images - images % batch if images > batch else images


def scorer(
    supernet: Supernet, data: ImageDataset, part: str, evaluation: Evaluation, runtime: Runtime, device: torch.device, number: int
) -> Scorer:
    """Top-1 on one part of the data, calibrated on images of the part `train`."""
    held_out = EvaluationBatches(data, data.indices(part), evaluation.batch, runtime.workers)
    return Scorer(
        supernet,
        calibration(data, evaluation, number, "train", runtime.workers),
        held_out,
        device,
        runtime.memory_format,
        runtime.evaluators,
    )


def ends(score: Scorer) -> tuple[float, float]:
    """Top-1 of the smallest and the largest sub-network, percent."""
    searched = score.supernet.space
    smallest, largest = score.top1_all([searched.smallest(), searched.largest()])
    return smallest, largest


def training_batches(
    data: ImageDataset, items: np.ndarray, recipe: Recipe, runtime: Runtime, device: torch.device, number: int
) -> TrainingBatches:
    """This process's share of the batches of the recipe, augmented.

    Raises:
        ValueError: if there are fewer images than fill a batch, or a batch cannot be divided among the processes.
    """
    share = distributed.batch_share(recipe.batch)
    return TrainingBatches(data, items, recipe.batch, recipe.augmentation, number, runtime.workers, device.type == "cuda", share)


def curves(run: StageRun, place: str, data: ImageDataset, recipe: Recipe) -> Callable[[Epoch], None]:
    """Logs each epoch as `<place>/...`, and says once if the largest network is no better than guessing after the warm-up."""
    images, told = len(data.indices("val")), False
    guessing = 100 * binom.ppf(0.99, images, 1 / len(data.classes)) / images  # percent that 99 of 100 guessers stay below

    def on_epoch(row: Epoch) -> None:
        nonlocal told
        run.log({f"{place}/{key}": value for key, value in asdict(row).items() if key != "epoch"}, row.epoch)
        if row.epoch > recipe.warmup_epochs and row.top1_largest <= guessing and not told:
            found = (
                f"epoch {row.epoch}: the largest network names {row.top1_largest:.1f} % rightly, as guessing does (up to {guessing:.1f} %)"
            )
            print(f"{place}: {found}. Has the supernet collapsed? {ADVICE}", flush=True)
            run.tag(collapsed=found)
            told = True

    return on_epoch


def write_json(path: Path, found: object) -> None:
    """JSON that a person can read and git can compare."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=2, ensure_ascii=False, default=_plain) + "\n")


def finish(name: str, metrics: dict[str, float], run: StageRun) -> None:
    """Write outputs/<stage>/metrics.json and log the same figures to MLflow; the first of several processes does."""
    if not distributed.is_first():
        return
    rounded = {key: value if isinstance(value, int) else round(float(value), 6) for key, value in metrics.items()}
    write_json(OUTPUTS / name / "metrics.json", rounded)
    run.summary(rounded, name)
    print(f"{name}: " + ", ".join(f"{key} {value:g}" for key, value in rounded.items()), flush=True)


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is not JSON")
