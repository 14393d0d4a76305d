"""Stage scratch of the comparison: models of a family with inherited weights against the same networks trained alone.

The claim that two-stage NAS rests on (AttentiveNAS, arXiv:2011.09011, sections 1 and 2): no retraining is needed.
Each network is trained from fresh weights on the same images, for as many epochs, with the recipe's optimiser and
label smoothing, without dropout, as sub-networks are in the supernet (appendix A). Both are measured on test images,
on which nothing was chosen.

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
from nas.data.dataset import open_dataset
from nas.evaluation.evaluate import Scorer, calibrate
from nas.models.extract import Network, extract
from nas.runtime import seeding
from nas.runtime.checkpoint import Checkpoint, load_weights
from nas.runtime.io import read_table
from nas.runtime.progress import progress
from nas.search.archive import Archive
from nas.search.family import pareto_family
from nas.spaces.mbconv import Arch, SearchSpace
from nas.stages import runner as main_pipeline
from nas.stages import split
from nas.stages.errors import user_errors
from nas.training.finetune import FineTuning, Try, fine_tune
from studies.strategies import config


def main(seed: int) -> None:
    s = config.read()
    trained = config.OUTPUTS / "train" / f"{s.scratch.strategy}-{seed}"
    parameters = {"seed": seed} | s.sections("space", "recipe", "runtime", "evaluation", "train", "scratch")
    with config.stage("scratch", str(seed), parameters, f"trained alone, seed {seed}") as (run, checkpoint, out):
        device, data = s.runtime.start(), open_dataset(split.OUT)
        supernet = main_pipeline.new_supernet(s.space, len(data.classes), seed).to(device)
        load_weights(trained / "weights.safetensors", supernet)
        test = main_pipeline.scorer(supernet, data, "test", s.evaluation, s.runtime, device, seed)
        models = pareto_family(
            Archive.from_frame(read_table(trained / "evaluated.parquet", "dvc repro --force studies/strategies/dvc.yaml:train"), s.space),
            "a",
            size=s.scratch.models,
        )
        rows = []
        for i, model in enumerate(progress(models, "scratch: networks trained alone", len(models))):
            alone = train_alone(model.arch, f"a{i}", data, s, seed, device, test, checkpoint)
            rows.append({"model": f"a{i}", "mflops": model.cost, "top1_inherited": test.top1(model.arch), "top1_scratch": alone})
        found = pd.DataFrame(rows)
        found.to_csv(out / "models.csv", index=False)
        run.table(found, "models.json")
        config.finish(out, {key: found[key].mean() for key in ("top1_inherited", "top1_scratch")}, run, "scratch")


def train_alone(
    arch: Arch,
    name: str,
    data: loader.ImageDataset,
    s: config.Settings,
    seed: int,
    device: torch.device,
    test: Scorer,
    checkpoint: Checkpoint,
) -> float:
    """Test top-1 (percent) of one network trained by itself; goes on from its last epoch, and is not trained twice."""
    if done := checkpoint.load(f"{name}-done.pt"):
        return done["top1"]
    network = fresh(s.space, arch, len(data.classes), seeding.key(seed, "alone", name) % 2**31, s.recipe.zero_init)
    recipe, items = s.recipe, data.indices("train", "predictor")
    batches = loader.TrainingBatches(data, items, recipe.batch, recipe.augmentation, seed, s.runtime.workers, device.type == "cuda")
    how = FineTuning(
        epochs=s.train.epochs,
        batch=recipe.batch,
        momentum=recipe.momentum,
        label_smoothing=recipe.label_smoothing,
        dropout=0.0,
        warmup_epochs=recipe.warmup_epochs,
        clip_value=recipe.clip_value,
    )
    setting = Try(recipe.learning_rate * recipe.batch / 256, recipe.weight_decay)
    state = checkpoint.load(f"{name}.pt")
    try:
        fine_tune(network, batches, setting, how, seed, s.runtime, device, state, lambda found: checkpoint.save(found, f"{name}.pt"))
    except FloatingPointError:
        raise FloatingPointError(f"{name}, trained alone, diverged; lower {config.FILE}: recipe.learning_rate") from None
    known = main_pipeline.calibration(data, s.evaluation, seed, "train", s.runtime.workers)
    calibrate(network, (b.images.to(device, memory_format=s.runtime.memory_format) for b in known))
    top1 = test.top1_of(network)
    checkpoint.save({"top1": top1}, f"{name}-done.pt")
    return top1


def fresh(space: SearchSpace, arch: Arch, classes: int, seed: int, zero_init: bool) -> Network:
    """The architecture with weights drawn for its own sizes: cut out of a supernet that holds nothing else."""
    stages = tuple(
        replace(offered, widths=(a.width,), depths=(a.depth,), kernels=(a.kernel,), expansions=(a.expansion,))
        for offered, a in zip(space.stages, arch.stages)
    )
    only = replace(space, resolutions=(arch.resolution,), stem_widths=(arch.stem,), stages=stages, head_widths=(arch.head,))
    return extract(main_pipeline.new_supernet(only, classes, seed, zero_init), arch)


if __name__ == "__main__":
    user_errors(lambda: main(int(sys.argv[1])))
