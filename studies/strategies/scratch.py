"""Stage scratch of the comparison: models of a family with inherited weights against the same networks trained from scratch.

The premise of two-stage NAS (AttentiveNAS, arXiv:2011.09011, sections 1 and 2) is that no retraining is needed. Each network is
trained from scratch on the same images, for as many epochs, with the recipe's optimiser and label smoothing, without dropout, as
sub-networks are in the supernet (appendix A). Both are evaluated on test images, on which nothing was chosen.

    python -m studies.strategies.scratch SEED

reads    train/<strategy>-<seed>/
writes   scratch/<seed>/models.csv    model, mflops, top1_inherited, top1_scratch (percent, test)
         scratch/<seed>/metrics.json   {"top1_inherited", "top1_scratch"}, means over the models
"""

import sys
from dataclasses import replace

import pandas as pd
import torch

from nas.data import loader
from nas.data.dataset import ImageDataset, open_dataset
from nas.evaluation.evaluate import Scorer, build_scorer, calibrate, calibration_set
from nas.models.extract import Network, extract
from nas.models.supernet import new_supernet
from nas.runtime import seeding
from nas.runtime.checkpoint import Checkpoint, load_weights
from nas.runtime.io import read_table
from nas.runtime.progress import progress
from nas.search.archive import Archive
from nas.search.family import pareto_family
from nas.spaces.mbconv import Arch, SearchSpace
from nas.stages import runner
from nas.training.finetune import FineTuningConfig, Hyperparameters, fine_tune
from studies.strategies import config
from studies.strategies.config import StrategiesParams


def main(seed: int) -> None:
    cfg = config.read()
    trained = config.PIPELINE.out("train", f"{cfg.scratch.strategy}-{seed}")
    parameters = {"seed": seed} | cfg.sections("space", "recipe", "runtime", "evaluation", "train", "scratch")
    names = {"key": str(seed), "title": f"trained from scratch, seed {seed}"}
    with runner.stage("scratch", parameters, config.PIPELINE, **names, shares=False) as stage:
        device, data = cfg.runtime.start(), open_dataset(runner.out("split"))
        supernet = new_supernet(cfg.space, len(data.classes), seed).to(device)
        load_weights(trained / "weights.safetensors", supernet)
        test = build_scorer(supernet, data, "test", cfg.evaluation, cfg.runtime, device, seed)
        evaluated = read_table(trained / "evaluated.parquet", "dvc repro --force studies/strategies/dvc.yaml:train")
        models = pareto_family(Archive.from_frame(evaluated, cfg.space), "a", size=cfg.scratch.models)
        rows = []
        for i, model in enumerate(progress(models, "scratch: networks trained from scratch", len(models))):
            scratch = train_from_scratch(model.arch, f"a{i}", data, cfg, seed, device, test, stage.checkpoint)
            rows.append({"model": f"a{i}", "mflops": model.cost, "top1_inherited": test.top1(model.arch), "top1_scratch": scratch})
        results = pd.DataFrame(rows)
        results.to_csv(stage.out / "models.csv", index=False)
        stage.run.table(results, "models.json")
        stage.finish({key: results[key].mean() for key in ("top1_inherited", "top1_scratch")})


def train_from_scratch(
    arch: Arch,
    name: str,
    data: ImageDataset,
    cfg: StrategiesParams,
    seed: int,
    device: torch.device,
    test: Scorer,
    checkpoint: Checkpoint,
) -> float:
    """Test top-1 (percent) of one network trained from scratch; resumes from its last epoch, and is not trained twice."""
    if done := checkpoint.load(f"{name}-done.pt"):
        return done["top1"]
    network = new_network(cfg.space, arch, len(data.classes), seeding.key(seed, "alone", name) % 2**31, cfg.recipe.zero_init)
    recipe, items = cfg.recipe, data.indices("train", "predictor")
    batches = loader.TrainingBatches(data, items, recipe.batch, recipe.augmentation, seed, cfg.runtime.workers, device.type == "cuda")
    tuning = FineTuningConfig(
        epochs=cfg.train.epochs,
        batch=recipe.batch,
        momentum=recipe.momentum,
        label_smoothing=recipe.label_smoothing,
        dropout=0.0,
        warmup_epochs=recipe.warmup_epochs,
        clip_value=recipe.clip_value,
    )
    setting = Hyperparameters(recipe.learning_rate * recipe.batch / 256, recipe.weight_decay)
    state = checkpoint.load(f"{name}.pt")
    try:
        fine_tune(network, batches, setting, tuning, seed, cfg.runtime, device, state, lambda state: checkpoint.save(state, f"{name}.pt"))
    except FloatingPointError:
        raise FloatingPointError(f"{name}, trained from scratch, diverged; lower {config.FILE}: recipe.learning_rate") from None
    calibration = calibration_set(data, cfg.evaluation, seed, "train", cfg.runtime.workers)
    calibrate(network, (b.images.to(device, memory_format=cfg.runtime.memory_format) for b in calibration))
    top1 = test.top1_of(network)
    checkpoint.save({"top1": top1}, f"{name}-done.pt")
    return top1


def new_network(space: SearchSpace, arch: Arch, classes: int, seed: int, zero_init: bool) -> Network:
    """The architecture with weights drawn for its own sizes: extracted from a supernet that contains no other."""
    stages = tuple(
        replace(offered, widths=(a.width,), depths=(a.depth,), kernels=(a.kernel,), expansions=(a.expansion,))
        for offered, a in zip(space.stages, arch.stages)
    )
    single = replace(space, resolutions=(arch.resolution,), stem_widths=(arch.stem,), stages=stages, head_widths=(arch.head,))
    return extract(new_supernet(single, classes, seed, zero_init), arch)


if __name__ == "__main__":
    runner.execute(lambda: main(int(sys.argv[1])))
