"""Scaling from one to two processes, and the estimated compute budget of a preset.

python -m benchmarks.scale            images/s of supernet training, sub-networks/s of evaluation, time of a gradient exchange,
                                      on the default space; medians of interleaved runs
python -m benchmarks.scale budget [PRESET] [TRAINING] [EVALUATION]
                                      FLOPs, bytes and hours of presets/PRESET.yaml on ImageNet, for GPUs that reach these
                                      TFLOP/s in training (bf16) and in evaluation (fp32); see docs/scale.md
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image

from benchmarks.timing import best_of, machine, show
from nas.cost import flops
from nas.data.dataset import ImageDataset
from nas.data.loader import EvaluationBatches, TrainingBatches
from nas.data.sources import ArrayImages, FolderImages
from nas.data.splits import Parts
from nas.evaluation.evaluate import Scorer
from nas.models.supernet import Supernet
from nas.runtime import distributed, params, presets
from nas.runtime.distributed import Launcher
from nas.sampling.attentive import BestUp
from nas.sampling.uniform import Unconstrained
from nas.spaces import encoding, mbconv
from nas.training.recipe import Recipe, Runtime
from nas.training.trainer import Trainer

TURNS = 3
VARIANTS = ((1, 1), (1, 2), (2, 1))  # processes, threads per operator in training, or evaluators in parallel
SPACE, CLASSES, SIDE = "nas/spaces/glyphs.yaml", 34, 24
STEPS, EPOCHS, ARCHS, IMAGES, EXCHANGES = 12, 3, 48, 512, 50
JPEGS = 64

IMAGENET = 1_281_167  # training images
REACHED = (5.8, 4.0)  # TFLOP/s of an A100 in training and evaluation; sources in docs/scale.md
GPUS = (8, 64)
GBIT_S = 100.0  # bandwidth of the network that exchanges gradients


# One turn, in every process


class NoCheckpoint:
    """A checkpoint that stores nothing: the disk is not measured."""

    def save(self, *_: object) -> None:
        pass

    def load(self) -> None:
        return None


def training(supernet: Supernet, data: ImageDataset, recipe: Recipe, runtime: Runtime) -> float:
    """Images per second over all processes, without the first epoch."""
    ends = []
    batches = TrainingBatches(
        data, data.indices("train"), recipe.batch, recipe.augmentation, 0, share=distributed.batch_share(recipe.batch)
    )
    trainer = Trainer(
        supernet, batches, BestUp(Unconstrained(supernet.space), 3),
        epochs=EPOCHS, seed=0, place="train", recipe=recipe, runtime=runtime, device=torch.device("cpu"),
    )  # fmt: skip
    trainer.fit(NoCheckpoint(), lambda: (0.0, 0.0), lambda _: ends.append(time.perf_counter()))
    return (EPOCHS - 1) * batches.steps * recipe.batch / (ends[-1] - ends[0])


def evaluation(supernet: Supernet, data: ImageDataset, evaluators: int) -> float:
    """Sub-networks per second over all processes, without the first few."""
    batches = EvaluationBatches(data, data.indices("train")[:IMAGES], 256)
    scorer = Scorer(supernet, batches, batches, torch.device("cpu"), evaluators=evaluators)
    rng = np.random.default_rng(0)
    first, archs = ([supernet.space.random(rng) for _ in range(n)] for n in (4, ARCHS))
    list(scorer.top1_all(first))
    start = time.perf_counter()
    list(scorer.top1_all(archs))
    return ARCHS / (time.perf_counter() - start)


def exchange(supernet: Supernet) -> float:
    """Median time of averaging all gradients, seconds."""
    for parameter in supernet.parameters():
        parameter.grad = torch.ones_like(parameter)
    seconds = []
    for _ in range(EXCHANGES):
        distributed.mean(torch.zeros(1))  # synchronises the start
        start = time.perf_counter()
        distributed.average_gradients(supernet)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def turn(threads: int) -> None:
    """One turn; the first process prints its results as JSON."""
    recipe = params.read("recipe", Recipe)
    runtime = Runtime(device="cpu", threads=threads, evaluators=1, workers=0, precision="fp32", channels_last=True)
    runtime.start()
    n = STEPS * recipe.batch
    pixels = np.random.default_rng(0).integers(256, size=(n, SIDE, SIDE, 3), dtype=np.uint8)
    names = tuple(str(i) for i in range(CLASSES))
    images = ArrayImages(pixels, np.arange(n) % CLASSES, names)
    data = ImageDataset("noise", "Noise", images, names, (0.5,) * 3, (0.3,) * 3, SIDE, Parts(np.repeat("train", n)), False)
    torch.manual_seed(0)
    supernet = Supernet(mbconv.load(SPACE), CLASSES, recipe.zero_init)
    sys.stdout, output = sys.stderr, sys.stdout
    results = {"training": training(supernet, data, recipe, runtime)}
    torch.set_num_threads(1)
    results |= {"evaluation": evaluation(supernet, data, threads), "exchange": exchange(supernet)}
    if distributed.is_first():
        print(json.dumps(results), file=output, flush=True)


def compare() -> None:
    """All variants in turns."""
    results = {variant: [] for variant in VARIANTS}
    for _ in range(TURNS):
        for processes, threads in VARIANTS:
            launcher = Launcher(processes=processes, nodes=1, rendezvous=None, restarts=0)
            start = launcher.command("benchmarks.scale") if processes > 1 else ["-m", "benchmarks.scale"]
            words = [sys.executable, *start, "turn", str(threads)]
            done = subprocess.run(words, env=os.environ | launcher.environment(), capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr)
            results[processes, threads].append(json.loads(done.stdout.splitlines()[-1]))
    medians = {v: {key: statistics.median(t[key] for t in turns) for key in turns[0]} for v, turns in results.items()}
    one = medians[1, 1]
    for key, title, unit in (("training", "supernet training", "images/s"), ("evaluation", "evaluation", "sub-networks/s")):
        what = "threads" if key == "training" else "evaluators"
        show(
            f"{title}, default space",
            {f"processes {p}, {what} {t}": f"{m[key]:.1f} {unit}, x {m[key] / one[key]:.2f}" for (p, t), m in medians.items()},
        )
    size = 4 * weights(SPACE, CLASSES)
    show("gradients, 2 processes", {"bytes an exchange": f"{size / 1e6:.2f} MB", "time": f"{1e3 * medians[2, 1]['exchange']:.1f} ms"})
    machine()


# On paper


def weights(name: str, classes: int) -> int:
    """Parameters of a supernet."""
    with torch.device("meta"):
        return sum(p.numel() for p in Supernet(mbconv.load(name), classes).parameters())


@dataclass(frozen=True)
class Work:
    """Number of images that a job processes, and the FLOP of one; a multiply-accumulate is two FLOP."""

    title: str
    images: float
    flop: float
    trains: bool = False  # in bf16; evaluation is in fp32


def merged(name: str) -> dict:
    """params.yaml with a preset applied; the file is unchanged."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "params.yaml"
        shutil.copyfile(params.FILE, file)
        presets.apply(name, file)
        return params.read_all(file)


def forward(p: dict) -> dict[str, float]:
    """MFLOPs (multiply-accumulates) of one image, forward."""
    table = flops.table(mbconv.load(p["space"]), 1000)
    drawn = table.costs(encoding.random_genes(table.space, 100_000, np.random.default_rng(0))).mean()
    return {"smallest": table.smallest, "drawn": float(drawn), "largest": table.largest}


def jobs(p: dict, mflops: dict[str, float]) -> list[Work]:
    """The long jobs. Backward costs twice forward; bestup-3-loss scores its candidates forward."""
    recipe, split, evaluated = p["recipe"], p["split"], p["evaluation"]
    drawn, sampled = 2e6 * mflops["drawn"], recipe["sampled"]
    step = 3 * (2e6 * (mflops["smallest"] + mflops["largest"]) + sampled * drawn)
    candidates = int(p["train"]["strategy"].split("-")[1]) if p["train"]["strategy"].endswith("-loss") else 0
    searched = IMAGENET * split["search"] + evaluated["batch"] * evaluated["calibration_batches"]
    measured = IMAGENET * split["predictor"] + evaluated["batch"] * evaluated["calibration_batches"]
    e = p["search"]["evolution"]
    evaluations = e["population"] + e["rounds"] * (e["mutations"] + e["crossovers"])
    return [
        Work("pretrain", p["pretrain"]["epochs"] * IMAGENET * (1 - split["val"] - split["predictor"]), step, trains=True),
        Work(f"its {p['pretrain']['subnetworks']:,} sub-networks measured", p["pretrain"]["subnetworks"] * measured, drawn),
        Work("train", p["train"]["epochs"] * IMAGENET * (1 - split["val"]), step + candidates * sampled * drawn, trains=True),
        Work(f"search, {evaluations:,} sub-networks", evaluations * searched, drawn),
        Work("random search as baseline (search.baseline)", evaluations * searched, drawn),
    ]


def decoding(recipe: Recipe, side: int) -> dict[str, float]:
    """Images a second that one core decodes and prepares, by the package's loaders; synthetic JPEGs of 500 x 375."""
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{i}.jpg" for i in range(JPEGS)]
        for path, pixels in zip(paths, np.random.default_rng(0).integers(256, size=(JPEGS, 47, 63, 3), dtype=np.uint8)):
            Image.fromarray(pixels).resize((500, 375), Image.Resampling.BICUBIC).save(path, quality=92)
        images = FolderImages(paths, np.zeros(JPEGS, dtype=np.int64), ("one",))
        data = ImageDataset("jpegs", "JPEGs", images, ("one",), (0.5,) * 3, (0.3,) * 3, side, Parts(np.repeat("train", JPEGS)), False)
        items = data.indices("train")
        ways = {
            "training": TrainingBatches(data, items, JPEGS, recipe.augmentation, 0).epoch(0),
            "evaluation": EvaluationBatches(data, items, JPEGS, keep_mb=0),
        }
        return {name: JPEGS / best_of(lambda batches=batches: list(batches), 1) for name, batches in ways.items()}


def budget(name: str = "imagenet", training: float = REACHED[0], evaluation: float = REACHED[1]) -> None:
    """Print the compute budget, for GPUs that reach these TFLOP/s."""
    p = merged(name)
    recipe, mflops, size = params.check(p, "recipe", Recipe), forward(p), weights(p["space"], 1000)
    show(f"preset {name}: MFLOPs (multiply-accumulates) of an image, forward", {k: f"{v:,.0f}" for k, v in mflops.items()})
    work = jobs(p, mflops)
    print(f"\n{'':42} {'images':>9} {'GFLOP/image':>11} {'EFLOP':>7}" + "".join(f" {f'h, {g} GPUs':>11}" for g in GPUS))
    for w in work:
        seconds = w.images * w.flop / (1e12 * (training if w.trains else evaluation))
        hours = "".join(f" {seconds / g / 3600:11.1f}" for g in GPUS)
        print(f"{w.title:42} {w.images:9.3g} {w.flop / 1e9:11.2f} {w.images * w.flop / 1e18:7.2f}{hours}")
    train = next(w for w in work if w.title == "train")
    steps = int(IMAGENET * (1 - p["split"]["val"])) // recipe.batch
    show(
        "\nbytes and steps",
        {
            "steps an epoch; in train": f"{steps}; {steps * p['train']['epochs']:,}",
            "parameters of the supernet": f"{size:,}",
            "gradients of a step": f"{4 * size / 1e6:.1f} MB",
            "checkpoint: weights and momentum": f"{8 * size / 1e6:.1f} MB",
        },
    )
    rates = decoding(recipe, p["split"]["side"])
    for g in GPUS:
        images = 1e12 * training * g / train.flop
        seconds, wire = recipe.batch / images, 2 * (g - 1) / g * 32 * size / (1e9 * GBIT_S)
        scored = 1e12 * evaluation * g / work[-1].flop
        show(
            f"{g} GPUs that reach {training:g} TFLOP/s in training, {evaluation:g} in evaluation",
            {
                "images/s in train; in evaluation": f"{images:,.0f}; {scored:,.0f}",
                "cores like this one that decode them": f"{images / rates['training']:,.0f}; {scored / rates['evaluation']:,.0f}",
                "a step": f"{seconds:.3f} s",
                f"  its exchange in a ring, {GBIT_S:g} Gbit/s": f"{wire:.4f} s",
                "an epoch, from checkpoint to checkpoint": f"{steps * seconds / 60:.0f} min",
            },
        )
    show("decoding, one core, JPEGs of 500 x 375", {k: f"{v:.0f} images/s" for k, v in rates.items()})
    machine()


def main(words: list[str]) -> None:
    if words[:1] == ["turn"]:
        if distributed.TORCHRUN_VARIABLE in os.environ:
            with distributed.process_group():
                turn(int(words[1]))
        else:
            turn(int(words[1]))
    elif words[:1] == ["budget"]:
        budget(*words[1:2], *map(float, words[2:4]))
    else:
        compare()


if __name__ == "__main__":
    main(sys.argv[1:])
